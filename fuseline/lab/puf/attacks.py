"""Attacks on the PUF through its helper data, which anybody with a flash programmer can write.

The adversary edits helper data, starts the chip and watches one bit: did it come up as itself? `HelperOracle`
is that bit. What saves the chip is that SHA-256(helper) goes into its key, so no edited helper ever makes it
come up; and that a failure to decode looks like a wrong key, or the failure would be the bit.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fuseline.device.silicon.puf import bch
from fuseline.device.silicon.puf.helper import (
    CODE_BITS,
    CODE_WORDS,
    PAIRS,
    PAIRS_PER_BIT,
    HelperFields,
    build_helper,
    read_fields,
)
from fuseline.device.silicon.puf.types import Indices
from fuseline.lab.puf.campaign import Progress

HelperOracle = Callable[[bytes], bool]
"""Given helper data: whether the chip came up with the key that it always had."""


def flip_helper_bit(helper: bytes, bit: int) -> bytes:
    """Return the helper with one bit changed."""
    edited = bytearray(helper)
    edited[bit // 8] ^= 0x80 >> bit % 8
    return bytes(edited)


def flip_code_bit(helper: bytes, bit: int) -> bytes:
    """Return a helper that gives the complement of one code bit, which decoding corrects."""
    fields = read_fields(helper)
    offset = fields.offset.copy()
    offset[bit * PAIRS_PER_BIT : (bit + 1) * PAIRS_PER_BIT] ^= 1
    return build_helper(fields.pairs, offset)


def swap_code_bits(helper: bytes, left: int, right: int) -> bytes:
    """Return a helper whose offsets of two code bits have changed places."""
    fields = read_fields(helper)
    groups = fields.offset.reshape(CODE_BITS, PAIRS_PER_BIT).copy()
    groups[[left, right]] = groups[[right, left]]
    return build_helper(fields.pairs, groups.reshape(-1))


_ALL_ONES: Final = ((1 << bch.N) - 1) << 1
_ANSWERS: Final = bch.N - 1
"""For each word: whether bits 0 and 1 are equal, 1 and 2, and so on."""
_TAILS: Final = tuple(((1 << (_ANSWERS - answer)) - 1) << 1 for answer in range(_ANSWERS))
"""What each answer changes: all bits behind it."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What `recover_codewords` believes.

    Attributes:
        queries: How often the chip was started.
        candidates: Messages of 262 bits, one of which is the chip's; none if the answers make no sense.
    """

    queries: int
    candidates: tuple[int, ...]


def recover_codewords(helper: bytes, oracle: HelperOracle, progress: Progress | None = None) -> Recovery:
    """Recover the enrolled secret from a chip that does not bind its helper data.

    For each two neighbouring code bits the mask is edited so that the cells of one stand for both, and 18
    other bits of the word are complemented, all that the code corrects. It still decodes to itself exactly if
    the two bits are equal. A few answers are wrong, by noise or where a bit has too few cells to lend, but
    only one set of answers near these makes a code word. Known is then each word or its complement, which is
    a code word too: four candidates remain.

    Args:
        helper: Of the chip.
        oracle: The chip.
        progress: Called after each query.
    """
    fields = read_fields(helper)
    words: list[int] = []
    queries = CODE_WORDS * _ANSWERS
    for word in range(CODE_WORDS):
        guess = 0
        for answer in range(_ANSWERS):
            left = word * bch.N + answer
            if not oracle(_saturate(_merge_neighbours(fields, left), left)):
                guess ^= _TAILS[answer]
            if progress is not None:
                progress(word * _ANSWERS + answer + 1, queries)
        words += _nearest_codewords(guess)
    return Recovery(queries, tuple(_candidates(words) if len(words) == 2 * CODE_WORDS else ()))


def _candidates(words: list[int]) -> Iterator[int]:
    first, first_complement, second, second_complement = (
        bch.message_of(word.to_bytes(bch.WORD_OCTETS, "big")) for word in words
    )
    for one in (first, first_complement):
        for other in (second, second_complement):
            yield one << bch.K | other


@functools.cache
def _tail_sums() -> dict[int, int]:
    """The residue of every xor of at most two tails -> that xor."""
    tails = [(_residue(tail), tail) for tail in _TAILS]
    sums = {0: 0} | dict(tails)
    for (left_residue, left), (right_residue, right) in itertools.combinations(tails, 2):
        sums[left_residue ^ right_residue] = left ^ right
    return sums


def _nearest_codewords(guess: int) -> list[int]:
    """Return the code word that up to four other answers would have made, and its complement; or nothing."""
    wanted, sums = _residue(guess), _tail_sums()
    for residue, tails in sums.items():
        others = sums.get(wanted ^ residue)
        if others is not None:
            word = guess ^ tails ^ others
            return [word, word ^ _ALL_ONES]
    return []


def _residue(word: int) -> int:
    return bch.residue(word.to_bytes(bch.WORD_OCTETS, "big"))


def _saturate(fields: HelperFields, left: int) -> bytes:
    """Complement as many bits of the word as can be corrected, away from `left` and its neighbour."""
    start = left // bch.N * bch.N
    others = [bit for bit in range(start, start + bch.N) if bit not in {left, left + 1}][: bch.T]
    offset = fields.offset.reshape(CODE_BITS, PAIRS_PER_BIT).copy()
    offset[others] ^= 1
    return build_helper(fields.pairs, offset.reshape(-1))


def _merge_neighbours(fields: HelperFields, left: int) -> HelperFields:
    """Let code bits `left` and `left + 1` both be voted on by cells of one of them.

    Groups are cut from the selected pairs in ascending order. So between the groups before and after, 22
    other pairs are selected: as many of one bit's own as the cut allows in each half, filled up with pairs
    that were equal at enrolment, whose two votes cancel.
    """
    groups = fields.pairs.reshape(CODE_BITS, PAIRS_PER_BIT)
    low = int(groups[left - 1][-1]) + 1 if left else 0
    high = int(groups[left + 2][0]) if left + 2 < CODE_BITS else int(groups[left + 1][-1]) + 1
    region = np.arange(low, high)
    owner = np.zeros(PAIRS, np.int8)
    owner[groups[left]] = -1
    owner[groups[left + 1]] = 1
    chosen = max(
        (_halves(region, side * owner[region], cut) for side in (-1, 1) for cut in range(region.size + 1)),
        key=lambda halves: halves.margin,
    ).pairs
    old_offset = np.zeros(PAIRS, np.uint8)
    old_offset[fields.pairs] = fields.offset
    pairs = fields.pairs.copy()
    pairs[left * PAIRS_PER_BIT : (left + 2) * PAIRS_PER_BIT] = chosen
    return HelperFields(pairs, old_offset[pairs])


@dataclass(frozen=True, slots=True)
class _Halves:
    margin: int
    pairs: Indices


_IMPOSSIBLE: Final = _Halves(-PAIRS_PER_BIT - 1, np.zeros(0, np.intp))


def _halves(region: Indices, lean: npt.NDArray[np.int8], cut: int) -> _Halves:
    """Select the best eleven pairs on each side of a cut.

    Args:
        region: Pairs, ascending.
        lean: For each, 1 if it votes as wanted, -1 if it votes for the other bit, 0 if its votes cancel.
        cut: Where the second half begins.
    """
    if cut < PAIRS_PER_BIT or region.size - cut < PAIRS_PER_BIT:
        return _IMPOSSIBLE
    best = [np.argsort(-half, kind="stable")[:PAIRS_PER_BIT] for half in (lean[:cut], lean[cut:])]
    margin = min(int(lean[best[0]].sum()), int(lean[cut:][best[1]].sum()))
    return _Halves(margin, np.concatenate([region[np.sort(best[0])], region[cut + np.sort(best[1])]]))
