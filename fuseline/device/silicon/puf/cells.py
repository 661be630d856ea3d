"""The SRAM cells whose power-up values are the PUF: what makes them differ, and what disturbs them.

A cell powers up as 1 if its mismatch plus the noise of this power-up is above zero. In units of the spread of
mismatch over a chip's cells:

- *mismatch* m ~ N(bias, 1), fixed when the chip is made. This, unpredictable and uncopied, is the secret.
- *noise* ~ N(0, `NOISE`), anew at each power-up; thermal, so it grows with the root of the absolute
  temperature.
- *temperature* moves a cell's mismatch by its own coefficient ~ N(0, `TEMPERATURE_SPREAD`) for each 100 K.
- *ageing* (NBTI) weakens the transistor that holds the stored value, so it moves m towards zero, where a cell
  stays: it then stores either value equally often.

`NOISE` is fitted to readouts of two real chips (the tests compare), ageing to Wang, Selimis, Maes and
Goossens, "Long-term Continuous Assessment of SRAM PUF", arXiv 2007.15909. The model has no spatial
correlation: the real readouts show none at distances of 1, 2, 8, 16 and 32 cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fuseline.device.silicon.memory_map import PUF_ROWS_SIZE
from fuseline.device.silicon.puf.normal import standard_normals, upper_tail
from fuseline.device.silicon.puf.types import Bits, Floats, Indices, Octets

CELLS: Final = 8 * PUF_ROWS_SIZE

NOISE: Final = 0.11
"""Two real chips' pairs of readouts differ in 4.67 % and 5.03 % of bits; this gives 4.93 %."""
TEMPERATURE_SPREAD: Final = 0.35
"""For each 100 K. With it 8.3 % of bits differ between 25 and 85 degrees Celsius."""
ENROLMENT_TEMPERATURE_C: Final = 25.0
_ABSOLUTE_ZERO_C: Final = -273.15

AGEING_SHIFT_AT_TWO_YEARS: Final = 0.0404
"""With it 19.3 % more bits differ from the first readout after two years than at once (Wang et al.)."""
AGEING_EXPONENT: Final = 0.25
"""Of time. The upper end of what is reported for NBTI (1/6 to 1/4): the sterner guess beyond two years."""

CERTAIN_SIGMA: Final = 6.0
"""A cell farther than this from balance is read without noise."""

_MISMATCH_STREAM: Final = 0
_TEMPERATURE_STREAM: Final = 1
_NOISE_STREAM: Final = 2
_DRAWS_BETWEEN_BOOTS: Final = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835
"""2^128 times the golden ratio less one, as in numpy's `PCG64.jumped`. A power of two will not do: the
generator is linear, and steps of 2^64 leave half of its state and most of the noise as it was."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a chip is exposed to.

    Attributes:
        temperature_c: Of the die, in degrees Celsius.
        age_years: Spent powered since enrolment, holding the values of power-up.
    """

    temperature_c: float = ENROLMENT_TEMPERATURE_C
    age_years: float = 0.0


@dataclass(frozen=True, slots=True)
class Cells:
    """One chip's cells as they left the factory.

    Attributes:
        seed: Of the chip.
        mismatch: `CELLS` values.
    """

    seed: int
    mismatch: npt.NDArray[np.float32]

    def temperature_coefficients(self) -> npt.NDArray[np.float32]:
        """Return what 100 K add to each cell's mismatch; made anew each time: few chips leave 25 degrees."""
        return standard_normals(self.seed, _TEMPERATURE_STREAM, CELLS) * np.float32(TEMPERATURE_SPREAD)


def manufacture(seed: int, bias: float = 0.0) -> Cells:
    """Make a chip's cells; the same seed gives the same cells.

    Args:
        seed: Of the chip, not negative.
        bias: Mean of the mismatch; 0.4 makes 65.5 % of the cells ones.
    """
    return Cells(seed, standard_normals(seed, _MISMATCH_STREAM, CELLS) + np.float32(bias))


def ageing_shift(age_years: float) -> float:
    """Return how far ageing has moved each cell towards balance."""
    return AGEING_SHIFT_AT_TWO_YEARS * math.pow(age_years / 2.0, AGEING_EXPONENT)


def distance_in_sigma(cells: Cells, conditions: Conditions, noise: float = NOISE) -> npt.NDArray[np.float32]:
    """Return how many sigma of noise each cell is away from balance; positive: towards 1."""
    mean = cells.mismatch
    if conditions.age_years > 0.0:
        shift = np.float32(ageing_shift(conditions.age_years))
        mean = np.copysign(np.maximum(np.abs(mean) - shift, np.float32(0)), mean)
    hundreds = (conditions.temperature_c - ENROLMENT_TEMPERATURE_C) / 100.0
    if hundreds:
        mean = mean + np.float32(hundreds) * cells.temperature_coefficients()
    kelvin = (conditions.temperature_c - _ABSOLUTE_ZERO_C) / (ENROLMENT_TEMPERATURE_C - _ABSOLUTE_ZERO_C)
    return mean / np.float32(noise * math.sqrt(max(kelvin, 0.01)))


def ones_probability(cells: Cells, conditions: Conditions, noise: float = NOISE) -> Floats:
    """Return each cell's probability to power up as 1, exact in both tails."""
    return upper_tail(-distance_in_sigma(cells, conditions, noise))


@dataclass(frozen=True, slots=True)
class ReadoutPlan:
    """All that a power-up under given conditions needs.

    Cells beyond `CERTAIN_SIGMA` are read without noise. One such cell reads otherwise with a probability
    below 1e-9; over all 32,768 cells of a nominal chip that happens once in three million power-ups. Every
    other cell is read exactly, to the 2**-32 of its draw.

    Attributes:
        certain: `CELLS` bits, the value that each cell tends to.
        uncertain: Indices of the cells that noise can flip.
        threshold: For each of them, the share of 2**32 draws that gives a 1.
    """

    certain: Bits
    uncertain: Indices
    threshold: npt.NDArray[np.uint32]

    def read(self, draws: npt.NDArray[np.uint32]) -> Octets:
        """Return one readout, eight cells an octet, the first in the highest bit.

        Args:
            draws: One uniform 32-bit number for each uncertain cell.
        """
        bits = self.certain.copy()
        # As octets: to scatter booleans into octets takes numpy more than twice as long.
        bits[self.uncertain] = (draws < self.threshold).view(np.uint8)
        return np.packbits(bits)


def plan_readout(cells: Cells, conditions: Conditions, noise: float = NOISE) -> ReadoutPlan:
    """Work out once what every power-up under these conditions has in common."""
    distance = distance_in_sigma(cells, conditions, noise)
    uncertain = np.flatnonzero(np.abs(distance) < CERTAIN_SIGMA)
    scaled = np.rint(upper_tail(-distance[uncertain]) * 2.0**32)
    threshold = np.minimum(scaled, 2.0**32 - 1).astype(np.uint32)
    return ReadoutPlan((distance > 0).view(np.uint8), uncertain, threshold)


class NoiseSource:
    """The noise of one chip: a stream of its own for each power-up, all from one seed."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_NOISE_STREAM,)))
        self._origin = self._generator.state

    def draws(self, boot: int, count: int) -> npt.NDArray[np.uint32]:
        """Return `count` uniform 32-bit numbers for power-up number `boot`."""
        self._generator.state = self._origin
        self._generator.advance(boot * _DRAWS_BETWEEN_BOOTS % (1 << 128))
        return self._generator.random_raw((count + 1) // 2).view(np.uint32)[:count]
