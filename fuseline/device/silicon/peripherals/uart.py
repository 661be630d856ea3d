"""CMSDK UART (Arm DDI 0479, 4.3). Characters take no time; what a program sends is out at once."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.peripherals.identification import identification

if TYPE_CHECKING:
    from fuseline.device.silicon.cortexm.bus import Processor

SIZE: Final = 0x1000

_DATA, _STATE, _CTRL, _INTSTATUS, _BAUDDIV = 0x00, 0x04, 0x08, 0x0C, 0x10
_TX_FULL, _RX_FULL, _TX_OVERRUN, _RX_OVERRUN = 1, 2, 4, 8
_TX_ENABLE, _RX_ENABLE, _TX_INTERRUPT, _RX_INTERRUPT, _TX_OVERRUN_INTERRUPT, _RX_OVERRUN_INTERRUPT = (
    1, 2, 4, 8, 16, 32,
)  # fmt: skip
_INT_TX, _INT_RX, _INT_TX_OVERRUN, _INT_RX_OVERRUN = 1, 2, 4, 8
_OVERRUNS = 12
# The smallest divider that works (DDI 0479, 4.3.4); below it the UART receives nothing.
_SMALLEST_DIVIDER = 16
# Ten bits at 115200 baud and 25 MHz: how often a character can arrive.
_CHARACTER_CYCLES: Final = 2170


@dataclass(slots=True)
class _State:
    state: int = 0
    control: int = 0
    interrupts: int = 0
    driven: int = 0
    divider: int = 0
    sent: int = 0
    received: int = 0
    arrived: deque[int] = field(default_factory=deque)


class CmsdkUart:
    """One UART.

    Args:
        base: Address of its registers.
        output: Takes each character that the program sends.
        tx_irq, rx_irq, overrun_irq: Interrupt lines; None where not connected. Several UARTs may share
            `overrun_irq`: then give each the same `OverrunLine`.
        source: Asked for characters when there is room for one; returns what has arrived, or b"".
    """

    def __init__(
        self,
        base: int,
        output: Callable[[bytes], None],
        *,
        tx_irq: int | None = None,
        rx_irq: int | None = None,
        overrun: OverrunLine | None = None,
        source: Callable[[], bytes] | None = None,
    ) -> None:
        self.base, self.size = base, SIZE
        self._output, self._source = output, source
        self._tx_irq, self._rx_irq, self._overrun = tx_irq, rx_irq, overrun
        self._processor: Processor | None = None
        self._at = _State()

    def attach(self, processor: Processor) -> None:
        """Connect the interrupt lines."""
        self._processor = processor

    def reset(self) -> None:
        """Clear all registers; characters that have arrived and were not read are lost."""
        self._at = _State()

    def save(self) -> object:
        """Return a copy of the state."""
        return dataclasses.replace(self._at, arrived=deque(self._at.arrived))

    def load(self, state: object) -> None:
        """Take a state that `save` returned."""
        assert isinstance(state, _State)
        self._at = dataclasses.replace(state, arrived=deque(state.arrived))

    # Receiving

    def receive(self, data: bytes) -> None:
        """Let characters arrive; each waits until the program has read the one before."""
        self._at.arrived.extend(data)
        self._deliver()

    @property
    def listening(self) -> bool:
        """Whether the source is asked for characters."""
        wanted = self._at.control & _RX_ENABLE and not self._at.state & _RX_FULL
        return self._source is not None and bool(wanted)

    def next_event(self) -> int | None:
        """Return when to ask the source again."""
        if not self.listening or self._processor is None:
            return None
        return self._processor.now + _CHARACTER_CYCLES

    def advance(self, _now: int) -> None:
        """Ask the source for characters."""
        self._ask_source()

    def _ask_source(self) -> None:
        if self._source is not None and not self._at.arrived:
            self._at.arrived.extend(self._source())
        self._deliver()

    def _deliver(self) -> None:
        at = self._at
        ready = at.control & _RX_ENABLE and at.divider >= _SMALLEST_DIVIDER
        if not at.arrived or not ready or at.state & _RX_FULL:
            return
        at.received = at.arrived.popleft()
        at.state |= _RX_FULL
        if at.control & _RX_INTERRUPT:
            at.interrupts |= _INT_RX
        self._drive_lines()

    # Registers

    def read(self, offset: int, _size: int) -> int:
        """Read a register."""
        at = self._at
        if offset == _DATA:
            at.state &= ~_RX_FULL
            value = at.received
            self._deliver()
            return value
        if offset == _STATE:
            self._ask_source()
            return at.state
        registers = {_CTRL: at.control, _INTSTATUS: at.interrupts, _BAUDDIV: at.divider}
        return registers.get(offset, identification("uart", offset))

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write a register."""
        at = self._at
        if offset == _DATA:
            self._send(value & 0xFF)
        elif offset == _STATE:
            self._clear_overruns(value)
        elif offset == _CTRL:
            at.control = value & 0x7F
            self._flush()
            self._ask_source()
            if self._processor is not None and self._source is not None:
                self._processor.timing_changed()
        elif offset == _INTSTATUS:
            at.interrupts &= ~value
            self._clear_overruns(value)
        elif offset == _BAUDDIV:
            at.divider = value & 0xF_FFFF
            self._deliver()

    def _clear_overruns(self, value: int) -> None:
        self._at.state &= ~(value & _OVERRUNS)
        self._drive_lines()

    def _send(self, character: int) -> None:
        at = self._at
        if at.state & _TX_FULL:
            at.state |= _TX_OVERRUN
        at.sent = character
        at.state |= _TX_FULL
        self._flush()

    def _flush(self) -> None:
        """Send what waits, once the transmitter is on."""
        at = self._at
        if at.control & _TX_ENABLE and at.state & _TX_FULL:
            self._output(bytes((at.sent,)))
            at.state &= ~_TX_FULL
            if at.control & _TX_INTERRUPT:
                at.interrupts |= _INT_TX
        self._drive_lines()

    def _drive_lines(self) -> None:
        at = self._at
        overruns = (at.control & _TX_OVERRUN_INTERRUPT and at.state & _INT_TX_OVERRUN) | (
            at.control & _RX_OVERRUN_INTERRUPT and at.state & _INT_RX_OVERRUN
        )
        at.interrupts = at.interrupts & ~_OVERRUNS | overruns
        changed = at.interrupts ^ at.driven
        if not changed or self._processor is None:
            return
        at.driven = at.interrupts
        for irq, bit in ((self._tx_irq, _INT_TX), (self._rx_irq, _INT_RX)):
            if irq is not None and changed & bit:
                self._processor.set_irq(irq, bool(at.interrupts & bit))
        if self._overrun is not None and changed & _OVERRUNS:
            self._overrun.drive(self._processor, self.base, high=bool(overruns))


class OverrunLine:
    """One interrupt line for the overruns of several UARTs."""

    def __init__(self, irq: int) -> None:
        self._irq = irq
        self._high: set[int] = set()

    def drive(self, processor: Processor, base: int, *, high: bool) -> None:
        """Set one UART's part of the line."""
        if high:
            self._high.add(base)
        elif base in self._high:
            self._high.discard(base)
        else:
            return
        processor.set_irq(self._irq, bool(self._high))
