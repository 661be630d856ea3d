"""The cycle counter of the data watchpoint and trace unit (Armv7-M C1.8): programs measure time with it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(slots=True)
class CycleCounter:
    """DWT_CYCCNT.

    Attributes:
        enabled: DWT_CTRL.CYCCNTENA.
        base: Its value at time `since`.
        since: When it was last set or switched.
    """

    enabled: bool = False
    base: int = 0
    since: int = 0

    def copy(self) -> CycleCounter:
        """Return an equal one that shares nothing."""
        return dataclasses.replace(self)

    def value(self, now: int) -> int:
        """Return the count at time `now`."""
        return (self.base + (now - self.since if self.enabled else 0)) & 0xFFFF_FFFF

    def set(self, now: int, value: int) -> None:
        """Set the count."""
        self.base, self.since = value & 0xFFFF_FFFF, now

    def enable(self, now: int, *, on: bool) -> None:
        """Start or stop it."""
        self.set(now, self.value(now))
        self.enabled = on
