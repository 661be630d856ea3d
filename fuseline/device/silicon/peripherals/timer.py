"""CMSDK timer (Arm DDI 0479, 4.1): counts down, reloads, interrupts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.cortexm.down_counter import DownCounter
from fuseline.device.silicon.peripherals.identification import identification

if TYPE_CHECKING:
    from fuseline.device.silicon.cortexm.bus import Processor

SIZE: Final = 0x1000

_CTRL, _VALUE, _RELOAD, _INTSTATUS = 0x00, 0x04, 0x08, 0x0C
_ENABLE, _INTERRUPT = 1, 8


@dataclass(slots=True)
class _State:
    control: int = 0
    interrupt: bool = False
    counter: DownCounter = field(default_factory=DownCounter)


class CmsdkTimer:
    """One timer, clocked like the processor; its external input is not connected.

    Args:
        base: Address of its registers.
        irq: Its interrupt line.
    """

    def __init__(self, base: int, irq: int) -> None:
        self.base, self.size = base, SIZE
        self._irq = irq
        self._processor: Processor | None = None
        self._at = _State()

    def attach(self, processor: Processor) -> None:
        """Connect the interrupt line and the clock."""
        self._processor = processor

    def reset(self) -> None:
        """Stop, and clear all registers."""
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
        """Interrupt, if the counter reached 0."""
        if self._at.counter.take_fired(now) and self._at.control & _INTERRUPT:
            self._set_interrupt(high=True)

    def _set_interrupt(self, *, high: bool) -> None:
        self._at.interrupt = high
        if self._processor is not None:
            self._processor.set_irq(self._irq, high)

    def read(self, offset: int, _size: int) -> int:
        """Read a register."""
        at = self._at
        if offset == _VALUE:
            return at.counter.value(self._now())
        registers = {_CTRL: at.control, _RELOAD: at.counter.reload, _INTSTATUS: int(at.interrupt)}
        return registers.get(offset, identification("timer", offset))

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write a register."""
        now = self._now()
        self.advance(now)
        counter = self._at.counter
        if offset == _CTRL:
            self._at.control = value & 0xF
            counter.configure(now, running=bool(value & _ENABLE))
        elif offset == _VALUE:
            counter.set(now, value)
        elif offset == _RELOAD:
            # DDI 0479, 4.1.1: also sets the current value.
            counter.configure(now, reload=value)
            counter.set(now, value)
        elif offset == _INTSTATUS and value & 1:
            self._set_interrupt(high=False)
        if self._processor is not None:
            self._processor.timing_changed()

    def _now(self) -> int:
        return 0 if self._processor is None else self._processor.now
