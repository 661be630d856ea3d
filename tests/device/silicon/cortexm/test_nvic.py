"""Which exception runs: the rules of Armv7-M B1.5.4, without a processor."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fuseline.device.silicon.cortexm.nvic import EXCEPTIONS, THREAD_PRIORITY, Exc, Masks, Nvic

lines = st.integers(Exc.IRQ0, EXCEPTIONS - 1)
priorities = st.integers(0, 255)


def nvic(*pending: int, active: tuple[int, ...] = (), group: int = 0, **priority: int) -> Nvic:
    """A controller in which all interrupts are enabled; `irq3=0x40` sets a priority."""
    made = Nvic()
    made.reset()
    made.enabled = -1
    made.priority_group = group
    for name, value in priority.items():
        made.priority[Exc.IRQ0 + int(name.removeprefix("irq"))] = value
    for number in pending:
        made.pend(number)
    for number in active:
        made.activate(number)
    return made


def test_the_highest_priority_is_taken_first_then_the_lowest_number() -> None:
    made = nvic(20, 21, 22, irq4=0x40, irq5=0x20, irq6=0x20)
    assert made.to_take(Masks()) == 21


def test_equal_priority_does_not_preempt() -> None:
    assert nvic(21, active=(20,), irq4=0x40, irq5=0x40).to_take(Masks()) is None


def test_a_subpriority_orders_and_does_not_preempt() -> None:
    made = nvic(21, 22, active=(20,), group=5, irq4=0x7F, irq5=0x50, irq6=0x40)
    assert made.to_take(Masks()) is None
    made.deactivate(20)
    assert made.to_take(Masks()) == 22


def test_nmi_passes_every_mask_but_its_own() -> None:
    assert nvic(Exc.NMI).to_take(Masks(1, 1, 1)) == Exc.NMI
    assert nvic(Exc.NMI, active=(Exc.NMI,)).to_take(Masks()) is None


def test_basepri_of_zero_masks_nothing() -> None:
    assert nvic(20, irq4=0x40).to_take(Masks(basepri=0)) == 20
    assert nvic(20, irq4=0x40).to_take(Masks(basepri=0x40)) is None
    assert nvic(20, irq4=0x40).to_take(Masks(basepri=0x42)) == 20


def test_a_disabled_exception_waits() -> None:
    made = nvic(20)
    made.enabled = 0
    assert made.to_take(Masks()) is None
    assert not made.preempts(Exc.USAGE_FAULT, Masks())


def test_a_level_that_is_still_high_pends_again() -> None:
    made = nvic()
    made.set_line(20, True)
    made.activate(20)
    assert not made.pending
    made.deactivate(20)
    assert made.pending == 1 << 20
    made.set_line(20, False)
    made.activate(20)
    made.deactivate(20)
    assert not made.pending


@given(
    st.lists(lines, unique=True, max_size=6),
    st.lists(lines, unique=True, max_size=3),
    st.lists(priorities, min_size=32, max_size=32),
    st.integers(0, 7),
    st.builds(Masks, st.integers(0, 1), priorities, st.integers(0, 1)),
)
def test_nothing_ever_preempts_what_is_as_urgent(
    pending: list[int], active: list[int], levels: list[int], group: int, masks: Masks
) -> None:
    made = nvic(*pending, active=tuple(active), group=group)
    made.priority[Exc.IRQ0 :] = levels
    taken = made.to_take(masks)
    waiting = [n for n in pending if n not in active]
    running = made.execution_priority(masks)
    assert running <= THREAD_PRIORITY
    could = [n for n in waiting if made.group(made.priority[n]) < running]
    if taken is None:
        assert not could
    else:
        assert taken in could
        assert all(made.group(made.priority[taken]) <= made.group(made.priority[n]) for n in could)
