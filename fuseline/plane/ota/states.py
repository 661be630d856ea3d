"""The life of an action, as a table.

What a client says moves an action no further than *unproven*. Only a measurement finishes it.
"""

from __future__ import annotations

import enum


class ActionState(enum.StrEnum):
    """Where one device is with one release."""

    SCHEDULED = "scheduled"
    OFFERED = "offered"
    RUNNING = "running"
    UNPROVEN = "unproven"
    ATTESTED = "attested"
    FAILED = "failed"
    REVERTED = "reverted"
    CANCELED = "canceled"


class ActionInput(enum.StrEnum):
    """What can happen to an action."""

    POLLED = "polled"
    PROGRESSED = "progressed"
    CLAIMED_SUCCESS = "claimed success"
    CLAIMED_FAILURE = "claimed failure"
    REPORTED_REVERT = "reported revert"
    MEASURED_TARGET = "measured target"
    MEASURED_OTHER = "measured other"
    SUPERSEDED = "superseded"


S, I = ActionState, ActionInput  # noqa: E741 - the table below is read by column

OPEN = frozenset({S.SCHEDULED, S.OFFERED, S.RUNNING, S.UNPROVEN})
# hawkBit clients that said "closed" do not want the deployment again.
DEPLOYABLE = frozenset({S.SCHEDULED, S.OFFERED, S.RUNNING})

_TABLE: dict[tuple[ActionState, ActionInput], ActionState] = {
    (S.SCHEDULED, I.POLLED): S.OFFERED,
    (S.OFFERED, I.POLLED): S.OFFERED,
    (S.RUNNING, I.POLLED): S.RUNNING,
    (S.SCHEDULED, I.PROGRESSED): S.RUNNING,
    (S.OFFERED, I.PROGRESSED): S.RUNNING,
    (S.RUNNING, I.PROGRESSED): S.RUNNING,
    # SWUpdate posts from two connections: a `proceeding` may come after `closed`, and reopens nothing.
    (S.UNPROVEN, I.PROGRESSED): S.UNPROVEN,
    **{(state, I.CLAIMED_SUCCESS): S.UNPROVEN for state in OPEN},
    **{(state, I.CLAIMED_FAILURE): S.FAILED for state in OPEN},
    **{(state, I.REPORTED_REVERT): S.REVERTED for state in OPEN},
    **{(state, I.MEASURED_TARGET): S.ATTESTED for state in OPEN},
    **{(state, I.MEASURED_OTHER): state for state in OPEN},
    **{(state, I.SUPERSEDED): S.CANCELED for state in OPEN},
}


def next_state(state: ActionState, event: ActionInput) -> ActionState:
    """Return the state after an event; a decided action stays as it is."""
    return _TABLE.get((state, event), state)


def table() -> list[tuple[str, str, str]]:
    """Return the table as (state, input, next state), for people and for tests."""
    return sorted((state.value, event.value, after.value) for (state, event), after in _TABLE.items())
