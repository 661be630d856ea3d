"""Reconstructing a key a million times, quickly and without cutting corners that matter.

Every reading that noise can change is drawn, votes are counted, words are decoded, messages compared. Only
what cannot differ is left out: cells that never err, and votes of bits that no reading disturbs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fuseline.device.silicon.puf import bch
from fuseline.device.silicon.puf.extractor import code_bits
from fuseline.device.silicon.puf.helper import CODE_BITS, CODE_WORDS, READINGS
from fuseline.device.silicon.puf.normal import upper_tail
from fuseline.device.silicon.puf.types import Bits, Floats, Octets
from fuseline.errors import PufFailure

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much."""

_SILENT: Final = float(upper_tail(6.0))
"""A reading that errs less often than this is taken as certain, as in a power-up."""
_DRAW_VALUES: Final = 1 << 16
_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class Campaign:
    """What became of many reconstructions.

    Attributes:
        reconstructions: Tried.
        failures: Without the enrolled secret, for whatever reason.
        wrong_secrets: Of these, ended with another secret rather than with a coded failure.
        outvoted_bits: Code bits that were wrong before decoding, over all reconstructions.
        most_outvoted: Code bits that were wrong in the worst word, of `bch.T` that can be.
    """

    reconstructions: int
    failures: int
    wrong_secrets: int
    outvoted_bits: int
    most_outvoted: int

    @classmethod
    def nothing(cls) -> Campaign:
        """Return a campaign of no reconstructions, to add to."""
        return cls(0, 0, 0, 0, 0)

    def __add__(self, other: Campaign) -> Campaign:
        return Campaign(
            self.reconstructions + other.reconstructions,
            self.failures + other.failures,
            self.wrong_secrets + other.wrong_secrets,
            self.outvoted_bits + other.outvoted_bits,
            max(self.most_outvoted, other.most_outvoted),
        )


class VoteSimulator:
    """Draws which code bits are outvoted.

    A reading's probability is rounded up to a multiple of 2**-16, so a simulated chip is never better than
    the real one; the expected number of wrong readings grows by less than one in a thousand.

    Args:
        errors: Probability of each reading to differ from enrolment, shape (`READINGS`, `CODE_BITS`).
        seed: Of the noise.
    """

    def __init__(self, errors: Floats, seed: int) -> None:
        scaled = np.where(errors < _SILENT, 0.0, np.ceil(errors * _DRAW_VALUES))
        certain = scaled >= _DRAW_VALUES
        scaled[certain] = 0.0
        uncertain = (scaled > 0).sum(axis=0)
        self._order = np.argsort(-uncertain, kind="stable")
        self._always = certain.sum(axis=0, dtype=np.uint8)[self._order]
        ranked = -np.sort(-scaled[:, self._order], axis=0)
        widths = [int((uncertain > rank).sum()) for rank in range(READINGS)]
        self._thresholds = [
            ranked[rank, :width].astype(np.uint16) for rank, width in enumerate(widths) if width
        ]
        self._generator = np.random.PCG64(np.random.SeedSequence(seed))

    def outvoted(self, count: int) -> Bits:
        """Return, for `count` reconstructions, which of their `CODE_BITS` code bits come out wrong."""
        wrong = np.tile(self._always, (count, 1))
        for threshold in self._thresholds:
            width = threshold.size
            wrong[:, :width] += self._draws(count * width).reshape(count, width) < threshold
        result = np.empty((count, CODE_BITS), np.uint8)
        result[:, self._order] = wrong > READINGS // 2
        return result

    def _draws(self, count: int) -> npt.NDArray[np.uint16]:
        return self._generator.random_raw((count + 3) // 4).view(np.uint16)[:count]


def reconstruct_many(errors: Floats, message: int, count: int, seed: int) -> Campaign:
    """Reconstruct one chip's key many times.

    Args:
        errors: Of each reading, `reliability.reading_errors`.
        message: The 262 bits that were enrolled.
        count: How many times.
        seed: Of the noise.
    """
    simulator = VoteSimulator(errors, seed)
    sent = code_bits(message)
    total = Campaign.nothing()
    for done in range(0, count, _BATCH):
        flipped = simulator.outvoted(min(_BATCH, count - done))
        words = np.packbits((flipped ^ sent).reshape(-1, bch.N), axis=1)
        total += _decode_batch(words, flipped, message)
    return total


def _decode_batch(words: Octets, flipped: Bits, message: int) -> Campaign:
    count = len(flipped)
    outvoted = flipped.reshape(-1, bch.N).sum(axis=1, dtype=np.int64)
    halves = message >> bch.K, message & ((1 << bch.K) - 1)
    failed: set[int] = set()
    wrong: set[int] = set()
    # A word that is not the one sent and still a code word would be another secret.
    for index in np.flatnonzero(bch.residues(words).any(axis=1) | (outvoted > 0)).tolist():
        try:
            decoded = bch.decode(words[index].tobytes())
        except PufFailure:
            failed.add(index // CODE_WORDS)
            continue
        if bch.message_of(decoded.word) != halves[index % CODE_WORDS]:
            wrong.add(index // CODE_WORDS)
    return Campaign(
        count, len(failed | wrong), len(wrong - failed), int(outvoted.sum()), int(outvoted.max(initial=0))
    )
