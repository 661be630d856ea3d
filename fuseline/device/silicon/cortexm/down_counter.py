"""A counter that counts down to zero, reloads and begins again: the heart of every timer on the board.

It is never stepped: its value is computed from the time, so that a program pays for a timer only when it
looks at it or when it fires.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class DownCounter:
    """A reloading down counter. Times are in clock cycles.

    From `start_value` it counts to 0, once per `divider` cycles; one count later it stands at `reload`. A
    counter that starts at 0 reloads first, without firing.

    Attributes:
        reload: What follows 0; a counter with reload 0 stays at 0.
        divider: Clock cycles per count.
        running: Whether it counts.
        one_shot: Whether it stops at 0.
        start_value: What it stood at, at time `start`.
        start: The last time it was set or began to count.
        fired_until: Up to when `take_fired` has reported its zeros.
    """

    reload: int = 0
    divider: int = 1
    running: bool = False
    one_shot: bool = False
    start_value: int = 0
    start: int = 0
    fired_until: int = 0

    @property
    def _period(self) -> int:
        return (self.reload + 1) * self.divider

    def value(self, now: int) -> int:
        """Return the count at time `now`."""
        if not self.running:
            return self.start_value
        counts = (now - self.start) // self.divider
        if counts <= self.start_value:
            return self.start_value - counts
        if self.one_shot or self.reload == 0:
            return 0
        position = (counts - self.start_value) % (self.reload + 1)
        return self.reload + 1 - position if position else 0

    def _zero(self, after: int) -> int | None:
        """Return when it first reaches 0 later than `after`."""
        first = self.start + self.start_value * self.divider
        if self.start_value and first > after:
            return first
        if self.one_shot or self.reload == 0:
            return None
        return first + ((after - first) // self._period + 1) * self._period

    def next_zero(self) -> int | None:
        """Return when it reaches 0 for the first time that was not reported yet; None if never."""
        return self._zero(self.fired_until) if self.running else None

    def take_fired(self, now: int) -> bool:
        """Return whether it reached 0 since it was last asked, up to and with `now`."""
        zero = self.next_zero()
        if zero is None or zero > now:
            return False
        self.fired_until = now
        return True

    def set(self, now: int, value: int) -> None:
        """Set the count; what was due before `now` and not reported is lost."""
        self.start_value, self.start, self.fired_until = value, now, now

    def configure(
        self,
        now: int,
        *,
        reload: int | None = None,
        running: bool | None = None,
        divider: int | None = None,
        one_shot: bool | None = None,
    ) -> None:
        """Change how it counts, without changing what it stands at."""
        self.set(now, self.value(now))
        self.reload = self.reload if reload is None else reload
        self.running = self.running if running is None else running
        self.divider = self.divider if divider is None else divider
        self.one_shot = self.one_shot if one_shot is None else one_shot
