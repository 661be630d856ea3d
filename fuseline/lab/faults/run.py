"""Runs faults, one after another, on one engine, and judges what became of each."""

from __future__ import annotations

import bisect
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.commands import KeySlot, Lock, Stage
from fuseline.device.silicon.engine import Limits, Stop, StopKind
from fuseline.device.silicon.fault_probe import FaultProbe
from fuseline.device.silicon.memory_map import LOADER_RAM, DebugState, ResetReason
from fuseline.errors import SiliconError
from fuseline.lab.faults.engine import WatchedEngine
from fuseline.lab.faults.targets import Attack, genuine_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fuseline.device.silicon.rom import RomImage
    from fuseline.device.silicon.silicon import Silicon
    from fuseline.lab.faults.models import Fault
    from fuseline.lab.faults.targets import Target
    from fuseline.lab.faults.trace import Trace

_BUDGET: Final = Limits(instructions=30_000)
"""After a fault: twice a whole boot."""
_SECOND_BUDGET: Final = Limits(instructions=600_000)
"""For what has not ended by then; what does not end in this hangs."""
_MAX_RESETS: Final = 4
_LOADER_LOCKS: Final = (
    Lock.FUSES_FACTORY | Lock.FLASH_IDENTITY | Lock.DEBUG | Lock.KEY_ROOTS | Lock.PUF | Lock.EXEC
)


class Outcome(StrEnum):
    """What became of a boot with a fault."""

    REFUSED = "refused"
    """As without the fault."""
    DETECTED = "detected"
    """Refused for another reason than without the fault."""
    CRASHED = "crashed"
    """The processor locked up."""
    HUNG = "hung"
    """It did not end."""
    STOPPED = "stopped"
    """The program ended the run without starting anything."""
    GENUINE = "genuine"
    """The genuine loader was started, because it stands in flash, or from RAM, where the last boot had left
    it. Everything is locked."""
    DIVERTED = "diverted"
    """The same, but not at its beginning: the very jump was disturbed. Everything is locked."""
    WON = "won"
    """The attacker's image was started or main RAM made executable around it, or debug was opened."""
    EXPOSED = "exposed"
    """The genuine loader was started, and something that must be out of its reach is not."""


FOUND: Final = frozenset({Outcome.WON, Outcome.EXPOSED, Outcome.DIVERTED})
"""Outcomes that are reported one by one."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One fault that mattered.

    Attributes:
        fault: What happened.
        address: Of the instruction.
        outcome: One of `FOUND`.
        how: What is open, for a person.
    """

    fault: Fault
    address: int
    outcome: Outcome
    how: str


@dataclass(slots=True)
class Tally:
    """What became of some faults.

    Attributes:
        outcomes: How often each.
        findings: Faults that let the attacker in.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    findings: list[Judged] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take the faults of another tally in."""
        self.outcomes.update(other.outcomes)
        self.findings += other.findings


