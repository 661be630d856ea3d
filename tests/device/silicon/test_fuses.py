"""Fuses: one way only, in order, by whom and when; and what a failing supply leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from fuseline.device.silicon import fuse_map
from fuseline.device.silicon.commands import Lock
from fuseline.device.silicon.fuse_map import FUSE_WORDS, Counter, KeyType, LifeCycle
from fuseline.device.silicon.fuse_plans import (
    plan_chip_id,
    plan_counter,
    plan_debug_authority,
    plan_key,
    plan_life_cycle,
    plan_product,
    plan_revocation,
)
from fuseline.device.silicon.fuse_view import last_complete_state, read_fuses
from fuseline.device.silicon.fuses import FIELD_OF_WORD, FuseContent, Origin
from fuseline.device.silicon.memory_map import FUSE_SHADOW, DebugState, ResetReason
from fuseline.device.silicon.power import PowerLost
from fuseline.device.silicon.silicon import Silicon
from fuseline.errors import (
    FuseArgument,
    FuseDebug,
    FuseLastKey,
    FuseLifeCycle,
    FuseLocked,
    FuseOrder,
    FuseStuck,
)

ORDER = (LifeCycle.TEST, LifeCycle.DEV, LifeCycle.PROD)
PRODUCTION_KEY = bytes(range(32))
SECOND_KEY = bytes(range(1, 33))
AUTHORITY = bytes(range(2, 34))


def chip_in(life_cycle: LifeCycle, *, keys: int = 2, authority: bool = False) -> Silicon:
    """A chip with loader keys, brought to `life_cycle` and reset."""
    chip = Silicon(7)
    chip.fuses.blow_all(plan_chip_id(b"\x5a" * 32))
    for state in ORDER:
        if state > life_cycle:
            break
        chip.fuses.blow_all(plan_life_cycle(state))
        if state is LifeCycle.TEST:
            for slot, key in enumerate((PRODUCTION_KEY, SECOND_KEY)[:keys]):
                chip.fuses.blow_all(plan_key(slot, key, KeyType.PROD))
        if state is LifeCycle.DEV and authority:
            chip.fuses.blow_all(plan_debug_authority(AUTHORITY))
    chip.reset()
    return chip


def cut(chip: Silicon, after: int, work: Callable[[], object]) -> None:
    """Do `work` with a supply that fails in the operation after `after` more."""
    chip.power.cut_at = chip.power.operations + after + 1
    with pytest.raises(PowerLost):
        work()
    chip.power.cut_at = None


def revoked_word(slot: int) -> int:
    return fuse_map.KEY_SLOT + slot * fuse_map.KEY_SLOT_STRIDE + fuse_map.KEY_SLOT_REVOKED_A


def test_a_blown_bit_is_read_by_the_processor_at_once_and_after_reset() -> None:
    chip = chip_in(LifeCycle.TEST)
    assert chip.fuses.blow(fuse_map.PRODUCT, 0x8000_0001) == 0x8000_0001
    at = FUSE_SHADOW + 4 * fuse_map.PRODUCT
    assert bytes(chip.psram.view(at, 4)) == b"\x01\x00\x00\x80"
    chip.reset(ResetReason.WARM)
    assert bytes(chip.psram.view(at, 4)) == b"\x01\x00\x00\x80"


def test_no_word_of_the_map_belongs_to_two_fields() -> None:
    covered = sum(
        field.words * (2 if field.protection == "thermometer" else 1)
        + (field.protection in {"berger", "copies"})
        for field in fuse_map.FIELDS
    )
    assert covered == len(FIELD_OF_WORD)
    assert max(FIELD_OF_WORD) < FUSE_WORDS


def test_unblow_no_blow_of_any_mask_takes_a_bit_away() -> None:
    chip = chip_in(LifeCycle.DEV)
    before = chip.fuses.words()
    for mask in (0, 1, 0x5555_5555, 0xFFFF_FFFF):
        chip.fuses.blow(fuse_map.PRODUCT, mask)
    after = chip.fuses.words()
    assert all(old & ~new == 0 for old, new in zip(before, after, strict=True))
    assert after[fuse_map.PRODUCT] == 0xFFFF_FFFF
    for mask in (-1, -2, 1 << 32):
        with pytest.raises(FuseArgument):
            chip.fuses.blow(fuse_map.PRODUCT, mask)
    assert chip.fuses.words() == after


@pytest.mark.parametrize("octet", [0x00, 0xFF, 0x5A])
def test_unblow_overwriting_the_shadow_changes_no_fuse_and_no_rule(octet: int) -> None:
    chip = chip_in(LifeCycle.PROD)
    chip.psram.view(FUSE_SHADOW, 4 * FUSE_WORDS)[:] = bytes((octet,)) * (4 * FUSE_WORDS)
    with pytest.raises(FuseLifeCycle):
        chip.fuses.blow(fuse_map.PRODUCT, 1, Origin.MACHINE_CODE)
    chip.reset(ResetReason.WARM)
    assert read_fuses(chip.fuses.words()).life_cycle is LifeCycle.PROD
    shadow = chip.psram.view(FUSE_SHADOW, 4 * FUSE_WORDS).cast("I").tolist()
    assert last_complete_state(shadow) is LifeCycle.PROD


@pytest.mark.parametrize("word", [-1, FUSE_WORDS, 1 << 31])
def test_a_word_that_does_not_exist_is_refused(word: int) -> None:
    chip = chip_in(LifeCycle.TEST)
    for ask in (chip.fuses.read, chip.fuses.margin, lambda at: chip.fuses.blow(at, 1)):
        with pytest.raises(FuseArgument):
            ask(word)


def test_words_of_no_field_are_never_blown() -> None:
    chip = chip_in(LifeCycle.TEST)
    for word in set(range(FUSE_WORDS)) - set(FIELD_OF_WORD):
        with pytest.raises(FuseArgument):
            chip.fuses.blow(word, 1)


@pytest.mark.parametrize("target", [LifeCycle.DEV, LifeCycle.PROD, LifeCycle.RMA, LifeCycle.SCRAP])
def test_skipping_a_life_cycle_is_refused_in_both_copies(target: LifeCycle) -> None:
    chip = chip_in(LifeCycle.BLANK)
    for word, code in plan_life_cycle(target):
        with pytest.raises(FuseOrder):
            chip.fuses.blow(word, code)
        with pytest.raises(FuseOrder):
            chip.fuses.blow(word, code & -code)
    assert chip.fuses.life_cycle_begun is LifeCycle.BLANK


def test_a_life_cycle_goes_on_only_when_both_copies_of_the_last_are_complete() -> None:
    chip = chip_in(LifeCycle.TEST)
    copy_a, copy_b = plan_life_cycle(LifeCycle.DEV)
    chip.fuses.blow(*copy_a)
    with pytest.raises(FuseOrder):
        chip.fuses.blow_all(plan_life_cycle(LifeCycle.PROD))
    chip.fuses.blow(*copy_b)
    chip.fuses.blow_all(plan_life_cycle(LifeCycle.PROD))
    assert chip.fuses.life_cycle is LifeCycle.PROD


def test_bits_outside_the_code_word_of_a_life_cycle_are_refused() -> None:
    chip = chip_in(LifeCycle.TEST)
    word, code = plan_life_cycle(LifeCycle.DEV)[0]
    with pytest.raises(FuseOrder):
        chip.fuses.blow(word, code | (~code & -~code))
    with pytest.raises(FuseOrder):
        chip.fuses.blow(fuse_map.LIFE_CYCLE_A, 0xFFFF_FFFF)
    assert read_fuses(chip.fuses.words()).faults == ()


@pytest.mark.parametrize("origin", Origin)
def test_blowing_a_key_slot_in_prod_is_refused(origin: Origin) -> None:
    chip = chip_in(LifeCycle.PROD, authority=True)
    chip.open_debug()
    for word, bits in plan_key(3, b"\xaa" * 32, KeyType.PROD):
        with pytest.raises(FuseLifeCycle):
            chip.fuses.blow(word, bits, origin)
    assert not read_fuses(chip.fuses.words()).keys[3].valid


@pytest.mark.parametrize("life_cycle", ORDER)
def test_every_field_closes_after_its_last_life_cycle(life_cycle: LifeCycle) -> None:
    chip = chip_in(life_cycle, authority=True)
    if life_cycle >= LifeCycle.DEV:
        chip.open_debug()
    for word, field in FIELD_OF_WORD.items():
        if field.blown_until < life_cycle:
            with pytest.raises(FuseLifeCycle):
                chip.fuses.blow(word, 1)


@pytest.mark.parametrize(
    ("lock", "word"),
    [
        (Lock.FUSES_FACTORY, fuse_map.PRODUCT),
        (Lock.FUSES_FACTORY, fuse_map.LIFE_CYCLE_A + 1),
        (Lock.FUSES_FACTORY, fuse_map.KEY_SLOT),
        (Lock.FUSES_REVOCATION, revoked_word(0)),
        (Lock.FUSES_REVOCATION, revoked_word(0) + 1),
        (Lock.FUSES_COUNTERS, fuse_map.COUNTER + fuse_map.COUNTER_STRIDE),
        (Lock.FUSES_COUNTERS, fuse_map.COUNTER + fuse_map.COUNTER_WORDS),
    ],
)
@pytest.mark.parametrize("origin", Origin)
def test_a_lock_holds_for_probe_and_machine_code_until_reset(lock: Lock, word: int, origin: Origin) -> None:
    chip = chip_in(LifeCycle.TEST)
    chip.state.locks = lock
    with pytest.raises(FuseLocked):
        chip.fuses.blow(word, 1 << 31, origin)
    assert not chip.fuses.read(word) >> 31 or word == fuse_map.KEY_SLOT


def test_the_probe_of_a_locked_chip_in_prod_blows_nothing() -> None:
    chip = chip_in(LifeCycle.PROD)
    assert chip.debug is DebugState.LOCKED
    for plan in (plan_revocation(1), plan_counter(Counter.LOADER, 1)):
        with pytest.raises(FuseDebug):
            chip.fuses.blow_all(plan)
        chip.fuses.blow_all(plan, Origin.MACHINE_CODE)


@pytest.mark.parametrize("origin", Origin)
def test_rma_without_an_open_debug_port_is_refused(origin: Origin) -> None:
    chip = chip_in(LifeCycle.PROD, authority=True)
    with pytest.raises(FuseDebug):
        chip.fuses.blow_all(plan_life_cycle(LifeCycle.RMA), origin)
    chip.open_debug()
    chip.fuses.blow_all(plan_life_cycle(LifeCycle.RMA), origin)
    assert chip.fuses.life_cycle is LifeCycle.RMA


def test_revoking_the_last_key_is_refused() -> None:
    chip = chip_in(LifeCycle.PROD)
    chip.fuses.blow_all(plan_revocation(0), Origin.MACHINE_CODE)
    for word in (revoked_word(1), revoked_word(1) + 1):
        for mask in (1, 0x8000_0000, 0xFFFF_FFFF):
            with pytest.raises(FuseLastKey):
                chip.fuses.blow(word, mask, Origin.MACHINE_CODE)
    keys = read_fuses(chip.fuses.words()).keys
    assert keys[0].revoked
    assert keys[1].usable_in(LifeCycle.PROD)


def test_revoking_the_last_key_a_key_of_a_type_that_prod_refuses_is_no_second_one() -> None:
    chip = chip_in(LifeCycle.TEST, keys=1)
    chip.fuses.blow_all(plan_key(1, SECOND_KEY, KeyType.DEV))
    for state in (LifeCycle.DEV, LifeCycle.PROD):
        chip.fuses.blow_all(plan_life_cycle(state))
    with pytest.raises(FuseLastKey):
        chip.fuses.blow_all(plan_revocation(0), Origin.MACHINE_CODE)


def test_revoking_the_last_key_a_key_that_is_half_blown_is_no_second_one() -> None:
    chip = chip_in(LifeCycle.TEST, keys=1)
    steps = plan_key(1, SECOND_KEY, KeyType.PROD)
    operations = sum(bits.bit_count() for _, bits in steps)
    cut(chip, operations - 1, lambda: chip.fuses.blow_all(steps))
    with pytest.raises(FuseLastKey):
        chip.fuses.blow_all(plan_revocation(0))
    chip.fuses.blow_all(steps)
    chip.fuses.blow_all(plan_revocation(0))


def test_unused_key_slots_can_be_revoked_in_the_factory_but_not_all_of_them() -> None:
    blank = chip_in(LifeCycle.TEST, keys=0)
    for slot in range(3):
        blank.fuses.blow_all(plan_revocation(slot))
    with pytest.raises(FuseLastKey):
        blank.fuses.blow_all(plan_revocation(3))
    used = chip_in(LifeCycle.TEST, keys=1)
    for slot in (1, 2, 3):
        used.fuses.blow_all(plan_revocation(slot))
    with pytest.raises(FuseLastKey):
        used.fuses.blow_all(plan_revocation(0))


def test_a_half_blown_bit_reads_both_ways_and_its_margin_tells() -> None:
    chip = chip_in(LifeCycle.TEST)
    cut(chip, 0, lambda: chip.fuses.blow(fuse_map.PRODUCT, 0b100))
    assert {chip.fuses.read(fuse_map.PRODUCT) for _ in range(400)} == {0, 0b100}
    assert chip.fuses.margin(fuse_map.PRODUCT) == 0b100
    seen = set()
    for _ in range(200):
        chip.fuses.sense()
        seen.add(chip.fuses.words()[fuse_map.PRODUCT])
    assert seen == {0, 0b100}


def test_power_loss_in_a_blow_is_completed_by_blowing_again() -> None:
    chip = chip_in(LifeCycle.TEST)
    cut(chip, 1, lambda: chip.fuses.blow(fuse_map.PRODUCT, 0b10110))
    chip.reset()
    assert chip.fuses.margin(fuse_map.PRODUCT) == 0b100
    cut(chip, 0, lambda: chip.fuses.blow(fuse_map.PRODUCT, 0b10110))
    chip.reset()
    chip.fuses.blow(fuse_map.PRODUCT, 0b10110)
    assert chip.fuses.margin(fuse_map.PRODUCT) == 0
    assert {chip.fuses.read(fuse_map.PRODUCT) for _ in range(50)} == {0b10110}


@pytest.mark.parametrize("target", ORDER[1:])
def test_power_loss_at_every_bit_of_a_life_cycle_step_opens_nothing_and_can_be_completed(
    target: LifeCycle,
) -> None:
    plan = plan_life_cycle(target)
    for after in range(sum(bits.bit_count() for _, bits in plan)):
        chip = chip_in(LifeCycle(target - 1))
        cut(chip, after, partial(chip.fuses.blow_all, plan))
        chip.reset()
        assert chip.debug is DebugState.LOCKED, "it may be the next state already"
        assert chip.fuses.life_cycle < target
        with pytest.raises(FuseLifeCycle):
            chip.fuses.blow_all(plan_chip_id(b"\x01" * 32))
        with pytest.raises(FuseOrder):
            chip.fuses.blow_all(plan_life_cycle(LifeCycle(target + 1)), Origin.MACHINE_CODE)
        chip.fuses.blow_all(plan)
        assert chip.fuses.life_cycle is target
        assert read_fuses(chip.fuses.words()).faults == ()


def test_a_step_to_prod_that_was_cut_short_lets_the_probe_do_nothing_else() -> None:
    chip = chip_in(LifeCycle.DEV)
    cut(chip, 20, lambda: chip.fuses.blow_all(plan_life_cycle(LifeCycle.PROD)))
    chip.reset()
    with pytest.raises(FuseDebug):
        chip.fuses.blow_all(plan_counter(Counter.LOADER, 1))


def test_power_loss_at_every_bit_of_scrapping_can_be_completed_and_not_taken_back() -> None:
    plan = plan_life_cycle(LifeCycle.SCRAP)
    for after in range(sum(bits.bit_count() for _, bits in plan)):
        chip = chip_in(LifeCycle.PROD, authority=True)
        chip.open_debug()
        chip.fuses.blow_all(plan_life_cycle(LifeCycle.RMA))
        chip.reset()
        cut(chip, after, partial(chip.fuses.blow_all, plan))
        chip.reset()
        assert chip.debug is DebugState.LOCKED
        chip.fuses.blow_all(plan)
        assert chip.fuses.life_cycle is LifeCycle.SCRAP


def test_only_bits_that_are_not_blown_yet_take_an_operation() -> None:
    chip = chip_in(LifeCycle.TEST)
    before = chip.power.operations
    chip.fuses.blow(fuse_map.PRODUCT, 0b111)
    chip.fuses.blow(fuse_map.PRODUCT, 0b1111)
    assert chip.power.operations - before == 4


def test_a_defective_fuse_is_told() -> None:
    chip = chip_in(LifeCycle.TEST)
    chip.fuses.stuck = frozenset({32 * fuse_map.PRODUCT + 3})
    with pytest.raises(FuseStuck) as caught:
        chip.fuses.blow(fuse_map.PRODUCT, 0b1100)
    assert caught.value.evidence["reads_as"] == 0b100


@pytest.mark.parametrize(
    "content",
    [
        FuseContent(bytes(4)),
        FuseContent(half_blown=((32 * FUSE_WORDS, 0.5),)),
        FuseContent(half_blown=((0, 1.0),)),
        FuseContent(half_blown=((-1, 0.5),)),
    ],
)
def test_content_that_no_fuses_can_have_is_refused(content: FuseContent) -> None:
    with pytest.raises(RuntimeError):
        chip_in(LifeCycle.BLANK).fuses.restore(content)


def test_the_product_can_be_named_until_dev() -> None:
    chip = chip_in(LifeCycle.DEV)
    chip.fuses.blow_all(plan_product(3, 1))
    assert read_fuses(chip.fuses.words()).product == 3
