"""CMSDK dual timer (Arm DDI 0479, 4.2): two counters with prescalers behind one interrupt line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.cortexm.down_counter import DownCounter
from fuseline.device.silicon.peripherals.identification import identification

if TYPE_CHECKING:
    from fuseline.device.silicon.cortexm.bus import Processor

SIZE: Final = 0x1000

_LOAD, _VALUE, _CONTROL, _INTCLR, _RIS, _MIS, _BGLOAD, _STRIDE = (
    0x00,
    0x04,
    0x08,
    0x0C,
    0x10,
    0x14,
    0x18,
    0x20,
)
_ONE_SHOT, _WIDE, _INTERRUPT, _PERIODIC, _ENABLE = 1, 2, 1 << 5, 1 << 6, 1 << 7
_CONTROL_RESET = _INTERRUPT
_PRESCALERS = (1, 16, 256, 256)
_FREE_RUNNING = {False: 0xFFFF, True: 0xFFFF_FFFF}


@dataclass(slots=True)
class _Half:
    load: int = 0
    control: int = _CONTROL_RESET
    raw: bool = False
    counter: DownCounter = field(default_factory=lambda: DownCounter(start_value=0xFFFF_FFFF))

    def copy(self) -> _Half:
        return dataclasses.replace(self, counter=dataclasses.replace(self.counter))

    @property
    def masked(self) -> bool:
        return self.raw and bool(self.control & _INTERRUPT)

    def configure(self, now: int) -> None:
        """Let the control register take effect."""
        wide = bool(self.control & _WIDE)
        periodic = self.control & (_PERIODIC | _ONE_SHOT)
        self.counter.configure(
            now,
            reload=self.load if periodic else _FREE_RUNNING[wide],
            running=bool(self.control & _ENABLE),
            divider=_PRESCALERS[self.control >> 2 & 3],
            one_shot=bool(self.control & _ONE_SHOT),
        )


class CmsdkDualTimer:
    """Both timers.

    Args:
        base: Address of the registers.
        irq: The interrupt line that both drive.
    """

    def __init__(self, base: int, irq: int) -> None:
        self.base, self.size = base, SIZE
        self._irq = irq
        self._processor: Processor | None = None
        self._halves = (_Half(), _Half())

    def attach(self, processor: Processor) -> None:
        """Connect the interrupt line and the clock."""
        self._processor = processor

    def reset(self) -> None:
        """Stop both, and clear their registers."""
        self._halves = (_Half(), _Half())

    def save(self) -> object:
        """Return a copy of the state."""
        return tuple(half.copy() for half in self._halves)

    def load(self, state: object) -> None:
        """Take a state that `save` returned."""
        assert isinstance(state, tuple)
        first, second = state
        self._halves = (first.copy(), second.copy())

    def next_event(self) -> int | None:
        """Return when a counter next reaches 0."""
        times = [half.counter.next_zero() for half in self._halves]
        return min((at for at in times if at is not None), default=None)

    def advance(self, now: int) -> None:
        """Interrupt, if a counter reached 0."""
        fired = False
        for half in self._halves:
            if half.counter.take_fired(now):
                half.raw = fired = True
        if fired:
            self._drive()

    def _drive(self) -> None:
        if self._processor is not None:
            self._processor.set_irq(self._irq, any(half.masked for half in self._halves))

    def read(self, offset: int, _size: int) -> int:
        """Read a register."""
        if offset >= 2 * _STRIDE:
            return identification("dual timer", offset)
        self.advance(self._now())
        half = self._halves[offset // _STRIDE]
        register = offset % _STRIDE
        if register == _VALUE:
            return half.counter.value(self._now())
        registers = {
            _LOAD: half.load,
            _BGLOAD: half.load,
            _CONTROL: half.control,
            _RIS: int(half.raw),
            _MIS: int(half.masked),
        }
        return registers.get(register, 0)

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write a register."""
        if offset >= 2 * _STRIDE:
            return
        now = self._now()
        self.advance(now)
        half = self._halves[offset // _STRIDE]
        register = offset % _STRIDE
        if register == _INTCLR:
            half.raw = False
        elif register in {_LOAD, _BGLOAD}:
            half.load = value & _FREE_RUNNING[bool(half.control & _WIDE)]
            half.configure(now)
            if register == _LOAD:
                half.counter.set(now, half.load)
        elif register == _CONTROL:
            half.control = value & 0xEF
            half.configure(now)
        self._drive()
        if self._processor is not None:
            self._processor.timing_changed()

    def _now(self) -> int:
        return 0 if self._processor is None else self._processor.now
