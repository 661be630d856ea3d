"""The system timer (Armv7-M B3.3). One instruction takes one cycle of the processor's clock."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Final

from fuseline.device.silicon.cortexm.down_counter import DownCounter

_ENABLE, _TICKINT, _CLKSOURCE, _COUNTFLAG = 1, 2, 4, 1 << 16

REFERENCE_DIVIDER: Final = 25
"""mps2: the processor runs at 25 MHz, the reference clock of SysTick at 1 MHz (QEMU hw/arm/mps2.c)."""
CALIBRATION: Final = 9_999
"""SYST_CALIB: 10 ms of the reference clock, exactly."""


@dataclass(slots=True)
class SysTick:
    """SYST_CSR, SYST_RVR and SYST_CVR."""

    control: int = 0
    reload: int = 0
    count_flag: bool = False
    counter: DownCounter = field(default_factory=DownCounter)

    def copy(self) -> SysTick:
        """Return an equal one that shares nothing."""
        return dataclasses.replace(self, counter=dataclasses.replace(self.counter))

    def next_event(self) -> int | None:
        """Return when the counter next reaches 0."""
        return self.counter.next_zero()

    def advance(self, now: int) -> bool:
        """Note that the counter reached 0; returns whether the exception becomes pending."""
        if not self.counter.take_fired(now):
            return False
        self.count_flag = True
        return bool(self.control & _TICKINT)

    def read_control(self, now: int) -> tuple[int, bool]:
        """Read SYST_CSR, which clears COUNTFLAG; also says whether the exception becomes pending."""
        pend = self.advance(now)
        value = self.control | (_COUNTFLAG if self.count_flag else 0)
        self.count_flag = False
        return value, pend

    def write_control(self, now: int, value: int) -> None:
        """Write SYST_CSR."""
        self.control = value & (_ENABLE | _TICKINT | _CLKSOURCE)
        divider = 1 if value & _CLKSOURCE else REFERENCE_DIVIDER
        self.counter.configure(now, running=bool(value & _ENABLE), divider=divider)

    def write_reload(self, now: int, value: int) -> None:
        """Write SYST_RVR."""
        self.reload = value & 0xFF_FFFF
        self.counter.configure(now, reload=self.reload)

    def write_value(self, now: int) -> None:
        """Write SYST_CVR: any value clears it, and COUNTFLAG."""
        self.counter.set(now, 0)
        self.count_flag = False
