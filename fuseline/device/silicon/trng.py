"""The true random number generator: a noise source, its health tests, and a conditioner (SP 800-90B).

The source gives bits. Every window of 1,024 of them passes the two continuous tests before SHA-256 conditions
it to 32 octets; at the claimed half bit of min-entropy a bit, 512 bits of entropy go into 256, which is more
than the output and 64 bits over, as SP 800-90C asks for full entropy. A test that fails latches: nothing more
comes out until the next reset.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fuseline.errors import TrngFailed

if TYPE_CHECKING:
    from collections.abc import Callable

ALPHA: Final = 2.0**-20
"""Chance of a false alarm of one test of one window (SP 800-90B 4.4 recommends 2^-20 to 2^-40)."""
MIN_ENTROPY: Final = 0.5
"""Claimed per bit of the source."""
WINDOW: Final = 1024
"""Bits of the adaptive proportion test for a binary source (SP 800-90B 4.4.2), and of the start-up test (4.3
asks for at least 1,024)."""


def repetition_cutoff(alpha: float, min_entropy: float) -> int:
    """Return C = 1 + ceil(-log2(alpha) / H) (SP 800-90B 4.4.1)."""
    return 1 + math.ceil(-math.log2(alpha) / min_entropy)


def proportion_cutoff(alpha: float, min_entropy: float, window: int) -> int:
    """Return C = 1 + CRITBINOM(W, 2^-H, 1 - alpha) (SP 800-90B 4.4.2)."""
    p = 2.0**-min_entropy
    tail, count = 0.0, window
    while count:
        log_choose = math.lgamma(window + 1) - math.lgamma(count + 1) - math.lgamma(window - count + 1)
        tail += math.exp(log_choose + count * math.log(p) + (window - count) * math.log1p(-p))
        if tail > alpha:
            break
        count -= 1
    return 1 + count


REPETITION_CUTOFF: Final = repetition_cutoff(ALPHA, MIN_ENTROPY)
PROPORTION_CUTOFF: Final = proportion_cutoff(ALPHA, MIN_ENTROPY, WINDOW)
_TAIL: Final = REPETITION_CUTOFF - 1
"""Bits of the last window that a run into the next one can begin with."""


@dataclass(frozen=True, slots=True)
class NoiseFault:
    """A source that is not what it claims.

    Attributes:
        ones: How often it gives a 1: 0.0 and 1.0 are stuck, 0.5 is healthy.
    """

    ones: float


class Trng:
    """Random octets for the machine code, or none at all.

    Args:
        random: Gives the noise of this boot.
    """

    def __init__(self, random: Callable[[], np.random.Generator]) -> None:
        self._random = random
        self.fault: NoiseFault | None = None
        """Set by a rehearsal; stays over resets, as a defect does."""
        self._started = False
        self._failed = False
        self._tail = 0
        self._tail_bits = 0

    def reset(self) -> None:
        """Forget everything: the start-up test runs again before the next read."""
        self._started = self._failed = False
        self._tail = self._tail_bits = 0

    @property
    def failed(self) -> bool:
        """A health test has failed since the last reset."""
        return self._failed

    def read(self, length: int) -> bytes:
        """Return `length` random octets.

        Raises:
            TrngFailed: A health test has failed since the last reset.
        """
        if not self._started:
            self._window()
            self._started = True
        blocks = [hashlib.sha256(self._window()).digest() for _ in range(-(-length // 32))]
        return b"".join(blocks)[:length]

    def snapshot(self) -> tuple[bool, bool, int, int]:
        """Return the state between two reads, for a snapshot of the whole chip."""
        return self._started, self._failed, self._tail, self._tail_bits

    def restore(self, state: tuple[bool, bool, int, int]) -> None:
        """Return to a state of `snapshot`."""
        self._started, self._failed, self._tail, self._tail_bits = state

    def _sample(self) -> bytes:
        if self.fault is None:
            return self._random().bytes(WINDOW // 8)
        bits = self._random().random(WINDOW) < self.fault.ones
        return np.packbits(bits).tobytes()

    def _window(self) -> bytes:
        """Return one window of noise that passed both tests."""
        if self._failed:
            raise TrngFailed("the noise source has failed since the last reset")
        samples = self._sample()
        value = int.from_bytes(samples, "big")
        joined, width = self._tail << WINDOW | value, self._tail_bits + WINDOW
        self._tail, self._tail_bits = joined & ((1 << _TAIL) - 1), min(width, _TAIL)
        ones = value.bit_count()
        # SP 800-90B 4.4.2: how often the window's first sample comes up in it.
        proportion = ones if value >> (WINDOW - 1) else WINDOW - ones
        repeats = _has_run(joined, REPETITION_CUTOFF) or _has_run(
            joined ^ ((1 << width) - 1), REPETITION_CUTOFF
        )
        if repeats or proportion >= PROPORTION_CUTOFF:
            self._failed = True
            raise TrngFailed(
                "the noise source failed a health test",
                test="repetition count" if repeats else "adaptive proportion",
                ones=ones,
                window=WINDOW,
            )
        return samples


def _has_run(bits: int, length: int) -> bool:
    """Return whether `length` ones stand side by side; after each step a 1 means a longer run of them."""
    covered = 1
    while covered < length:
        step = min(covered, length - covered)
        bits &= bits >> step
        covered += step
    return bits != 0
