"""Two image slots kept in files, with the rules of NOR flash.

A slot is erased as a whole and each byte is written once per erase. Every step is made durable before the
next one begins, in an order that makes a power cut harmless: a slot that is being erased loses its magic
first, and one that is being filled gets it last, so only a complete image is ever a candidate.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol, Self

from fuseline.errors import ImageSize, SlotDamaged, StateMissing
from fuseline.formats.mcuboot_trailer import (
    ERASED,
    MAX_ALIGN,
    TRAILER_SIZE,
    FieldWrite,
    Trailer,
    copy_done_write,
    image_ok_write,
    magic_write,
    max_image_size,
    read_trailer,
)

if TYPE_CHECKING:
    from types import TracebackType

SLOT_COUNT: Final = 2
"""MCUboot's primary and secondary slot; in direct-XIP mode they are equals."""

Mark = Literal["test", "permanent"]
"""How an image is offered to the loader: for one trial, or confirmed in advance (the factory's image)."""


class Medium(Protocol):
    """The two operations by which a slot changes; whoever supplies them can cut the power at each."""

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`; not durable before `sync`."""
        ...

    def sync(self, fd: int) -> None:
        """Return when everything written before is durable."""
        ...


class FileMedium:
    """A file as the medium."""

    __slots__ = ()

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`, in as many calls as the kernel wants."""
        view = memoryview(data)
        while view:
            count = os.pwrite(fd, view, offset)
            view, offset = view[count:], offset + count

    def sync(self, fd: int) -> None:
        """Wait for the disk."""
        os.fsync(fd)


_FILES: Final = FileMedium()


class SlotWriter:
    """Fills one erased slot from its start; made by `SlotStore.begin_write`.

    As a context manager it closes the file; without `finish` the slot stays no candidate for booting.
    """

    def __init__(self, fd: int, slot_size: int, medium: Medium) -> None:
        self._fd = fd
        self._slot_size = slot_size
        self._medium = medium
        self._written = 0
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def written(self) -> int:
        """Bytes of the image written so far."""
        return self._written

    def write(self, chunk: bytes) -> None:
        """Append a part of the image.

        Raises:
            ImageSize: The image would reach into the trailer; nothing of the chunk was written.
            RuntimeError: The writer is closed.
        """
        self._require_open()
        maximum = max_image_size(self._slot_size)
        if self._written + len(chunk) > maximum:
            raise ImageSize(
                "the image does not fit the slot", size=self._written + len(chunk), maximum=maximum
            )
        _program(self._medium, self._fd, FieldWrite(self._written, chunk))
        self._written += len(chunk)

    def finish(self, mark: Mark) -> None:
        """Make the image durable, then offer it to the loader, and close.

        Raises:
            RuntimeError: The writer is closed, or nothing was written.
        """
        self._require_open()
        if not self._written:
            raise RuntimeError("finish before any byte of the image was written")
        self._medium.sync(self._fd)
        if mark == "permanent":
            # Before the magic: the other way round, a cut in between would leave an image on trial.
            _program(self._medium, self._fd, copy_done_write(self._slot_size))
            _program(self._medium, self._fd, image_ok_write(self._slot_size))
            self._medium.sync(self._fd)
        _program(self._medium, self._fd, magic_write(self._slot_size))
        self._medium.sync(self._fd)
        self.close()

    def close(self) -> None:
        """Close the file; harmless when closed already."""
        if self._open:
            self._open = False
            os.close(self._fd)

    def _require_open(self) -> None:
        if not self._open:
            raise RuntimeError("the slot writer is closed")


class SlotStore:
    """The device's two slots: `slot0.bin` and `slot1.bin` in one folder.

    Args:
        folder: Where the files are; `create` makes them.
        slot_size: Bytes of each slot.
        medium: What performs the writes.

    Raises:
        StateMissing: There is no such slot file.
        SlotDamaged: A slot file has another size.
        RuntimeError: An index other than 0 or 1, here or in any method.
    """

    def __init__(self, folder: Path, slot_size: int, medium: Medium = _FILES) -> None:
        self._folder = folder
        self._slot_size = slot_size
        self._medium = medium
        for index in range(SLOT_COUNT):
            self._require_intact(index)

    @classmethod
    def create(cls, folder: Path, slot_size: int, medium: Medium = _FILES) -> SlotStore:
        """Make two erased slots, readable by their owner only.

        Raises:
            RuntimeError: The slots exist, or the size is not a multiple of `MAX_ALIGN` beyond a trailer.
        """
        if slot_size <= TRAILER_SIZE or slot_size % MAX_ALIGN:
            raise RuntimeError(f"a slot of {slot_size} bytes cannot hold an image")
        paths = [_slot_path(folder, index) for index in range(SLOT_COUNT)]
        if any(path.exists() for path in paths):
            raise RuntimeError(f"{folder} has slots already")
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in paths:
            _create_erased(path, slot_size, medium)
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return cls(folder, slot_size, medium)

    @property
    def slot_size(self) -> int:
        """Bytes of each slot, trailer included."""
        return self._slot_size

    def read(self, index: int) -> bytes:
        """Return all bytes of a slot.

        Raises:
            StateMissing, SlotDamaged: As for the class.
        """
        self._require_intact(index)
        return _slot_path(self._folder, index).read_bytes()

    def trailer(self, index: int) -> Trailer:
        """Return a slot's state.

        Raises:
            StateMissing, SlotDamaged: As for the class.
        """
        return read_trailer(self._read_at(index, self._slot_size - TRAILER_SIZE, TRAILER_SIZE))

    def erase(self, index: int) -> None:
        """Erase a slot, its magic first."""
        fd = self._open(index)
        try:
            self._erase(fd)
        finally:
            os.close(fd)

    def begin_write(self, index: int) -> SlotWriter:
        """Erase a slot and return what fills it."""
        fd = self._open(index)
        try:
            self._erase(fd)
        except BaseException:
            os.close(fd)
            raise
        return SlotWriter(fd, self._slot_size, self._medium)

    def mark_booted(self, index: int) -> None:
        """Note durably that the image is being tried, before it runs for the first time.

        Raises:
            RuntimeError: The slot holds no image, or was marked already.
        """
        state = self.trailer(index)
        if not state.magic_good or state.copy_done:
            raise RuntimeError(f"slot {index} holds no image that waits for its first boot: {state}")
        self._set(index, copy_done_write(self._slot_size))

    def confirm(self, index: int) -> None:
        """Confirm the image durably; harmless when it is confirmed already.

        Raises:
            SlotDamaged: The flag holds something that this program never writes.
            RuntimeError: The slot holds no image, or one that was never booted.
        """
        state = self.trailer(index)
        if not state.magic_good or not state.copy_done:
            raise RuntimeError(f"slot {index} holds no image that was booted: {state}")
        if state.image_ok:
            return
        write = image_ok_write(self._slot_size)
        found = self._read_at(index, write.offset, len(write.data))
        if not _is_erased(found):
            raise SlotDamaged("image_ok is neither set nor erased", slot=index, found=found.hex())
        self._set(index, write)

    def _set(self, index: int, write: FieldWrite) -> None:
        fd = self._open(index)
        try:
            _program(self._medium, fd, write)
            self._medium.sync(fd)
        finally:
            os.close(fd)

    def _erase(self, fd: int) -> None:
        magic = magic_write(self._slot_size)
        self._medium.write(fd, ERASED * len(magic.data), magic.offset)
        self._medium.sync(fd)
        self._medium.write(fd, ERASED * magic.offset, 0)
        self._medium.sync(fd)

    def _open(self, index: int) -> int:
        self._require_intact(index)
        return os.open(_slot_path(self._folder, index), os.O_RDWR | os.O_CLOEXEC)

    def _read_at(self, index: int, offset: int, size: int) -> bytes:
        fd = self._open(index)
        try:
            return os.pread(fd, size, offset)
        finally:
            os.close(fd)

    def _require_intact(self, index: int) -> None:
        path = _slot_path(self._folder, index)
        if not path.is_file():
            raise StateMissing("there is no such slot file", path=str(path))
        size = path.stat().st_size
        if size != self._slot_size:
            raise SlotDamaged(
                "the slot file has another size", slot=index, size=size, expected=self._slot_size
            )


def _slot_path(folder: Path, index: int) -> Path:
    if index not in range(SLOT_COUNT):
        raise RuntimeError(f"there is no slot {index}")
    return folder / f"slot{index}.bin"


def _create_erased(path: Path, size: int, medium: Medium) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        medium.write(fd, ERASED * size, 0)
        medium.sync(fd)
    finally:
        os.close(fd)


def _program(medium: Medium, fd: int, write: FieldWrite) -> None:
    """Write bytes that are erased; flash with ECC cannot program a word twice, so neither can a slot."""
    if not _is_erased(os.pread(fd, len(write.data), write.offset)):
        raise RuntimeError(f"write over bytes at {write.offset} that are not erased")
    medium.write(fd, write.data, write.offset)


def _is_erased(data: bytes) -> bool:
    return data.count(ERASED) == len(data)
