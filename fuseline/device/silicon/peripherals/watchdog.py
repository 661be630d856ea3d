"""CMSDK watchdog (Arm DDI 0479, 4.4): at zero a non-maskable interrupt, at the second zero a reset."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.cortexm.down_counter import DownCounter
from fuseline.device.silicon.engine import Stop, StopKind
from fuseline.device.silicon.peripherals.identification import identification

if TYPE_CHECKING:
    from fuseline.device.silicon.cortexm.bus import Processor

SIZE: Final = 0x1000
UNLOCK: Final = 0x1ACC_E551

_LOAD, _VALUE, _CONTROL, _INTCLR, _RIS, _MIS, _LOCK = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0xC00
_INTERRUPT, _RESET = 1, 2
_ONES = 0xFFFF_FFFF


def _counter() -> DownCounter:
    return DownCounter(reload=_ONES, start_value=_ONES)


@dataclass(slots=True)
class _State:
    control: int = 0
    raw: bool = False
    locked: bool = False
    counter: DownCounter = field(default_factory=_counter)


class CmsdkWatchdog:
    """The watchdog, clocked like the processor.

    Args:
        base: Address of its registers.
    """

    def __init__(self, base: int) -> None:
        self.base, self.size = base, SIZE
        self._processor: Processor | None = None
        self._at = _State()

    def attach(self, processor: Processor) -> None:
        """Connect NMI, reset and clock."""
        self._processor = processor

    def reset(self) -> None:
        """Stop, unlock, and load the longest time."""
        self._at = _State()

    def save(self) -> object:
        """Return a copy of the state."""
        return dataclasses.replace(self._at, counter=dataclasses.replace(self._at.counter))

    def load(self, state: object) -> None:
        """Take a state that `save` returned."""
        assert isinstance(state, _State)
        self._at = dataclasses.replace(state, counter=dataclasses.replace(state.counter))

    def next_event(self) -> int | None:
        """Return when the counter next reaches 0."""
        return self._at.counter.next_zero()

    def advance(self, now: int) -> None:
        """Interrupt at zero; reset if the interrupt of the last zero is still not cleared."""
        at = self._at
        if not at.counter.take_fired(now) or self._processor is None:
            return
        if not at.raw:
            at.raw = True
            self._drive()
        elif at.control & _RESET:
            self._processor.request_stop(Stop(StopKind.WATCHDOG, 0, "the watchdog ran out twice"))

    def _drive(self) -> None:
        if self._processor is not None:
            self._processor.set_nmi(self._at.raw and bool(self._at.control & _INTERRUPT))

    def read(self, offset: int, _size: int) -> int:
        """Read a register."""
        at = self._at
        if offset == _VALUE:
            return at.counter.value(self._now())
        registers = {
            _LOAD: at.counter.reload,
            _CONTROL: at.control,
            _RIS: int(at.raw),
            _MIS: int(at.raw and bool(at.control & _INTERRUPT)),
            _LOCK: int(at.locked),
        }
        return registers.get(offset, identification("watchdog", offset))

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write a register; all but WDOGLOCK are ignored while it is locked."""
        at, now = self._at, self._now()
        if offset == _LOCK:
            at.locked = value != UNLOCK
            return
        if at.locked:
            return
        self.advance(now)
        if offset == _LOAD:
            at.counter.configure(now, reload=value)
            at.counter.set(now, value)
        elif offset == _CONTROL:
            self._write_control(now, value)
        elif offset == _INTCLR:
            at.raw = False
            at.counter.set(now, at.counter.reload)
        self._drive()
        if self._processor is not None:
            self._processor.timing_changed()

    def _write_control(self, now: int, value: int) -> None:
        """DDI 0479, 4.4.3: the counter runs while INTEN is set, and is reloaded when it becomes set."""
        at = self._at
        started = value & _INTERRUPT and not at.control & _INTERRUPT
        at.control = value & 3
        at.counter.configure(now, running=bool(value & _INTERRUPT))
        if started:
            at.counter.set(now, at.counter.reload)

    def _now(self) -> int:
        return 0 if self._processor is None else self._processor.now
