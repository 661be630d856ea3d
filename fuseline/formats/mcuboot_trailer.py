"""The MCUboot image trailer: the loader's notes at the end of a slot.

From the slot's end backwards (MCUboot docs/design.md, "Image trailer"; `BOOT_MAX_ALIGN` 8)::

    magic      16 bytes
    image_ok    8 bytes, only the first counts
    copy_done   8 bytes, only the first counts
    swap_info   8 bytes, not used by direct-XIP, so always erased here

The trailer is not signed, and need not be: it chooses among images that verify, it never vouches for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from fuseline.errors import ImageMalformed

ERASED: Final = b"\xff"
"""What an erased byte of NOR flash reads."""

MAX_ALIGN: Final = 8
"""`BOOT_MAX_ALIGN`, MCUboot's default; other alignments have another magic and are not read here."""

MAGIC: Final = bytes.fromhex("77c295f360d2ef7f3552500f2cb67980")
"""`boot_img_magic` of bootutil_public.h, and `boot_magic` of imgtool's image.py."""

_FLAG_SET: Final = 0x01
"""`BOOT_FLAG_SET` as written to flash (bootutil_public.h)."""

TRAILER_SIZE: Final = len(MAGIC) + 3 * MAX_ALIGN
"""Bytes from `boot_swap_info_off` to the slot's end; direct-XIP keeps no swap status before it."""

_IMAGE_OK: Final = 2 * MAX_ALIGN
_COPY_DONE: Final = MAX_ALIGN


class FieldWrite(NamedTuple):
    """One write that sets one field: where in the slot, and which bytes."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Trailer:
    """A slot's state.

    Attributes:
        magic_good: The slot was written completely.
        copy_done: The loader chose the image before. Anything but an erased byte counts, so a torn write
            costs a trial and never gives a second one.
        image_ok: The image confirmed itself. Only the exact value counts.
    """

    magic_good: bool
    copy_done: bool
    image_ok: bool


def read_trailer(tail: bytes) -> Trailer:
    """Read the state from a slot, or from at least its last `TRAILER_SIZE` bytes.

    Raises:
        ImageMalformed: Fewer bytes than a trailer has.
    """
    if len(tail) < TRAILER_SIZE:
        raise ImageMalformed("too short for a slot trailer", size=len(tail), minimum=TRAILER_SIZE)
    trailer = tail[-TRAILER_SIZE:]
    return Trailer(
        magic_good=trailer[-len(MAGIC) :] == MAGIC,
        copy_done=trailer[_COPY_DONE] != ERASED[0],
        image_ok=trailer[_IMAGE_OK] == _FLAG_SET,
    )


def is_trailer(tail: bytes) -> bool:
    """Tell whether exactly these bytes are a trailer as MCUboot or imgtool writes one, magic included."""
    fields = [tail[at : at + MAX_ALIGN] for at in (_COPY_DONE, _IMAGE_OK)]
    return (
        len(tail) == TRAILER_SIZE
        and tail[-len(MAGIC) :] == MAGIC
        and tail[:_COPY_DONE] == ERASED * MAX_ALIGN
        and all(field in {_flag(), ERASED * MAX_ALIGN} for field in fields)
    )


def max_image_size(slot_size: int) -> int:
    """Return how many bytes an image may have in a slot (`bootutil_max_image_size`)."""
    return slot_size - TRAILER_SIZE


def magic_write(slot_size: int) -> FieldWrite:
    """Return the write that declares the slot complete."""
    return FieldWrite(slot_size - len(MAGIC), MAGIC)


def copy_done_write(slot_size: int) -> FieldWrite:
    """Return the write that notes that the loader chose the image."""
    return FieldWrite(slot_size - TRAILER_SIZE + _COPY_DONE, _flag())


def image_ok_write(slot_size: int) -> FieldWrite:
    """Return the write that confirms the image."""
    return FieldWrite(slot_size - TRAILER_SIZE + _IMAGE_OK, _flag())


def _flag() -> bytes:
    return bytes([_FLAG_SET]) + ERASED * (MAX_ALIGN - 1)
