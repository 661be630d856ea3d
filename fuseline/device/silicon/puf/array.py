"""The PUF block of one chip."""

from __future__ import annotations

from collections.abc import Callable

from fuseline.device.silicon.memory_map import PUF_ROWS_SIZE
from fuseline.device.silicon.puf.cells import (
    ENROLMENT_TEMPERATURE_C,
    NOISE,
    Cells,
    Conditions,
    NoiseSource,
    ReadoutPlan,
    manufacture,
    plan_readout,
)
from fuseline.device.silicon.puf.extractor import Enrolment, Reconstruction, enrol, reconstruct


class Puf:
    """An array of SRAM cells and the fuzzy extractor beside it.

    Cells are made when they are first read, and only the plan of a readout is kept: some 0.2 MB a chip.

    Args:
        seed: Of the chip, not negative: equal seeds are equal silicon.
        temperature_c: Of the die.
        age_years: Spent powered.
        bias: Mean of the cells' mismatch; 0 gives as many ones as zeros.
        noise: Of a power-up, in units of the spread of mismatch.
    """

    def __init__(
        self,
        seed: int,
        *,
        temperature_c: float = ENROLMENT_TEMPERATURE_C,
        age_years: float = 0.0,
        bias: float = 0.0,
        noise: float = NOISE,
    ) -> None:
        self._seed = seed
        self._bias = bias
        self._level = noise
        self._conditions = Conditions(temperature_c, age_years)
        self._source = NoiseSource(seed)
        self._plan: ReadoutPlan | None = None

    @property
    def conditions(self) -> Conditions:
        """Temperature and age. Setting them changes the next power-up."""
        return self._conditions

    @conditions.setter
    def conditions(self, conditions: Conditions) -> None:
        if conditions != self._conditions:
            self._conditions = conditions
            self._plan = None

    @property
    def noise(self) -> float:
        """Of a power-up at 25 degrees Celsius."""
        return self._level

    def cells(self) -> Cells:
        """Return the cells as they left the factory, for studies: nothing on a chip can look at them so."""
        return manufacture(self._seed, self._bias)

    def power_up(self, rows: memoryview, boot: int) -> None:
        """Power the array up: write a fresh readout to the rows.

        Args:
            rows: `PUF_ROWS_SIZE` octets, writable.
            boot: Number of this power-up in the chip's life; the same number gives the same noise.
        """
        if len(rows) != PUF_ROWS_SIZE:
            raise RuntimeError(f"the rows are {PUF_ROWS_SIZE} octets")
        plan = self._plan
        if plan is None:
            plan = self._plan = plan_readout(self.cells(), self._conditions, self._level)
        rows[:] = plan.read(self._source.draws(boot, plan.uncertain.size)).data

    def enrol(self, rows: bytes | memoryview, rng: Callable[[int], bytes]) -> Enrolment:
        """Enrol from the readout in the rows; see `extractor.enrol`."""
        return enrol(rows, rng)

    def reconstruct(self, rows: bytes | memoryview, helper: bytes) -> Reconstruction:
        """Reconstruct the secret from the readout in the rows; see `extractor.reconstruct`."""
        return reconstruct(rows, helper)
