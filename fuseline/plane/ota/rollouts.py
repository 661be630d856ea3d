"""Rollouts: which devices should run which release, and the truth of whether they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from fuseline.errors import NotFound, ReleaseDowngrade, RolloutEmpty
from fuseline.formats.ddi import Execution, Feedback, Finished
from fuseline.plane.ota.releases import Release
from fuseline.plane.ota.states import DEPLOYABLE, OPEN, ActionInput, ActionState, next_state
from fuseline.plane.store.database import Database, Row, Transaction
from fuseline.plane.store.schema import actions, feedback, rollouts
from fuseline.plane.store.statements import compiled, insertion

# A client says that it fell back by this word in its details; our agent writes it, others may.
REVERTED_DETAIL = "reverted"

_OPEN = compiled(
    sa.select(actions)
    .where(actions.c.device_id == sa.bindparam("device_id"))
    .where(actions.c.open == sa.literal_column("1"))
)
# The poll's whole work: this runs for every device, all day.
_POLL = compiled(
    sa.select(actions.c.id, actions.c.state)
    .where(actions.c.device_id == sa.bindparam("device_id"))
    .where(actions.c.open == sa.literal_column("1"))
)
# By the text in the table: looking an enum's member up costs the poll more than its answer's JSON.
_DEPLOYABLE = {state.value: state for state in DEPLOYABLE}
_BY_ID = compiled(sa.select(actions).where(actions.c.id == sa.bindparam("id")))
_FOR_RELEASE = compiled(
    sa.select(actions.c.id)
    .where(actions.c.device_id == sa.bindparam("device_id"))
    .where(actions.c.release_id == sa.bindparam("release_id"))
    .limit(1)
)
_INSERT_ROLLOUT = insertion(rollouts, "release_id", "created_at", returning="id")
_INSERT_ACTION = insertion(
    actions, "device_id", "rollout_id", "release_id", "state", "open", "created_at", "updated_at"
)
_UPDATE = compiled(
    sa.update(actions)
    .where(actions.c.id == sa.bindparam("action_id"))
    .values(
        state=sa.bindparam("new_state"),
        open=sa.bindparam("is_open"),
        why=sa.bindparam("new_why"),
        updated_at=sa.bindparam("now"),
        appraisal_id=sa.bindparam("new_appraisal_id"),
    )
)
_INSERT_FEEDBACK = insertion(feedback, "action_id", "at", "execution", "finished", "details")
_latest_ids = sa.select(sa.func.max(actions.c.id)).group_by(actions.c.device_id)
_LATEST = compiled(sa.select(actions).where(actions.c.id.in_(_latest_ids)))
_OF_DEVICE = compiled(
    sa.select(actions).where(actions.c.device_id == sa.bindparam("device_id")).order_by(actions.c.id)
)


@dataclass(frozen=True, slots=True)
class Action:
    """One device's part in a rollout; times in seconds since the epoch."""

    action_id: int
    device_id: int
    release_id: int
    state: ActionState
    why: str | None
    created_at: float
    updated_at: float
    appraisal_id: int | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that a rollout may include.

    Attributes:
        device_id: The device.
        name: Its name.
        running: The release it last measured as; None if unknown.
        floor: The highest security counter it was seen to run.
    """

    device_id: int
    name: str
    running: int | None
    floor: int


@dataclass(frozen=True, slots=True)
class StartedRollout:
    """What a rollout set in motion, and which devices it left out and why."""

    rollout_id: int
    devices: list[str]
    skipped: dict[str, str]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the verifier found a device to run.

    Attributes:
        appraisal_id: Where it is on record.
        device_id: The device.
        device: Its name.
        at: Seconds since the epoch.
        release_id: The release whose reference values were measured; None if no release's were.
        running: Words for what runs: a version, or the start of a digest.
    """

    appraisal_id: int
    device_id: int
    device: str
    at: float
    release_id: int | None
    running: str


