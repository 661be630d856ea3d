"""The fuzzy extractor: the same secret out of readouts that differ.

Enrolment, from one readout (R. Maes et al., "Secure Key Generation from Biased PUFs", CHES 2015; Y. Dodis
et al., "Fuzzy Extractors", 2008, code-offset):

1. De-bias with pair-output von Neumann: of the 16,384 pairs of neighbouring cells take the first 5,610
   whose two cells differ. The helper's mask says which.
2. Draw 262 random bits and encode them as two words of BCH(255, 131, 18), 510 code bits.
3. Eleven pairs carry each code bit: the helper's offset is, for each pair, its first cell xor the code bit.
4. The secret is the SHA-256 of the 262 bits.

To reconstruct, every pair's first cell xor its offset is a vote for its code bit, and its second cell gives
the same vote complemented; 21 votes decide a bit, the BCH decoder corrects what is left.

Why the helper tells nothing about the secret: if cells are independent and a chip's cells share a bias, "1
then 0" and "0 then 1" are equally probable whatever the bias is. A selected pair is a fair coin, the mask
does not depend on how it fell, and xor with fair coins hides the code word perfectly. Without de-biasing
the repetition leaks: at 55 % ones, eleven cells of a group tell their code bit more often than not.

Traps on the way, none of them taken:

- A pair is one coin, not two: its second cell is the complement. Both cells may vote for the same code bit,
  whose offset the second one merely repeats; were they given to two code bits, the helper would tell their
  xor.
- A second pass over the discarded pairs ("11" against "00") would gain coins (multi-pass, same paper), but
  the positions it publishes need an argument of their own. There are pairs enough without it.
- A bias that neighbours do not share, as of even against odd columns, would break the fair coin. The tests
  look for one in real readouts.
- *Enrolling the same cells twice leaks.* Noise makes some pairs equal in one enrolment and unequal in the
  other, and the two offsets tell the xor of two code words wherever a pair is in both. The ROM therefore
  enrols once, and a fuse says so.
- Helper data are an adversary's to write. A helper that is edited so that it still decodes must not give
  the same key: the key manager extracts with salt SHA-256(helper), so it gives another one. And whether
  decoding failed or gave the wrong key must look the same from outside, or the difference is an oracle (J.
  Delvaux and I. Verbauwhede, 2014): `fuseline.lab.puf.attacks` reads the secret through it in 508 starts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from fuseline.device.silicon.memory_map import PUF_ROWS_SIZE
from fuseline.device.silicon.puf import bch
from fuseline.device.silicon.puf.helper import (
    CODE_BITS,
    CODE_WORDS,
    PAIRS_PER_BIT,
    READINGS,
    SELECTED_PAIRS,
    HelperFields,
    build_helper,
    read_fields,
)
from fuseline.device.silicon.puf.types import Bits
from fuseline.errors import PufBiased

SECRET_SIZE: Final = 32
MESSAGE_BITS: Final = CODE_WORDS * bch.K
MESSAGE_OCTETS: Final = -(-MESSAGE_BITS // 8)
_BOTH_CELLS: Final = np.uint16(0x0101)
_SECOND_CELL: Final = np.uint16(0x0100)
"""Bits of a pair of cells in one number, the first cell low: the second one's vote is its complement."""
_SECRET_LABEL: Final = b"fuseline puf secret 1"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What enrolment gives.

    Attributes:
        helper: `HELPER_SIZE` octets, public.
        secret: 32 octets.
    """

    helper: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What a later readout gives.

    Attributes:
        secret: 32 octets.
        corrected: Readings, of the 10,710 that vote, that were not as at enrolment. A gauge of age and
            temperature; with edited helper data also an oracle, so it is not for code that runs after the
            PUF is locked.
    """

    secret: bytes = field(repr=False)
    corrected: int


def enrol(rows: bytes | memoryview, rng: Callable[[int], bytes]) -> Enrolment:
    """Enrol a chip from one readout.

    Args:
        rows: `PUF_ROWS_SIZE` octets.
        rng: Returns as many random octets as it is asked for.

    Raises:
        PufBiased: Fewer than 5,610 pairs differ: the share of ones is outside about 22 to 78 %.
    """
    bits = _bits(rows)
    unequal = np.flatnonzero(bits[0::2] != bits[1::2])
    if unequal.size < SELECTED_PAIRS:
        raise PufBiased("too few balanced pairs", found=int(unequal.size), needed=SELECTED_PAIRS)
    pairs = unequal[:SELECTED_PAIRS]
    message = message_from(rng(MESSAGE_OCTETS))
    code = np.repeat(code_bits(message), PAIRS_PER_BIT)
    helper = build_helper(pairs, bits[2 * pairs] ^ code)
    return Enrolment(helper, secret_of(message))


def reconstruct(rows: bytes | memoryview, helper: bytes) -> Reconstruction:
    """Return the secret that was enrolled with these helper data.

    A wrong secret is possible, with edited helper data or another chip: the caller has a check value.

    Raises:
        PufHelperMalformed: The helper data do not follow their format.
        PufFailure: No code word is near enough.
    """
    votes = _votes(_bits(rows), read_fields(bytes(helper)))
    message = 0
    decoded = b""
    for word in np.packbits((votes > READINGS // 2).reshape(CODE_WORDS, bch.N), axis=1):
        nearest = bch.decode(word.tobytes()).word
        message = message << bch.K | bch.message_of(nearest)
        decoded += nearest
    ones = unpack_words(decoded) == 1
    wrong = np.where(ones, READINGS - votes, votes)
    return Reconstruction(secret_of(message), int(wrong.sum()))


def _votes(bits: Bits, helper: HelperFields) -> Bits:
    """Return how many of its `READINGS` cells vote for each code bit to be 1; shape (`CODE_BITS`,)."""
    flips = helper.offset * _BOTH_CELLS ^ _SECOND_CELL
    pairs = bits.view("<u2").take(helper.pairs) ^ flips
    cells = pairs.view(np.uint8).reshape(CODE_BITS, 2 * PAIRS_PER_BIT)[:, :READINGS]
    # To add many short rows up takes numpy's sum more than twice as long.
    votes: Bits = np.einsum("ij->i", cells)
    return votes


def message_from(octets: bytes) -> int:
    """Return the 262-bit message that `MESSAGE_OCTETS` random octets give."""
    return int.from_bytes(octets, "big") >> (8 * MESSAGE_OCTETS - MESSAGE_BITS)


def code_bits(message: int) -> Bits:
    """Return the 510 code bits of a 262-bit message."""
    halves = message >> bch.K, message & ((1 << bch.K) - 1)
    return unpack_words(b"".join(bch.encode(half) for half in halves))


def unpack_words(words: bytes) -> Bits:
    """Return the code bits of the two words, without the bit that pads each."""
    bits = np.unpackbits(np.frombuffer(words, np.uint8)).reshape(CODE_WORDS, -1)
    return bits[:, : bch.N].reshape(CODE_BITS)


def secret_of(message: int) -> bytes:
    """Return the 32 octets that a 262-bit message stands for."""
    return hashlib.sha256(_SECRET_LABEL + message.to_bytes(MESSAGE_OCTETS, "big")).digest()


def _bits(rows: bytes | memoryview) -> Bits:
    if len(rows) != PUF_ROWS_SIZE:
        raise RuntimeError(f"the rows are {PUF_ROWS_SIZE} octets")
    return np.unpackbits(np.frombuffer(rows, np.uint8))
