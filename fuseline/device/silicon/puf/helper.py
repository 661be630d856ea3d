"""The PUF's helper data: public, kept in flash, and written by whoever can write flash.

Little-endian::

    0   4  magic "FPUF"
    4   1  version, 1
    5   1  code words, 2
    6   1  pairs of cells to a code bit, 11
    7   1  zero
    8   2  pairs of cells on the chip, 16384
    10  2  pairs selected, 5610
    12  2  octets of the mask, 2048
    14  2  octets of the offset, 702
    16     mask: bit i (highest bit of an octet first) is set if pair i is selected
    2064   offset: one bit for each selected pair, then six zero bits
    2766   two zero octets, to a whole flash word

There is no checksum: a changed helper must not be told from a worn-out PUF, and its digest goes into the
key anyway.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from fuseline.device.silicon.puf import bch
from fuseline.device.silicon.puf.cells import CELLS
from fuseline.device.silicon.puf.types import Bits, Indices
from fuseline.errors import PufHelperMalformed

CODE_WORDS: Final = 2
CODE_BITS: Final = CODE_WORDS * bch.N
PAIRS_PER_BIT: Final = 11
PAIRS: Final = CELLS // 2
SELECTED_PAIRS: Final = CODE_BITS * PAIRS_PER_BIT
READINGS: Final = 2 * PAIRS_PER_BIT - 1
"""Cells that vote on a code bit. The second cell of the last pair stays out, so there is never a tie."""

_HEADER: Final = struct.Struct("<4sBBBBHHHH")
_MASK_OCTETS: Final = PAIRS // 8
_OFFSET_OCTETS: Final = -(-SELECTED_PAIRS // 8)
_EXPECTED: Final = (
    b"FPUF", 1, CODE_WORDS, PAIRS_PER_BIT, 0, PAIRS, SELECTED_PAIRS, _MASK_OCTETS, _OFFSET_OCTETS,
)  # fmt: skip
_FIELDS: Final = (
    "magic", "version", "code words", "pairs to a bit", "reserved octet", "pairs", "selected pairs",
    "mask size", "offset size",
)  # fmt: skip
MASK_AT: Final = _HEADER.size
OFFSET_AT: Final = MASK_AT + _MASK_OCTETS
_END: Final = OFFSET_AT + _OFFSET_OCTETS
HELPER_SIZE: Final = -(-_END // 4) * 4
"""Octets of helper data, a whole number of flash words."""


def build_helper(pairs: Indices, offset: Bits) -> bytes:
    """Write helper data.

    Args:
        pairs: `SELECTED_PAIRS` indices of pairs, ascending; pair i has the cells 2i and 2i + 1.
        offset: For each, its first cell's value at enrolment xor the code bit it stands for.

    Returns:
        `HELPER_SIZE` octets.
    """
    mask = np.zeros(PAIRS, np.uint8)
    mask[pairs] = 1
    body = np.packbits(mask).tobytes() + np.packbits(offset).tobytes()
    return (_HEADER.pack(*_EXPECTED) + body).ljust(HELPER_SIZE, b"\0")


@dataclass(frozen=True, slots=True)
class HelperFields:
    """Helper data as they are written.

    Attributes:
        pairs: `SELECTED_PAIRS` indices of pairs, ascending.
        offset: One bit for each.
    """

    pairs: Indices
    offset: Bits


def read_fields(helper: bytes) -> HelperFields:
    """Read helper data; nothing that `build_helper` would not write is taken.

    Raises:
        PufHelperMalformed: A field, the number of selected pairs or the padding is not as it must be.
    """
    if len(helper) != HELPER_SIZE:
        raise PufHelperMalformed("wrong size", size=len(helper), expected=HELPER_SIZE)
    for field, found, expected in zip(_FIELDS, _HEADER.unpack_from(helper), _EXPECTED, strict=True):
        if found != expected:
            raise PufHelperMalformed(f"wrong {field}", found=repr(found), expected=repr(expected))
    mask = np.unpackbits(np.frombuffer(helper, np.uint8, _MASK_OCTETS, MASK_AT)).view(np.bool_)
    pairs = np.flatnonzero(mask)
    if pairs.size != SELECTED_PAIRS:
        raise PufHelperMalformed(
            "wrong number of pairs in the mask", found=int(pairs.size), expected=SELECTED_PAIRS
        )
    offset = np.unpackbits(np.frombuffer(helper, np.uint8, HELPER_SIZE - OFFSET_AT, OFFSET_AT))
    if offset[SELECTED_PAIRS:].any():
        raise PufHelperMalformed("padding is not zero")
    return HelperFields(pairs, offset[:SELECTED_PAIRS])


def voting_cells(helper: bytes) -> Indices:
    """Return which cell casts each vote, for studies: shape (`READINGS`, `CODE_BITS`), first cells on top.

    Raises:
        PufHelperMalformed: As `read_fields`.
    """
    first = 2 * read_fields(helper).pairs.reshape(CODE_BITS, PAIRS_PER_BIT).T
    return np.concatenate([first, first[:-1] + 1])
