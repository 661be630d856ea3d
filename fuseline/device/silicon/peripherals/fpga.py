"""The parts of an MPS2 board that are no timer and no UART: FPGA I/O, board control, bit-band, and holes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fuseline.device.silicon.cortexm.bus import Processor

CLOCK_HZ: Final = 25_000_000
"""mps2-an385 and -an386 (QEMU hw/arm/mps2.c, SYSCLK_FRQ)."""

_LED0, _BUTTON, _CLK1HZ, _CLK100HZ, _COUNTER, _PRESCALE, _PSCNTR, _MISC = (
    0x00, 0x08, 0x10, 0x14, 0x18, 0x1C, 0x20, 0x4C,
)  # fmt: skip
_SCC_CFG0, _SCC_ID, _SCC_AID = 0x000, 0xFFC, 0xFF8


class Absent:
    """Addresses at which QEMU has its "unimplemented device": reads give zero, writes are ignored."""

    def __init__(self, base: int, size: int) -> None:
        self.base, self.size = base, size

    def read(self, _offset: int, _size: int) -> int:
        """Return zero."""
        return 0

    def write(self, _offset: int, _size: int, _value: int) -> None:
        """Ignore it."""


class FpgaIo:
    """LEDs, buttons and free-running counters (Arm DAI 0385, 4.6)."""

    def __init__(self, base: int) -> None:
        self.base, self.size = base, 0x1000
        self._processor: Processor | None = None
        self._words: dict[int, int] = {}

    def attach(self, processor: Processor) -> None:
        """Connect the clock."""
        self._processor = processor

    def reset(self) -> None:
        """Clear all registers."""
        self._words = {}

    def save(self) -> object:
        """Return a copy of the state."""
        return dict(self._words)

    def load(self, state: object) -> None:
        """Take a state that `save` returned."""
        assert isinstance(state, dict)
        self._words = dict(state)

    def read(self, offset: int, _size: int) -> int:
        """Read a register; the counters follow the time."""
        now = 0 if self._processor is None else self._processor.now
        prescale = self._words.get(_PRESCALE, 0) + 1
        counters = {
            _CLK1HZ: now // CLOCK_HZ,
            _CLK100HZ: now * 100 // CLOCK_HZ,
            _COUNTER: now // prescale,
            _PSCNTR: prescale - 1 - now % prescale,
        }
        if offset in counters:
            return (counters[offset] - self._words.get(offset, 0)) & 0xFFFF_FFFF
        return self._words.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register; a counter goes on from the written value."""
        if offset in {_CLK1HZ, _CLK100HZ, _COUNTER}:
            self._words.pop(offset, None)
            value = (self.read(offset, size) - value) & 0xFFFF_FFFF
        if offset in {_LED0, _PRESCALE, _MISC, _CLK1HZ, _CLK100HZ, _COUNTER}:
            self._words[offset] = value


class BoardControl:
    """Serial configuration controller (Arm DAI 0385, 4.5): words that keep what is written, two are fixed.

    Args:
        base: Address of the registers.
        identity: SCC_ID and SCC_AID of the FPGA image.
    """

    def __init__(self, base: int, identity: tuple[int, int]) -> None:
        self.base, self.size = base, 0x1000
        self._fixed = {_SCC_ID: identity[0], _SCC_AID: identity[1]}
        self._words: dict[int, int] = {}

    def reset(self) -> None:
        """Clear all registers."""
        self._words = {}

    def save(self) -> object:
        """Return a copy of the state."""
        return dict(self._words)

    def load(self, state: object) -> None:
        """Take a state that `save` returned."""
        assert isinstance(state, dict)
        self._words = dict(state)

    def read(self, offset: int, _size: int) -> int:
        """Read a register."""
        return self._fixed.get(offset, self._words.get(offset, 0))

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write a register."""
        if _SCC_CFG0 <= offset < _SCC_AID:
            self._words[offset] = value


class BitBand:
    """A bit-band alias (Armv7-M, Cortex-M4 TRM 3.7): each word stands for one bit.

    Args:
        base: Address of the alias, 32 MiB.
        target: Address of what it shows, 1 MiB.
    """

    def __init__(self, base: int, target: int) -> None:
        self.base, self.size = base, 0x200_0000
        self._target = target
        self._processor: Processor | None = None

    def attach(self, processor: Processor) -> None:
        """Connect the bus."""
        self._processor = processor

    def _place(self, offset: int) -> tuple[int, int]:
        octet = self._target + offset // 32
        return octet & ~3, offset // 4 % 8 + 8 * (octet & 3)

    def read(self, offset: int, _size: int) -> int:
        """Return one bit."""
        word, bit = self._place(offset)
        return 0 if self._processor is None else self._processor.read_word(word) >> bit & 1

    def write(self, offset: int, _size: int, value: int) -> None:
        """Set one bit to bit 0 of `value`."""
        if self._processor is not None:
            word, bit = self._place(offset)
            before = self._processor.read_word(word)
            self._processor.write_word(word, before & ~(1 << bit) | (value & 1) << bit)