class FaultRunner:
    """Makes faults in the boots of one target.

    Args:
        target: What is attacked.
        rom: By which ROM.
        trace: Its undisturbed boot.
    """

    def __init__(self, target: Target, rom: RomImage, trace: Trace) -> None:
        self._target, self._rom, self._trace = target, rom, trace
        self._silicon = target.prepare(rom)
        self._engine = WatchedEngine()
        self._probe = FaultProbe(self._silicon, rom.binary, self._engine)
        self._start = self._probe.snapshot()

    def run(self, faults: Sequence[Fault], progress: Callable[[int], None] = lambda _: None) -> Tally:
        """Make each of these faults in a boot of its own.

        Args:
            faults: In the order of the boot.
            progress: Told how many more were made.
        """
        tally = Tally()
        probe, trace = self._probe, self._trace
        probe.restore(self._start)
        at, position = 0, 0
        while position < len(faults):
            index = faults[position].index
            at = self._advance(at, index)
            unit = trace.unit(at)
            end = position
            while end < len(faults) and faults[end].index in unit:
                end += 1
            moment = probe.snapshot()
            for fault in faults[position:end]:
                self._judge(fault, fault.index - at, tally)
                probe.restore(moment)
            progress(end - position)
            position = end
        return tally

    def _advance(self, at: int, index: int) -> int:
        """Execute undisturbed from the start at `at` to the one whose unit holds `index`; returns it."""
        trace, probe = self._trace, self._probe
        goal = trace.starts[bisect.bisect_right(trace.starts, index) - 1]
        begun = probe.instructions
        if goal - at > 2:
            # A limited run may end behind its limit, at the end of an IT block: so it stops well before.
            probe.resume(Limits(instructions=max(goal - at - 8, 1)))
        while probe.instructions - begun < goal - at:
            probe.step()
        if probe.instructions - begun != goal - at or probe.pc != trace.executed[goal].address:
            raise RuntimeError(f"the boot left its trace before instruction {goal}, at {probe.pc:#010x}")
        return goal

    def _judge(self, fault: Fault, offset: int, tally: Tally) -> None:
        stop = fault.inject(self._probe, offset) or self._finish()
        for _ in range(_MAX_RESETS):
            if stop.kind not in {StopKind.RESET, StopKind.WATCHDOG}:
                break
            stop = self._restart(stop)
        outcome, how = self._outcome(stop)
        tally.outcomes[outcome] += 1
        if outcome in FOUND:
            address = self._trace.executed[fault.index].address
            tally.findings.append(Judged(fault, address, outcome, how))

    def _finish(self) -> Stop:
        stop = self._probe.resume(_BUDGET).stop
        return stop if stop.kind is not StopKind.TIMEOUT else self._probe.resume(_SECOND_BUDGET).stop

    def _restart(self, stop: Stop) -> Stop:
        """Follow a reset that the fault has led to; the boot after it is undisturbed."""
        watchdog = stop.kind is StopKind.WATCHDOG
        reason = ResetReason.WARM if watchdog else ResetReason(stop.value)
        self._silicon.reset(reason, watchdog=watchdog)
        self._engine.start(self._silicon, self._rom.binary)
        return self._finish()

    def _outcome(self, stop: Stop) -> tuple[Outcome, str]:
        silicon, entered = self._silicon, self._probe.left_rom
        if silicon.debug is DebugState.OPEN:
            return Outcome.WON, "debug is open"
        if entered is not None:
            return self._entered(entered)
        started = self._engine.opened or Stage.LOADER in silicon.stages
        if started and self._target.attack is not Attack.LOCKS and not self._target.runs_genuine(silicon):
            return Outcome.WON, "main RAM is executable"
        if stop.kind is StopKind.FAIL:
            same = stop.value == self._trace.stop.value and self._trace.stop.kind is StopKind.FAIL
            return (Outcome.REFUSED if same else Outcome.DETECTED), ""
        return _OTHERWISE.get(stop.kind, Outcome.HUNG), ""

    def _entered(self, address: int) -> tuple[Outcome, str]:
        silicon = self._silicon
        where = f"main RAM was entered at {address:#010x}"
        if not self._target.runs_genuine(silicon):
            return Outcome.WON, where
        exposed = exposures(silicon)
        if exposed:
            return Outcome.EXPOSED, f"open: {', '.join(exposed)}"
        return (Outcome.GENUINE, "") if address == _GENUINE_ENTRY else (Outcome.DIVERTED, where)


_GENUINE_ENTRY: Final = LOADER_RAM + genuine_spec().header_size + 8
_OTHERWISE: Final = {StopKind.LOCKUP: Outcome.CRASHED, StopKind.EXIT: Outcome.STOPPED}


def exposures(silicon: Silicon) -> list[str]:
    """Return what a loader that is entered now could use, and must not: by trying."""
    keys = silicon.keys
    uses: dict[str, Callable[[], object]] = {
        "UDS": lambda: keys.check_value(KeySlot.UDS),
        "IDevID CDI": lambda: keys.authenticate(KeySlot.IDEVID_CDI, b""),
        "IDevID key": lambda: keys.sign(KeySlot.IDEVID_KEY, bytes(32)),
    }
    found = []
    for name, use in uses.items():
        try:
            use()
        except SiliconError:
            continue
        found.append(name)
    if not silicon.puf_locked:
        found.append("PUF rows")
    return [*found, *(f"lock {lock.name}" for lock in _LOADER_LOCKS & ~silicon.locks)]
