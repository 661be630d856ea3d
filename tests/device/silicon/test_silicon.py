"""One chip: what resets do, what snapshots bring back, and that equal chips behave equally."""

from __future__ import annotations

import itertools

import pytest

from fuseline.device.silicon import fuse_map
from fuseline.device.silicon.commands import Command, KeySlot, Lock, Stage, Status
from fuseline.device.silicon.fuse_map import LifeCycle
from fuseline.device.silicon.fuse_plans import plan_debug_authority, plan_life_cycle
from fuseline.device.silicon.memory_map import (
    CHIP_REVISION,
    DOORBELL,
    MAILBOX,
    MAILBOX_DATA,
    PUF_ROWS,
    PUF_ROWS_SIZE,
    RAM_BASE,
    RETENTION,
    SYSTEM,
    DebugState,
    ResetReason,
    Strap,
    SystemWord,
)
from fuseline.device.silicon.power import PowerLost
from fuseline.device.silicon.puf import Conditions
from fuseline.device.silicon.silicon import Silicon

FREE = 0x4_0000


def chip_in(life_cycle: LifeCycle, *, authority: bool = False, seed: int = 31) -> Silicon:
    chip = Silicon(seed)
    for number in range(1, life_cycle + 1):
        if number == LifeCycle.RMA:
            chip.open_debug()
        chip.fuses.blow_all(plan_life_cycle(LifeCycle(number)))
        if authority and number == LifeCycle.DEV:
            chip.fuses.blow_all(plan_debug_authority(b"\x77" * 32))
    chip.reset()
    return chip


def system(chip: Silicon) -> list[int]:
    return chip.psram.view(SYSTEM, 4 * len(SystemWord)).cast("I").tolist()


@pytest.mark.parametrize(
    ("life_cycle", "authority", "expected"),
    [
        (LifeCycle.BLANK, False, DebugState.OPEN),
        (LifeCycle.TEST, False, DebugState.OPEN),
        (LifeCycle.DEV, False, DebugState.OPEN),
        (LifeCycle.DEV, True, DebugState.LOCKED),
        (LifeCycle.PROD, False, DebugState.LOCKED),
        (LifeCycle.PROD, True, DebugState.LOCKED),
        (LifeCycle.RMA, True, DebugState.OPEN),
        (LifeCycle.SCRAP, True, DebugState.LOCKED),
    ],
)
def test_the_life_cycle_decides_whether_debug_is_open(
    life_cycle: LifeCycle, authority: bool, expected: DebugState
) -> None:
    chip = chip_in(life_cycle, authority=authority)
    assert chip.debug is expected
    assert Silicon(31, non_volatile=chip.non_volatile()).debug is expected


def test_a_scrapped_chip_cannot_be_unlocked() -> None:
    chip = chip_in(LifeCycle.SCRAP, authority=True)
    assert chip.port.request(Command.DEBUG_OPEN).status is Status.REFUSED
    assert chip.debug is DebugState.LOCKED


def test_the_system_page_tells_about_the_run() -> None:
    chip = chip_in(LifeCycle.TEST)
    chip.reset(ResetReason.WARM, Strap.PROVISION, watchdog=True)
    assert system(chip) == [
        ResetReason.WARM,
        Strap.PROVISION,
        CHIP_REVISION,
        DebugState.OPEN,
        2,
        1,
    ]
    assert (chip.reset_reason, chip.strap, chip.boot_count) == (ResetReason.WARM, Strap.PROVISION, 2)


@pytest.mark.parametrize("reason", ResetReason)
def test_what_a_reset_clears_and_what_it_keeps(reason: ResetReason) -> None:
    chip = chip_in(LifeCycle.TEST)
    for address in (RAM_BASE, RETENTION, MAILBOX + MAILBOX_DATA):
        chip.psram.view(address, 4)[:] = b"left"
    chip.psram.view(DOORBELL, 4)[:] = b"\x01\x00\x00\x00"
    chip.state.locks = Lock.DEBUG | Lock.KEY_ROOTS
    chip.state.stages.append(Stage.ROM)
    chip.state.exec_enabled = True
    chip.fail(5)
    chip.reset(reason)
    left = b"left" if reason is not ResetReason.COLD else bytes(4)
    assert bytes(chip.psram.view(RAM_BASE, 4)) == b"left", "remanence: nobody may trust RAM"
    assert bytes(chip.psram.view(RETENTION, 4)) == left
    assert bytes(chip.psram.view(MAILBOX + MAILBOX_DATA, 4)) == left
    assert bytes(chip.psram.view(DOORBELL, 4)) == bytes(4)
    assert chip.locks == (Lock.PUF if reason is ResetReason.UPDATE else Lock(0))
    assert (chip.stages, chip.error_word, chip.exec_enabled, chip.stop) == ([], None, False, None)


