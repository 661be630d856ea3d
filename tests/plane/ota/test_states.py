"""The life of an action: what clients say proves nothing."""

from __future__ import annotations

import pytest

from fuseline.plane.ota.states import DEPLOYABLE, OPEN, ActionInput, ActionState, next_state, table

# What a device, or whoever has its operational key, can bring about by talking.
CLIENT = frozenset(
    {
        ActionInput.POLLED,
        ActionInput.PROGRESSED,
        ActionInput.CLAIMED_SUCCESS,
        ActionInput.CLAIMED_FAILURE,
        ActionInput.REPORTED_REVERT,
    }
)
DECIDED = frozenset(ActionState) - OPEN


def reachable(start: ActionState, events: frozenset[ActionInput]) -> frozenset[ActionState]:
    """Return every state that any sequence of events leads to: exhaustive, since the states are finite."""
    found, frontier = {start}, [start]
    while frontier:
        state = frontier.pop()
        for event in events:
            after = next_state(state, event)
            if after not in found:
                found.add(after)
                frontier.append(after)
    return frozenset(found)


@pytest.mark.parametrize("state", sorted(OPEN))
def test_no_sequence_of_client_claims_reaches_attested(state: ActionState) -> None:
    found = reachable(state, CLIENT)
    assert ActionState.ATTESTED not in found
    assert found <= frozenset(ActionState) - {ActionState.ATTESTED, ActionState.CANCELED}


@pytest.mark.parametrize("state", sorted(OPEN))
def test_nothing_but_the_measured_target_attests(state: ActionState) -> None:
    without = frozenset(ActionInput) - {ActionInput.MEASURED_TARGET}
    assert ActionState.ATTESTED not in reachable(state, without)
    assert next_state(state, ActionInput.MEASURED_TARGET) is ActionState.ATTESTED


@pytest.mark.parametrize("state", sorted(DECIDED))
def test_a_decided_action_never_moves(state: ActionState) -> None:
    assert reachable(state, frozenset(ActionInput)) == {state}


@pytest.mark.parametrize("state", sorted(OPEN))
def test_a_claim_of_success_is_unproven_until_measured(state: ActionState) -> None:
    claimed = next_state(state, ActionInput.CLAIMED_SUCCESS)
    assert claimed is ActionState.UNPROVEN
    assert next_state(claimed, ActionInput.MEASURED_OTHER) is ActionState.UNPROVEN
    assert next_state(claimed, ActionInput.PROGRESSED) is ActionState.UNPROVEN


def test_every_open_action_can_be_superseded() -> None:
    assert {next_state(state, ActionInput.SUPERSEDED) for state in OPEN} == {ActionState.CANCELED}


def test_the_table_has_every_pair_of_an_open_state_and_an_input() -> None:
    listed = {(state, event) for state, event, _ in table()}
    missing = {(state.value, event.value) for state in OPEN for event in ActionInput} - listed
    # A client that said "closed" polls for other work: its action waits for the measurement.
    assert missing == {(ActionState.UNPROVEN.value, ActionInput.POLLED.value)}
    assert next_state(ActionState.UNPROVEN, ActionInput.POLLED) is ActionState.UNPROVEN


def test_the_table_says_what_the_function_does() -> None:
    for state, event, after in table():
        assert next_state(ActionState(state), ActionInput(event)).value == after
        assert ActionState(state) in OPEN


def test_every_state_is_reached_from_the_first() -> None:
    assert reachable(ActionState.SCHEDULED, frozenset(ActionInput)) == frozenset(ActionState)


def test_an_unproven_action_is_not_deployed_again() -> None:
    assert frozenset({ActionState.UNPROVEN}) == OPEN - DEPLOYABLE
