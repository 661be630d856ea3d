"""What a processor is built into: memory with its permissions, and devices with their registers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from fuseline.device.silicon.engine import Stop


class Access(IntFlag):
    """What the bus lets the processor do in a region, whatever the MPU says. The numbers are Unicorn's."""

    NONE = 0
    R = 1
    W = 2
    X = 4
    RW = 3
    RX = 5
    RWX = 7


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """A window of memory.

    Attributes:
        base: First address, a multiple of 1 KiB.
        size: In octets, a multiple of 1 KiB.
        access: What the bus allows; anything else ends in a BusFault.
        buffer: The memory itself, writable and `size` octets long; None for memory of the processor's own,
            which is zero at first.
    """

    base: int
    size: int
    access: Access
    buffer: memoryview | None = None


class BusDevice(Protocol):
    """Registers behind the bus. Offsets are in octets from `base`, sizes 1, 2 or 4."""

    base: int
    size: int

    def read(self, offset: int, size: int) -> int:
        """Return what the processor reads."""
        ...

    def write(self, offset: int, size: int, value: int) -> None:
        """Take what the processor writes."""
        ...


class Processor(Protocol):
    """What a device may ask of the processor it is attached to."""

    @property
    def now(self) -> int:
        """Clock cycles since the processor was made; one instruction takes one."""
        ...

    def set_irq(self, number: int, level: bool) -> None:
        """Drive external interrupt line `number`."""
        ...

    def set_nmi(self, level: bool) -> None:
        """Drive the non-maskable interrupt."""
        ...

    def request_stop(self, stop: Stop) -> None:
        """End the run after the current instruction."""
        ...

    def read_word(self, address: int) -> int:
        """Read a word from memory or a device, 0 where there is none."""
        ...

    def write_word(self, address: int, value: int) -> None:
        """Write a word to memory or a device; nothing happens where there is none."""
        ...

    def timing_changed(self) -> None:
        """Say that `ClockedDevice.next_event` of some device has another answer now."""
        ...


@runtime_checkable
class AttachedDevice(Protocol):
    """A device that needs its processor: for interrupts, for the time, or to end the run."""

    def attach(self, processor: Processor) -> None:
        """Called once, before the first access."""
        ...


@runtime_checkable
class ClockedDevice(Protocol):
    """A device in which time passes. Times are `Processor.now`."""

    def next_event(self) -> int | None:
        """Return when it next does something on its own; None if never."""
        ...

    def advance(self, now: int) -> None:
        """Do everything that was due up to `now`."""
        ...


@runtime_checkable
class ListeningDevice(Protocol):
    """A device to which something may come from outside while the processor sleeps."""

    @property
    def listening(self) -> bool:
        """Whether it waits for something now; then sleep is never for ever."""
        ...


@runtime_checkable
class ResettableDevice(Protocol):
    """A device that starts anew with the processor."""

    def reset(self) -> None:
        """Take the state that the data sheet gives for reset."""
        ...


@runtime_checkable
class StatefulDevice(Protocol):
    """A device whose state goes into the processor's snapshots."""

    def save(self) -> object:
        """Return a copy of the state."""
        ...

    def load(self, state: object) -> None:
        """Take a state that `save` returned, of this device or of an equal one."""
        ...
