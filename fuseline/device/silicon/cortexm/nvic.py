"""Which exception runs: priorities, enable, pending and active state (Armv7-M B1.5, B3.4).

Nothing here knows of registers or memory; the processor asks, enters and leaves exceptions.
Sets of exceptions are integers: bit n stands for exception number n.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final


class Exc(IntEnum):
    """Exception numbers (Armv7-M B1.5.2); external interrupt n is `IRQ0 + n`."""

    THREAD = 0
    RESET = 1
    NMI = 2
    HARD_FAULT = 3
    MEM_MANAGE = 4
    BUS_FAULT = 5
    USAGE_FAULT = 6
    SVCALL = 11
    DEBUG_MONITOR = 12
    PENDSV = 14
    SYSTICK = 15
    IRQ0 = 16


IRQ_LINES: Final = 32
"""External interrupts of mps2-an385 and -an386 (QEMU hw/arm/mps2.c, `num-irq`)."""
EXCEPTIONS: Final = Exc.IRQ0 + IRQ_LINES

THREAD_PRIORITY: Final = 256
"""Execution priority when nothing is active and nothing masked: lower than any exception's."""

_FIXED = {Exc.RESET: -3, Exc.NMI: -2, Exc.HARD_FAULT: -1}
_FAULTS_WITH_ENABLE = 1 << Exc.MEM_MANAGE | 1 << Exc.BUS_FAULT | 1 << Exc.USAGE_FAULT
_ALWAYS_ENABLED = 1 << Exc.NMI | 1 << Exc.HARD_FAULT | 1 << Exc.SVCALL | 1 << Exc.PENDSV | 1 << Exc.SYSTICK


@dataclass(frozen=True, slots=True)
class Masks:
    """The processor's own mask registers (Armv7-M B1.4.3)."""

    primask: int = 0
    basepri: int = 0
    faultmask: int = 0


def _bits(number: int) -> list[int]:
    found = []
    while number:
        low = number & -number
        found.append(low.bit_length() - 1)
        number ^= low
    return found


@dataclass(slots=True)
class Nvic:
    """State of all exceptions.

    Priorities have all 8 bits, as QEMU's Cortex-M3 and -M4 have them (a chip may have fewer).

    Attributes:
        priority: Priority of each exception number.
        enabled: Exceptions that may be taken at all.
        pending: Exceptions that wait.
        active: Exceptions that were entered and not left.
        level: Interrupts whose line is high now.
        priority_group: AIRCR.PRIGROUP.
    """

    priority: list[int] = field(default_factory=lambda: [0] * EXCEPTIONS)
    enabled: int = _ALWAYS_ENABLED
    pending: int = 0
    active: int = 0
    level: int = 0
    priority_group: int = 0

    def reset(self) -> None:
        """Return to the state after reset; interrupt lines keep their level."""
        self.priority = [0] * EXCEPTIONS
        for exception, value in _FIXED.items():
            self.priority[exception] = value
        self.enabled = _ALWAYS_ENABLED
        self.pending, self.active, self.priority_group = self.level, 0, 0

    def copy(self) -> Nvic:
        """Return an equal one that shares nothing."""
        return Nvic(
            list(self.priority), self.enabled, self.pending, self.active, self.level, self.priority_group
        )

    def group(self, priority: int) -> int:
        """Return the part of a priority that decides on preemption (Armv7-M B1.5.4)."""
        if priority < 0:
            return priority
        return priority & (0xFF << (self.priority_group + 1)) & 0xFF

    def active_priority(self) -> int:
        """Return the highest group priority of all active exceptions."""
        best = THREAD_PRIORITY
        for exception in _bits(self.active):
            best = min(best, self.group(self.priority[exception]))
        return best

    def execution_priority(self, masks: Masks) -> int:
        """Return the current execution priority (Armv7-M B1.5.4, ExecutionPriority())."""
        boosted = self.active_priority()
        if masks.basepri:
            boosted = min(boosted, self.group(masks.basepri))
        if masks.primask:
            boosted = min(boosted, 0)
        if masks.faultmask:
            boosted = min(boosted, -1)
        return boosted

    def highest_pending(self) -> int | None:
        """Return the pending enabled exception that would be taken first."""
        ready = self.pending & self.enabled
        if not ready:
            return None
        if not ready & (ready - 1):
            return ready.bit_length() - 1
        priority = self.priority
        return min(_bits(ready), key=lambda n: (self.group(priority[n]), priority[n], n))

    def to_take(self, masks: Masks) -> int | None:
        """Return the exception that preempts now."""
        first = self.highest_pending()
        if first is None or self.group(self.priority[first]) >= self.execution_priority(masks):
            return None
        return first

    def preempts(self, exception: int, masks: Masks) -> bool:
        """Return whether a synchronous exception can be taken, or must be escalated."""
        if not self.enabled >> exception & 1:
            return False
        return self.group(self.priority[exception]) < self.execution_priority(masks)

    def pend(self, exception: int) -> None:
        """Make an exception wait to be taken."""
        self.pending |= 1 << exception

    def unpend(self, exception: int) -> None:
        """Forget that an exception waits."""
        self.pending &= ~(1 << exception)

    def activate(self, exception: int) -> None:
        """An exception is entered."""
        self.pending &= ~(1 << exception)
        self.active |= 1 << exception

    def deactivate(self, exception: int) -> None:
        """An exception is left; its interrupt waits again if the line is still high (Armv7-M B3.4.1)."""
        self.active &= ~(1 << exception)
        self.pending |= self.level & 1 << exception

    def nested(self) -> int:
        """Return how many exceptions are active."""
        return self.active.bit_count()

    def set_line(self, exception: int, level: bool) -> None:
        """Drive an interrupt line; a rising edge, or a high level at the end of the handler, pends it."""
        bit = 1 << exception
        if level and not self.level & bit:
            self.pending |= bit
        self.level = self.level | bit if level else self.level & ~bit

    def set_fault_enables(self, enabled: int) -> None:
        """Enable exactly these of MemManage, BusFault and UsageFault (SHCSR)."""
        self.enabled = self.enabled & ~_FAULTS_WITH_ENABLE | enabled & _FAULTS_WITH_ENABLE
