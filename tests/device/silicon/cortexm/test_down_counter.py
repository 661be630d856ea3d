"""A counter that is computed, against one that is stepped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fuseline.device.silicon.cortexm.down_counter import DownCounter


def stepped(start: int, reload: int, one_shot: bool, counts: int) -> tuple[int, list[int]]:
    """The value after so many counts, and at which counts it reached 0."""
    value, zeros = start, []
    for count in range(1, counts + 1):
        if value:
            value -= 1
            if value == 0:
                zeros.append(count)
        elif not one_shot and reload:
            value = reload
    return value, zeros


@given(
    st.integers(0, 30),
    st.integers(0, 12),
    st.booleans(),
    st.integers(1, 5),
    st.integers(0, 200),
    st.integers(0, 50),
)
def test_value_and_zeros_are_those_of_a_stepped_counter(
    start: int, reload: int, one_shot: bool, divider: int, counts: int, offset: int
) -> None:
    counter = DownCounter(reload=reload, divider=divider, one_shot=one_shot, running=True)
    counter.set(offset, start)
    value, zeros = stepped(start, reload, one_shot, counts)
    end = offset + counts * divider
    assert counter.value(end) == value
    found = []
    while (zero := counter.next_zero()) is not None and zero <= end:
        found.append((zero - offset) // divider)
        assert counter.take_fired(zero)
    assert found == zeros
    assert not counter.take_fired(end)


def test_a_stopped_counter_keeps_its_value_and_never_fires() -> None:
    counter = DownCounter(reload=10, start_value=5, running=True)
    counter.configure(3, running=False)
    assert (counter.value(3), counter.value(1_000), counter.next_zero()) == (2, 2, None)
    counter.configure(1_000, running=True)
    assert counter.next_zero() == 1_002
