"""Flash: erased in blocks, programmed once, locked by region, left half done by a failing supply."""

from __future__ import annotations

import hashlib

import pytest

from fuseline.device.silicon.commands import Lock
from fuseline.device.silicon.flash import FLASH_BLOCKS, Flash, FlashContent
from fuseline.device.silicon.memory_map import (
    FLASH_BASE,
    FLASH_BLOCK,
    FLASH_SIZE,
    HELPER_A,
    HELPER_B,
    IDEVID,
    LOADER_PRIMARY,
    LOADER_RECOVERY,
)
from fuseline.device.silicon.power import PowerLost
from fuseline.device.silicon.silicon import Silicon
from fuseline.errors import FlashArgument, FlashLocked, FlashNotErased

FREE = 0x4_0000


@pytest.fixture
def chip() -> Silicon:
    return Silicon(11)


@pytest.fixture
def flash(chip: Silicon) -> Flash:
    return chip.flash


def test_a_new_flash_is_erased_and_unworn(flash: Flash) -> None:
    assert flash.read(0, FLASH_SIZE) == b"\xff" * FLASH_SIZE
    assert {flash.wear(offset) for offset in range(0, FLASH_SIZE, FLASH_BLOCK)} == {0}


def test_what_is_programmed_is_read_in_place(chip: Silicon) -> None:
    chip.flash.program(FREE, b"words!!!")
    assert bytes(chip.psram.view(FLASH_BASE + FREE, 8)) == b"words!!!"


def test_a_word_programmed_twice_is_refused_and_nothing_of_the_rest_is_written(flash: Flash) -> None:
    flash.program(FREE + 8, bytes(4))
    with pytest.raises(FlashNotErased) as caught:
        flash.program(FREE, b"0123456789abcdef")
    assert caught.value.evidence["offset"] == FREE + 8
    assert flash.read(FREE, 8) == b"\xff" * 8
    # Even where only ones would become zeros.
    with pytest.raises(FlashNotErased):
        flash.program(FREE + 8, bytes(4))


def test_an_erase_frees_its_block_alone_and_wears_it(flash: Flash) -> None:
    flash.program(FREE - 4, bytes(FLASH_BLOCK + 8))
    assert flash.erase(FREE) == 1
    assert flash.erase(FREE) == 2
    assert flash.read(FREE, FLASH_BLOCK) == b"\xff" * FLASH_BLOCK
    assert flash.read(FREE - 4, 4) == bytes(4)
    assert flash.read(FREE + FLASH_BLOCK, 4) == bytes(4)
    assert flash.wear(FREE + FLASH_BLOCK) == 0


@pytest.mark.parametrize(
    ("offset", "size"),
    [(1, 4), (0, 3), (FLASH_SIZE, 4), (FLASH_SIZE - 4, 8), (-4, 4), (0xFFFF_FFFC, 8)],
)
def test_programming_off_the_words_or_the_end_is_refused(flash: Flash, offset: int, size: int) -> None:
    with pytest.raises(FlashArgument):
        flash.program(offset, bytes(size))


@pytest.mark.parametrize("offset", [4, -FLASH_BLOCK, FLASH_SIZE, 0xFFFF_F000])
def test_erasing_off_the_blocks_or_the_end_is_refused(flash: Flash, offset: int) -> None:
    for ask in (flash.erase, flash.wear):
        with pytest.raises(FlashArgument):
            ask(offset)


@pytest.mark.parametrize(
    ("lock", "locked"),
    [
        (Lock.FLASH_IDENTITY, {HELPER_A, HELPER_B, IDEVID}),
        (Lock.FLASH_LOADER, {LOADER_PRIMARY, LOADER_RECOVERY - FLASH_BLOCK, LOADER_RECOVERY, 0x1_F000}),
    ],
)
def test_a_lock_covers_its_region_to_the_last_word(chip: Silicon, lock: Lock, locked: set[int]) -> None:
    chip.state.locks = lock
    for offset in (LOADER_PRIMARY, 0xF000, LOADER_RECOVERY, 0x1_F000, HELPER_A, HELPER_B, IDEVID, 0x2_3000):
        if offset in locked:
            with pytest.raises(FlashLocked):
                chip.flash.erase(offset)
            for at in (offset, offset + FLASH_BLOCK - 4):
                with pytest.raises(FlashLocked):
                    chip.flash.program(at, bytes(4))
        else:
            chip.flash.program(offset, bytes(4))
            chip.flash.erase(offset)