class Rollouts:
    """The rollouts of one fleet."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def start(self, release: Release, candidates: Sequence[Candidate], now: float) -> StartedRollout:
        """Plan a release for devices.

        Raises:
            RolloutEmpty: No device of this hardware is in good standing.
            ReleaseDowngrade: A device is known to have a higher security counter; the devices would
                refuse, so the plane does so first.
        """
        if not candidates:
            raise RolloutEmpty("no device fits", hardware=release.hardware, vendor=release.vendor)
        ahead = [one.name for one in candidates if one.floor > release.security_counter]
        if ahead:
            raise ReleaseDowngrade(
                "devices have a higher security counter than the release",
                release=release.version,
                security_counter=release.security_counter,
                devices=ahead[:20],
            )
        return await self._database.write(lambda tx: self._plan(tx, release, candidates, now))

    def _plan(
        self, tx: Transaction, release: Release, candidates: Sequence[Candidate], now: float
    ) -> StartedRollout:
        row = tx.one(_INSERT_ROLLOUT, release_id=release.release_id, created_at=now)
        assert row is not None
        started = StartedRollout(rollout_id=row[0], devices=[], skipped={})
        for candidate in candidates:
            why = self._include(tx, started.rollout_id, release, candidate, now)
            if why is None:
                started.devices.append(candidate.name)
            else:
                started.skipped[candidate.name] = why
        tx.emit(
            "rollout.started",
            now,
            rollout=started.rollout_id,
            release=release.version,
            devices=len(started.devices),
        )
        return started

    def _include(
        self, tx: Transaction, rollout_id: int, release: Release, candidate: Candidate, now: float
    ) -> str | None:
        """Give a device an action; returns why not, if not."""
        if candidate.running == release.release_id:
            return "measured on this release already"
        row = tx.one(_OPEN, device_id=candidate.device_id)
        if row is not None:
            action = _action(row)
            if action.state is not ActionState.UNPROVEN:
                return f"action {action.action_id} is {action.state.value}"
            why = f"superseded by rollout {rollout_id}"
            self._move(tx, action, ActionInput.SUPERSEDED, now, candidate.name, why=why)
        tx.run(
            _INSERT_ACTION,
            device_id=candidate.device_id,
            rollout_id=rollout_id,
            release_id=release.release_id,
            state=ActionState.SCHEDULED.value,
            open=1,
            created_at=now,
            updated_at=now,
        )
        return None

    def deployable(self, device_id: int) -> tuple[int, ActionState] | None:
        """Return the action that a polling device should see, and its state."""
        row = self._database.one(_POLL, device_id=device_id)
        if row is None:
            return None
        state = _DEPLOYABLE.get(row[1])
        return None if state is None else (row[0], state)

    async def offered(self, action_id: int, device: str, now: float) -> None:
        """Note that the device's poll was answered with the action."""
        await self._database.write(
            lambda tx: self._move(tx, self._locked(tx, action_id), ActionInput.POLLED, now, device)
        )

    def of_device(self, device_id: int, action_id: int) -> Action:
        """Return an action of a device.

        Raises:
            NotFound: Not this device's, or no such action.
        """
        row = self._database.one(_BY_ID, id=action_id)
        if row is None or row["device_id"] != device_id:
            raise NotFound("the device has no such action", action=action_id)
        return _action(row)

    def may_download(self, device_id: int, release_id: int) -> bool:
        """Say whether a rollout ever meant this release for this device."""
        return self._database.one(_FOR_RELEASE, device_id=device_id, release_id=release_id) is not None

    async def feedback(self, action: Action, device: str, message: Feedback, now: float) -> None:
        """Take what a client says of an action: kept as said, and moved no further than it proves."""
        event, why = _read_feedback(message)
        details = "\n".join(message.status.details)[:4000]

        def work(tx: Transaction) -> None:
            tx.run(
                _INSERT_FEEDBACK,
                action_id=action.action_id,
                at=now,
                execution=message.status.execution.value,
                finished=message.status.result.finished.value,
                details=details,
            )
            if event is not None:
                self._move(tx, self._locked(tx, action.action_id), event, now, device, why=why)

        await self._database.write(work)

    def measured(self, tx: Transaction, found: Measurement) -> None:
        """Hold a measurement against the device's open action: this is what finishes an update."""
        row = tx.one(_OPEN, device_id=found.device_id)
        if row is None:
            return
        action = _action(row)
        if found.release_id == action.release_id:
            event, why = ActionInput.MEASURED_TARGET, None
        elif action.state is ActionState.UNPROVEN:
            event = ActionInput.MEASURED_OTHER
            why = f"the device says success, but its measurement is that of {found.running}"
        else:
            return  # still on its way
        self._move(tx, action, event, found.at, found.device, why=why, appraisal_id=found.appraisal_id)

    @staticmethod
    def _locked(tx: Transaction, action_id: int) -> Action:
        row = tx.one(_BY_ID, id=action_id)
        assert row is not None
        return _action(row)

    @staticmethod
    def _move(
        tx: Transaction,
        action: Action,
        event: ActionInput,
        now: float,
        device: str,
        *,
        why: str | None = None,
        appraisal_id: int | None = None,
    ) -> None:
        if action.state not in OPEN:
            return  # decided; what comes late changes nothing
        state = next_state(action.state, event)
        if state is action.state and why in (None, action.why):
            return
        tx.run(
            _UPDATE,
            action_id=action.action_id,
            new_state=state.value,
            is_open=int(state in OPEN),
            new_why=why,
            now=now,
            new_appraisal_id=appraisal_id,
        )
        kind = "progress" if state is ActionState.RUNNING else state.value
        tx.emit(f"action.{kind}", now, device, action=action.action_id, why=why)

    def latest(self) -> dict[int, Action]:
        """Return each device's last action, by device id."""
        return {row["device_id"]: _action(row) for row in self._database.all(_LATEST)}

    def history(self, device_id: int) -> list[Action]:
        """Return a device's actions, oldest first."""
        return [_action(row) for row in self._database.all(_OF_DEVICE, device_id=device_id)]


def _read_feedback(message: Feedback) -> tuple[ActionInput | None, str | None]:
    """Turn a client's words into an input of the state table, and the reason to show."""
    status = message.status
    words = "; ".join(status.details)[:500]
    if status.result.finished is Finished.FAILURE or status.execution is Execution.REJECTED:
        if any(detail.startswith(REVERTED_DETAIL) for detail in status.details):
            return ActionInput.REPORTED_REVERT, words
        return ActionInput.CLAIMED_FAILURE, words or "the device gave no reason"
    if status.execution is Execution.CLOSED:
        return ActionInput.CLAIMED_SUCCESS, "the device says success; no measurement shows it yet"
    if status.execution in (
        Execution.PROCEEDING,
        Execution.DOWNLOAD,
        Execution.DOWNLOADED,
        Execution.RESUMED,
    ):
        return ActionInput.PROGRESSED, None
    return None, None


def _action(row: Row) -> Action:
    return Action(
        action_id=row["id"],
        device_id=row["device_id"],
        release_id=row["release_id"],
        state=ActionState(row["state"]),
        why=row["why"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        appraisal_id=row["appraisal_id"],
    )
