"""Plans and decoding: what is planned is read back, and one more blown fuse never goes unseen."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fuseline.device.silicon import fuse_map
from fuseline.device.silicon.fuse_map import FUSE_WORDS, Counter, KeyType, LifeCycle, Protection
from fuseline.device.silicon.fuse_plans import (
    COUNTER_STEPS,
    FusePlan,
    plan_chip_id,
    plan_counter,
    plan_debug_authority,
    plan_key,
    plan_life_cycle,
    plan_product,
    plan_puf_check,
    plan_revocation,
)
from fuseline.device.silicon.fuse_view import FuseView, last_touched_state, read_fuses
from fuseline.device.silicon.fuses import FIELD_OF_WORD
from fuseline.errors import FuseArgument

CHIP_ID = bytes(range(32))
KEY = bytes(range(100, 132))
AUTHORITY = bytes(range(200, 232))
CHECK = bytes(range(50, 66))


def blown(*plans: FusePlan) -> list[int]:
    words = [0] * FUSE_WORDS
    for plan in plans:
        for word, bits in plan:
            words[word] |= bits
    return words


def provisioned() -> list[int]:
    return blown(
        plan_chip_id(CHIP_ID),
        plan_life_cycle(LifeCycle.TEST),
        plan_puf_check(CHECK),
        plan_key(2, KEY, KeyType.PROD),
        plan_product(0x1234, 2),
        plan_life_cycle(LifeCycle.DEV),
        plan_debug_authority(AUTHORITY),
        plan_counter(Counter.FIRMWARE_0, 70),
        plan_life_cycle(LifeCycle.PROD),
    )


def test_blank_fuses_say_nothing_and_have_no_fault() -> None:
    view = read_fuses([0] * FUSE_WORDS)
    assert view.life_cycle is LifeCycle.BLANK
    assert (view.chip_id, view.product, view.debug_authority, view.puf_check) == (None, None, None, None)
    assert not view.puf_enrolled
    assert set(view.counters.values()) == {0}
    assert view.faults == ()


def test_what_was_planned_is_read_back() -> None:
    view = read_fuses(provisioned())
    assert view.life_cycle is LifeCycle.PROD
    assert view.chip_id == CHIP_ID
    assert (view.product, view.hardware_revision) == (0x1234, 2)
    assert view.keys[2].key_hash == KEY
    assert view.keys[2].usable_in(LifeCycle.PROD)
    assert [key.valid for key in view.keys] == [False, False, True, False]
    assert view.counters == {Counter.LOADER: 0, Counter.FIRMWARE_0: 70, Counter.FIRMWARE_1: 0}
    assert view.debug_authority == AUTHORITY
    assert (view.puf_check, view.puf_enrolled) == (CHECK, True)
    assert view.faults == ()
    assert view.as_dict()["keys"][2] == {
        "slot": 2,
        "hash": KEY.hex(),
        "type": "PROD",
        "valid": True,
        "revoked": False,
    }


def test_octets_stand_in_the_fuses_in_their_order() -> None:
    words = blown(plan_chip_id(CHIP_ID))
    in_memory = b"".join(word.to_bytes(4, "little") for word in words)
    assert in_memory[4 * fuse_map.CHIP_ID :][:32] == CHIP_ID


@pytest.mark.parametrize("state", list(LifeCycle)[1:])
def test_each_life_cycle_state_is_the_last_complete_one(state: LifeCycle) -> None:
    plans = [plan_life_cycle(LifeCycle(number)) for number in range(1, state + 1)]
    view = read_fuses(blown(*plans))
    assert (view.life_cycle, view.faults) == (state, ())


def test_a_state_without_those_before_it_does_not_count() -> None:
    words = blown(plan_life_cycle(LifeCycle.TEST), plan_life_cycle(LifeCycle.PROD))
    assert read_fuses(words).life_cycle is LifeCycle.TEST
    assert last_touched_state(words) is LifeCycle.PROD
    assert read_fuses(words).faults


def _facts(view: FuseView) -> dict[str, object]:
    facts = view.as_dict()
    facts.pop("faults")
    return facts


def test_one_more_blown_fuse_anywhere_is_a_fault_a_revocation_or_a_higher_counter() -> None:
    words = provisioned()
    before = read_fuses(words)
    unseen = []
    for word, field in FIELD_OF_WORD.items():
        for bit in range(32):
            if words[word] >> bit & 1:
                continue
            changed = list(words)
            changed[word] |= 1 << bit
            after = read_fuses(changed)
            revoked = field.protection is Protection.COPIES and any(key.revoked for key in after.keys)
            raised = any(after.counters[counter] > before.counters[counter] for counter in Counter)
            if not (after.faults or revoked or raised):
                unseen.append((field.name, word, bit))
            if field.protection in {Protection.BERGER, Protection.CODED}:
                lost = [name for name, value in _facts(before).items() if _facts(after)[name] != value]
                assert after.faults
                assert after.life_cycle <= before.life_cycle, lost
    assert unseen == []


def test_a_damaged_field_gives_no_value() -> None:
    words = provisioned()
    words[fuse_map.KEY_SLOT + 2 * fuse_map.KEY_SLOT_STRIDE] = 0xFFFF_FFFF
    key = read_fuses(words).keys[2]
    assert key.key_hash is None
    assert not key.usable_in(LifeCycle.PROD)
    (fault,) = read_fuses(words).faults
    assert (fault.field, fault.completable) == ("key 2 hash", False)


def test_a_field_begun_is_told_from_a_field_damaged() -> None:
    plan = plan_chip_id(CHIP_ID)
    begun = read_fuses(blown(plan[:5]))
    assert begun.chip_id is None
    assert [fault.completable for fault in begun.faults] == [True]
    half_a_code = [(word, bits & 0xFFFF) for word, bits in plan_life_cycle(LifeCycle.TEST)]
    assert all(fault.completable for fault in read_fuses(blown(tuple(half_a_code))).faults)


@pytest.mark.parametrize("value", [0, 1, 31, 32, 33, 127, COUNTER_STEPS])
def test_a_counter_is_a_thermometer_in_two_copies(value: int) -> None:
    plan = plan_counter(Counter.FIRMWARE_1, value)
    assert sum(bits.bit_count() for _, bits in plan) == 2 * value
    view = read_fuses(blown(plan))
    assert (view.counters[Counter.FIRMWARE_1], view.faults) == (value, ())


def test_a_hole_or_a_lagging_copy_never_lowers_a_counter() -> None:
    base = fuse_map.COUNTER
    words = blown(plan_counter(Counter.LOADER, 5))
    words[base + fuse_map.COUNTER_WORDS] = 0b111
    lagging = read_fuses(words)
    assert (lagging.counters[Counter.LOADER], len(lagging.faults)) == (5, 1)
    words[base] = 0b1000_0000
    words[base + fuse_map.COUNTER_WORDS] = 0
    hole = read_fuses(words)
    assert (hole.counters[Counter.LOADER], len(hole.faults)) == (8, 1)


@pytest.mark.parametrize("bit", [0, 13, 31])
@pytest.mark.parametrize("copy", [fuse_map.KEY_SLOT_REVOKED_A, fuse_map.KEY_SLOT_REVOKED_B])
def test_any_bit_of_either_copy_revokes(bit: int, copy: int) -> None:
    words = provisioned()
    words[fuse_map.KEY_SLOT + 2 * fuse_map.KEY_SLOT_STRIDE + copy] = 1 << bit
    key = read_fuses(words).keys[2]
    assert key.revoked
    assert not key.usable_in(LifeCycle.PROD)


def test_key_types_follow_the_life_cycle() -> None:
    view = read_fuses(blown(plan_key(0, KEY, KeyType.DEV))).keys[0]
    assert {state for state in LifeCycle if view.usable_in(state)} == {LifeCycle.TEST, LifeCycle.DEV}


def test_a_lone_berger_word_is_no_all_zero_fact() -> None:
    for field in fuse_map.FIELDS:
        if field.protection is Protection.BERGER:
            words = [0] * FUSE_WORDS
            words[field.word + field.words] = 32 * field.words
            view = read_fuses(words)
            assert [fault.field for fault in view.faults] == [field.name]
            assert (view.chip_id, view.product, view.puf_check, view.debug_authority) == (None,) * 4
            assert {key.key_hash for key in view.keys} == {None}


def test_facts_that_cannot_be_told_from_blank_or_do_not_fit_are_refused() -> None:
    plans: list[Callable[[], FusePlan]] = [
        lambda: plan_chip_id(bytes(32)),
        lambda: plan_chip_id(bytes(31)),
        lambda: plan_key(0, bytes(32), KeyType.PROD),
        lambda: plan_key(4, KEY, KeyType.PROD),
        lambda: plan_revocation(-1),
        lambda: plan_counter(Counter.LOADER, COUNTER_STEPS + 1),
        lambda: plan_counter(Counter.LOADER, -1),
        lambda: plan_product(0, 0),
        lambda: plan_product(1 << 32, 0),
        lambda: plan_puf_check(bytes(16)),
        lambda: plan_debug_authority(b"short"),
        lambda: plan_life_cycle(LifeCycle.BLANK),
    ]
    for plan in plans:
        with pytest.raises(FuseArgument):
            plan()
