"""Slots under the rules of flash, and with the power cut between any two operations."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fuseline.device.firmware.slots import FileMedium, Mark, SlotStore
from fuseline.errors import ImageSize, SlotDamaged, StateMissing
from fuseline.formats.mcuboot_trailer import (
    Trailer,
    copy_done_write,
    image_ok_write,
    magic_write,
    max_image_size,
)

SLOT_SIZE = 1024
IMAGE = bytes(range(250)) * 2
ERASED = b"\xff" * SLOT_SIZE
EMPTY = Trailer(magic_good=False, copy_done=False, image_ok=False)
ON_TRIAL = Trailer(magic_good=True, copy_done=False, image_ok=False)
TRIED = Trailer(magic_good=True, copy_done=True, image_ok=False)
CONFIRMED = Trailer(magic_good=True, copy_done=True, image_ok=True)


class PowerCutError(Exception):
    """The lights went out."""


class Recorder(FileMedium):
    """A medium that remembers its operations and cuts the power before the one that it is told."""

    def __init__(self, cut_before: int | None = None) -> None:
        self.cut_before = cut_before
        self.operations: list[tuple[int, int] | str] = []

    def write(self, fd: int, data: bytes, offset: int) -> None:
        self._record((offset, len(data)))
        super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        self._record("sync")
        super().sync(fd)

    def _record(self, operation: tuple[int, int] | str) -> None:
        if len(self.operations) == self.cut_before:
            raise PowerCutError
        self.operations.append(operation)


@pytest.fixture
def store(tmp_path: Path) -> SlotStore:
    return SlotStore.create(tmp_path, SLOT_SIZE)


def install(store: SlotStore, index: int, mark: Mark = "test", image: bytes = IMAGE) -> None:
    with store.begin_write(index) as writer:
        for start in range(0, len(image), 200):
            writer.write(image[start : start + 200])
        writer.finish(mark)


def test_new_slots_are_erased_and_private(store: SlotStore, tmp_path: Path) -> None:
    for index in range(2):
        assert store.read(index) == ERASED
        assert store.trailer(index) == EMPTY
        assert (tmp_path / f"slot{index}.bin").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("mark", "expected"), [("test", ON_TRIAL), ("permanent", CONFIRMED)])
def test_an_installed_image_reads_back_with_its_mark_and_the_other_slot_is_untouched(
    store: SlotStore, mark: Mark, expected: Trailer
) -> None:
    install(store, 1, mark)
    assert store.read(1).startswith(IMAGE + b"\xff")
    assert store.trailer(1) == expected
    assert store.read(0) == ERASED


def test_a_trial_is_marked_then_confirmed_and_both_outlive_the_process(
    store: SlotStore, tmp_path: Path
) -> None:
    install(store, 0)
    store.mark_booted(0)
    assert SlotStore(tmp_path, SLOT_SIZE).trailer(0) == TRIED
    store.confirm(0)
    store.confirm(0)
    assert SlotStore(tmp_path, SLOT_SIZE).trailer(0) == CONFIRMED
    assert store.read(0).startswith(IMAGE)


@pytest.mark.parametrize("mark", ["test", "permanent"])
def test_the_image_is_durable_before_its_mark_and_the_magic_comes_last(tmp_path: Path, mark: Mark) -> None:
    SlotStore.create(tmp_path, SLOT_SIZE)
    medium = Recorder()
    install(SlotStore(tmp_path, SLOT_SIZE, medium), 0, mark)
    magic, done, ok = (
        (write.offset, len(write.data))
        for write in (magic_write(SLOT_SIZE), copy_done_write(SLOT_SIZE), image_ok_write(SLOT_SIZE))
    )
    erasing = [magic, "sync", (0, magic[0]), "sync"]
    image = [(0, 200), (200, 200), (400, 100), "sync"]
    flags = [done, ok, "sync"] if mark == "permanent" else []
    assert medium.operations == [*erasing, *image, *flags, magic, "sync"]


def test_a_power_cut_at_any_operation_of_an_installation_never_offers_a_partial_image(tmp_path: Path) -> None:
    store = SlotStore.create(tmp_path, SLOT_SIZE)
    total = Recorder()
    install(SlotStore(tmp_path, SLOT_SIZE, total), 0, "permanent")
    for cut in range(len(total.operations)):
        store.erase(0)
        install(store, 0, "permanent", image=b"old" * 100)
        with pytest.raises(PowerCutError):
            install(SlotStore(tmp_path, SLOT_SIZE, Recorder(cut)), 0, "permanent")
        survivor = store.trailer(0)
        whole = store.read(0)[: max_image_size(SLOT_SIZE)].rstrip(b"\xff")
        assert survivor.magic_good == (
            whole in {b"old" * 100, IMAGE} and cut in {0, len(total.operations) - 1}
        )
        install(store, 0)
        assert store.read(0).startswith(IMAGE)


def test_a_write_over_bytes_that_are_not_erased_is_our_own_error(store: SlotStore, tmp_path: Path) -> None:
    writer = store.begin_write(0)
    fd = os.open(tmp_path / "slot0.bin", os.O_WRONLY)
    os.pwrite(fd, b"\x00", 10)
    os.close(fd)
    with pytest.raises(RuntimeError, match="not erased"):
        writer.write(IMAGE)
    writer.close()
    assert store.read(0) == b"\xff" * 10 + b"\x00" + b"\xff" * (SLOT_SIZE - 11)
    assert not store.trailer(0).magic_good


def test_an_image_that_would_reach_into_the_trailer_is_refused(store: SlotStore) -> None:
    maximum = max_image_size(SLOT_SIZE)
    with store.begin_write(0) as writer:
        writer.write(b"\x00" * maximum)
        with pytest.raises(ImageSize):
            writer.write(b"\x00")
        assert writer.written == maximum
        writer.finish("test")
    assert store.trailer(0) == ON_TRIAL


def test_calls_in_the_wrong_order_are_our_own_error(store: SlotStore) -> None:
    with pytest.raises(RuntimeError, match="no image"):
        store.mark_booted(0)
    with pytest.raises(RuntimeError, match="no image"):
        store.confirm(0)
    with store.begin_write(0) as empty, pytest.raises(RuntimeError, match="before any byte"):
        empty.finish("test")
    install(store, 0)
    with pytest.raises(RuntimeError, match="no image that was booted"):
        store.confirm(0)
    store.mark_booted(0)
    with pytest.raises(RuntimeError, match="waits for its first boot"):
        store.mark_booted(0)
    with pytest.raises(RuntimeError, match="no slot 2"):
        store.read(2)
    assert store.trailer(0) == TRIED


def test_a_finished_or_abandoned_writer_writes_no_more(store: SlotStore) -> None:
    with store.begin_write(0) as writer:
        writer.write(IMAGE)
    with pytest.raises(RuntimeError, match="closed"):
        writer.write(b"\x00")
    with pytest.raises(RuntimeError, match="closed"):
        writer.finish("test")
    assert store.trailer(0) == EMPTY


def test_an_erased_slot_holds_nothing(store: SlotStore) -> None:
    install(store, 0, "permanent")
    store.erase(0)
    assert store.read(0) == ERASED


def test_slots_are_never_created_over_slots(store: SlotStore, tmp_path: Path) -> None:
    install(store, 0)
    with pytest.raises(RuntimeError, match="already"):
        SlotStore.create(tmp_path, SLOT_SIZE)
    assert store.read(0).startswith(IMAGE)


@pytest.mark.parametrize("size", [0, 40, 1023])
def test_a_slot_size_that_holds_no_aligned_trailer_is_our_own_error(tmp_path: Path, size: int) -> None:
    with pytest.raises(RuntimeError, match="cannot hold"):
        SlotStore.create(tmp_path, size)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_resized_slot_files_are_named(store: SlotStore, tmp_path: Path) -> None:
    (tmp_path / "slot1.bin").write_bytes(b"\xff" * (SLOT_SIZE - 1))
    with pytest.raises(SlotDamaged):
        SlotStore(tmp_path, SLOT_SIZE)
    with pytest.raises(SlotDamaged):
        store.begin_write(1)
    (tmp_path / "slot1.bin").unlink()
    with pytest.raises(StateMissing):
        store.read(1)
    assert store.read(0) == ERASED


def test_a_spoilt_confirmation_flag_is_reported_and_never_confirms(store: SlotStore, tmp_path: Path) -> None:
    install(store, 0)
    store.mark_booted(0)
    fd = os.open(tmp_path / "slot0.bin", os.O_WRONLY)
    os.pwrite(fd, b"\x7f", image_ok_write(SLOT_SIZE).offset)
    os.close(fd)
    with pytest.raises(SlotDamaged, match="image_ok"):
        store.confirm(0)
    assert store.trailer(0) == TRIED