def test_a_write_that_reaches_into_a_locked_region_is_refused_as_a_whole(chip: Silicon) -> None:
    chip.state.locks = Lock.FLASH_IDENTITY
    with pytest.raises(FlashLocked):
        chip.flash.program(HELPER_A - 4, bytes(8))
    assert chip.flash.read(HELPER_A - 4, 4) == b"\xff" * 4


def test_power_loss_in_an_erase_leaves_a_mixture(chip: Silicon) -> None:
    chip.flash.program(FREE, bytes(FLASH_BLOCK))
    chip.power.cut_at = chip.power.operations + 1
    with pytest.raises(PowerLost):
        chip.flash.erase(FREE)
    ones = int.from_bytes(chip.flash.read(FREE, FLASH_BLOCK), "big").bit_count()
    assert 0.45 < ones / (8 * FLASH_BLOCK) < 0.55
    assert chip.flash.wear(FREE) == 1


@pytest.mark.parametrize("after", [0, 1, 7])
def test_power_loss_while_programming_leaves_words_before_done_and_words_behind_erased(
    chip: Silicon, after: int
) -> None:
    chip.power.cut_at = chip.power.operations + after + 1
    with pytest.raises(PowerLost):
        chip.flash.program(FREE, bytes(32))
    words = [chip.flash.read(FREE + at, 4) for at in range(0, 32, 4)]
    assert words[:after] == [bytes(4)] * after
    assert words[after] not in {bytes(4), b"\xff" * 4}
    assert words[after + 1 :] == [b"\xff" * 4] * (7 - after)
    with pytest.raises(FlashNotErased):
        chip.flash.program(FREE + 4 * after, bytes(4))


def test_a_cut_later_than_the_operation_changes_nothing(chip: Silicon) -> None:
    chip.power.cut_at = chip.power.operations + 9
    chip.flash.program(FREE, bytes(32))
    assert chip.flash.read(FREE, 32) == bytes(32)
    with pytest.raises(PowerLost):
        chip.flash.program(FREE + 32, bytes(4))


def test_a_flash_programmer_ignores_locks_and_keeps_what_stood_beside(chip: Silicon) -> None:
    chip.flash.program(0, bytes(16))
    chip.state.locks = Lock.FLASH_LOADER | Lock.FLASH_IDENTITY
    chip.flash.external_write(4, b"\xff\x0f\xf0\x55")
    assert chip.flash.read(0, 16) == bytes(4) + b"\xff\x0f\xf0\x55" + bytes(8)
    assert chip.flash.wear(0) == 1
    with pytest.raises(FlashArgument):
        chip.flash.external_write(FLASH_SIZE - 1, b"ab")


def test_the_digest_follows_every_change(flash: Flash) -> None:
    seen = [flash.digest()]
    for change in (
        lambda: flash.program(FREE, bytes(4)),
        lambda: flash.external_write(5, b"x"),
        lambda: flash.erase(FREE),
    ):
        change()
        seen.append(flash.digest())
        assert flash.digest() == hashlib.sha256(flash.read(0, FLASH_SIZE)).digest()
    assert len(set(seen)) == len(seen)


def test_a_snapshot_shares_unchanged_blocks_and_brings_everything_back(flash: Flash) -> None:
    flash.program(FREE, b"old!")
    before, digest = flash.content(), flash.digest()
    flash.program(FREE + 4, b"new!")
    flash.erase(0)
    after = flash.content()
    changed = [
        index
        for index, (old, new) in enumerate(zip(before.blocks, after.blocks, strict=True))
        if old is not new
    ]
    assert changed == [0, FREE // FLASH_BLOCK]
    flash.restore(before)
    assert (flash.digest(), flash.wear(0)) == (digest, 0)
    flash.restore(after)
    assert flash.read(FREE, 8) == b"old!new!"
    assert flash.wear(0) == 1


def test_content_of_another_size_is_refused(flash: Flash) -> None:
    with pytest.raises(RuntimeError):
        flash.restore(FlashContent(blocks=(b"",) * (FLASH_BLOCKS - 1)))