def test_every_cold_and_warm_reset_reads_the_puf_anew() -> None:
    chip = chip_in(LifeCycle.TEST)
    readouts = []
    for reason in (ResetReason.COLD, ResetReason.WARM, ResetReason.COLD):
        chip.reset(reason)
        readouts.append(int.from_bytes(chip.psram.view(PUF_ROWS, PUF_ROWS_SIZE), "big"))
    for one, other in itertools.pairwise(readouts):
        assert 0 < (one ^ other).bit_count() < 0.1 * 8 * PUF_ROWS_SIZE
    chip.reset(ResetReason.UPDATE)
    assert bytes(chip.psram.view(PUF_ROWS, PUF_ROWS_SIZE)) == bytes(PUF_ROWS_SIZE)


def history(chip: Silicon) -> list[bytes]:
    seen = []
    for cut in (3, 9):
        chip.reset()
        seen += [bytes(chip.psram.view(PUF_ROWS, PUF_ROWS_SIZE)), chip.trng.read(40)]
        chip.power.cut_at = chip.power.operations + cut
        with pytest.raises(PowerLost):
            chip.fuses.blow(fuse_map.PRODUCT, 0xFFF)
        chip.power.cut_at = chip.power.operations + cut
        with pytest.raises(PowerLost):
            chip.flash.program(FREE + 64 * cut, bytes(48))
        seen += [repr(chip.fuses.content()).encode(), chip.flash.digest()]
    return seen


def test_equal_seed_and_history_give_an_equal_chip() -> None:
    one, same, other = (history(chip_in(LifeCycle.TEST, seed=seed)) for seed in (41, 41, 42))
    assert one == same
    assert all(mine != its for mine, its in zip(one, other, strict=True))
    assert len(set(one)) == len(one)


def test_chance_in_one_boot_does_not_depend_on_what_was_drawn_in_the_boot_before() -> None:
    busy, idle = chip_in(LifeCycle.TEST), chip_in(LifeCycle.TEST)
    busy.trng.read(100)
    busy.reset()
    idle.reset()
    assert busy.trng.read(32) == idle.trng.read(32)


def test_without_a_seed_no_two_chips_are_equal() -> None:
    one, other = Silicon(), Silicon()
    one.reset()
    other.reset()
    assert one.seed != other.seed
    assert one.trng.read(32) != other.trng.read(32)


def test_a_chip_is_rebuilt_from_what_it_keeps_without_power() -> None:
    chip = chip_in(LifeCycle.DEV)
    chip.flash.program(FREE, b"kept")
    chip.retention[:4] = b"kept"
    again = Silicon(chip.seed, non_volatile=chip.non_volatile(), retention=bytes(chip.retention))
    assert again.fuses.life_cycle is LifeCycle.DEV
    assert again.flash.read(FREE, 4) == b"kept"
    again.reset(ResetReason.WARM)
    assert bytes(again.retention[:4]) == b"kept"
    assert again.boot_count == chip.boot_count + 1


def test_a_snapshot_brings_everything_back() -> None:
    chip = chip_in(LifeCycle.TEST)
    chip.port.request(Command.PUF_ENROL, RAM_BASE)
    chip.trng.read(1)
    before = chip.snapshot(ram=True)
    expected = (chip.trng.read(32), chip.keys.check_value(KeySlot.UDS))
    chip.fuses.blow(fuse_map.PRODUCT, 0xFF)
    chip.flash.external_write(0, b"other")
    chip.puf.conditions = Conditions(85.0, 2.0)
    chip.psram.view(RAM_BASE, 4096)[:] = bytes(4096)
    chip.fail(1)
    chip.reset()
    chip.restore(before)
    assert chip.snapshot(ram=True) == before
    assert (chip.trng.read(32), chip.keys.check_value(KeySlot.UDS)) == expected
    assert chip.puf.conditions == before.conditions


def test_a_half_blown_fuse_reads_after_a_restore_as_it_did() -> None:
    chip = chip_in(LifeCycle.TEST)
    chip.power.cut_at = chip.power.operations + 1
    with pytest.raises(PowerLost):
        chip.fuses.blow(fuse_map.PRODUCT, 1)
    for _ in range(20):
        chip.reset()
        snapshot, words = chip.snapshot(), chip.fuses.words()
        chip.reset()
        chip.restore(snapshot)
        assert chip.fuses.words() == words


def test_one_silicon_can_become_another_chip_and_return() -> None:
    first, second = chip_in(LifeCycle.TEST, seed=51), chip_in(LifeCycle.DEV, seed=52)
    second.flash.external_write(FREE, b"second")
    first.port.request(Command.PUF_ENROL, RAM_BASE)
    mine, other = first.snapshot(ram=True), second.snapshot(ram=True)
    first.restore(other)
    assert first.snapshot(ram=True) == other
    first.reset()
    second.reset()
    assert first.snapshot() == second.snapshot()
    first.restore(mine)
    assert first.snapshot(ram=True) == mine
    assert KeySlot.UDS in first.keys.filled()


def test_a_text_of_a_chip_shows_no_secret() -> None:
    chip = chip_in(LifeCycle.TEST)
    chip.port.request(Command.PUF_ENROL, RAM_BASE)
    rows = bytes(chip.psram.view(PUF_ROWS, 16))
    assert repr(chip) == "Silicon(TEST, boots=1)"
    assert repr(rows)[2:-1] not in repr(chip.snapshot(ram=True))
