"""A chip's folder: nothing half-written, nothing taken back, nothing loaded that is not a chip."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuseline.device.silicon.chip import Chip
from fuseline.device.silicon.folder import ChipFolder
from fuseline.device.silicon.fuse_map import CHIP_ID, FUSE_WORDS
from fuseline.device.silicon.memory_map import FLASH_SIZE, RETENTION_SIZE
from fuseline.device.silicon.power import PowerLost
from fuseline.device.silicon.puf import Conditions
from fuseline.device.silicon.silicon import Silicon
from fuseline.device.silicon.stored_chip import CHIP_FILE, FILES, FLASH_FILE, FUSES_FILE, RETENTION_FILE
from fuseline.errors import (
    ChipFolderBroken,
    ChipFolderBusy,
    ChipFolderExists,
    ChipFolderMissing,
    ChipFolderVersion,
    ChipFuseRewind,
    ChipSeed,
    FuselineError,
)


def _contents(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in FILES}


def _fuses(chip: Chip) -> tuple[int, ...]:
    return tuple(memoryview(chip.silicon.fuses.content().words).cast("I"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder with a chip of seed 1."""
    with ChipFolder.create(tmp_path / "chip", 1):
        return tmp_path / "chip"


def test_what_lasts_without_a_supply_comes_back(path: Path) -> None:
    with ChipFolder.open(path) as folder:
        chip = folder.load()
        silicon = chip.silicon
        silicon.reset()
        silicon.fuses.blow(CHIP_ID, 0x8000_0001)
        silicon.flash.erase(0)
        silicon.flash.program(0, b"once")
        silicon.retention[:4] = b"kept"
        silicon.puf.conditions = Conditions(85.0, 2.5)
        folder.save(chip)
    with ChipFolder.open(path) as folder:
        again = folder.load().silicon
        assert again.seed == 1
        assert again.boot_count == 1
        assert again.fuses.words()[CHIP_ID] == 0x8000_0001
        assert again.flash.read(0, 5) == b"once\xff"
        assert again.flash.wear(0) == 1
        assert bytes(again.retention[:4]) == b"kept"
        assert again.puf.conditions == Conditions(85.0, 2.5)


def test_a_half_blown_fuse_stays_half_blown(path: Path) -> None:
    with ChipFolder.open(path) as folder:
        chip = folder.load()
        chip.silicon.power.cut_at = 2
        with pytest.raises(PowerLost):
            chip.silicon.fuses.blow(CHIP_ID, 0b111)
        folder.save(chip)
        before = chip.silicon.fuses.content()
        folder.save(chip)
    with ChipFolder.open(path) as folder:
        fuses = folder.load().silicon.fuses
        assert fuses.content() == before
        assert fuses.margin(CHIP_ID) == 0b010


def test_files_are_for_the_owner_only(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o700
    assert {entry.stat().st_mode & 0o777 for entry in path.iterdir()} == {0o600}


def test_a_random_chip_is_like_no_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with ChipFolder.create(tmp_path / name):
            pass
    seeds = {json.loads((tmp_path / name / CHIP_FILE).read_bytes())["seed"] for name in ("a", "b")}
    assert len(seeds) == 2


@pytest.mark.parametrize("seed", [-1, 1 << 256])
def test_a_seed_out_of_range_is_refused(tmp_path: Path, seed: int) -> None:
    with pytest.raises(ChipSeed):
        ChipFolder.create(tmp_path / "chip", seed)
    assert not (tmp_path / "chip").exists()


def test_a_new_chip_replaces_nothing(path: Path, tmp_path: Path) -> None:
    before = _contents(path)
    (tmp_path / "file").write_text("in the way")
    for taken in (path, tmp_path, tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ChipFolderExists):
            ChipFolder.create(taken)
    assert _contents(path) == before


def test_no_chip_no_folder(tmp_path: Path) -> None:
    for nothing in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ChipFolderMissing):
            ChipFolder.open(nothing)
    assert not list(tmp_path.iterdir())


def test_two_writers_are_kept_apart(path: Path) -> None:
    with ChipFolder.open(path), pytest.raises(ChipFolderBusy):
        ChipFolder.open(path)
    with ChipFolder.open(path):
        pass


def test_a_broken_folder_is_not_left_locked(path: Path) -> None:
    content = (path / FUSES_FILE).read_bytes()
    (path / FUSES_FILE).write_bytes(b"")
    with pytest.raises(ChipFolderBroken):
        ChipFolder.open(path)
    (path / FUSES_FILE).write_bytes(content)
    with ChipFolder.open(path):
        pass


def test_saving_an_earlier_moment_cannot_take_a_fuse_back(path: Path) -> None:
    with ChipFolder.open(path) as folder:
        chip = folder.load()
        earlier = chip.silicon.snapshot()
        chip.silicon.fuses.blow(CHIP_ID, 1)
        folder.save(chip)
        before = _contents(path)
        chip.silicon.restore(earlier)
        with pytest.raises(ChipFuseRewind):
            folder.save(chip)
        assert _contents(path) == before


def test_saving_an_earlier_moment_cannot_heal_a_half_blown_fuse(path: Path) -> None:
    with ChipFolder.open(path) as folder:
        chip = folder.load()
        earlier = chip.silicon.snapshot()
        chip.silicon.power.cut_at = 1
        with pytest.raises(PowerLost):
            chip.silicon.fuses.blow(CHIP_ID, 1)
        folder.save(chip)
        chip.silicon.restore(earlier)
        with pytest.raises(ChipFuseRewind):
            folder.save(chip)


def test_another_chip_cannot_be_saved_in_this_ones_place(path: Path) -> None:
    with ChipFolder.open(path) as folder:
        chip = Chip(Silicon(2))
        with pytest.raises(ChipFuseRewind):
            folder.save(chip)


def _stop_at_each_step(path: Path, copy: Path, step: int) -> bool:
    """Save in a copy, by a process killed at one file operation; returns whether it came to its end."""
    shutil.copytree(path, copy)
    process = multiprocessing.get_context("fork").Process(target=_killed_saving, args=(copy, step))
    process.start()
    process.join()
    return process.exitcode == 0


def _killed_saving(path: Path, step: int) -> None:
    steps = iter(range(step))

    def dying(call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **options: object) -> object:
            if next(steps, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return wrapped

    with ChipFolder.open(path) as folder:
        chip = folder.load()
        chip.silicon.reset()
        chip.silicon.fuses.blow(CHIP_ID, 1)
        chip.silicon.flash.program(0, b"once")
        chip.silicon.retention[:4] = b"kept"
        os.open = dying(os.open)  # type: ignore[assignment]
        os.fsync = dying(os.fsync)  # type: ignore[assignment]
        os.rename = dying(os.rename)  # type: ignore[assignment]
        os.replace = dying(os.replace)  # type: ignore[assignment]
        os.unlink = dying(os.unlink)  # type: ignore[assignment]
        folder.save(chip)
    os._exit(0)


def test_a_save_that_dies_at_any_step_happened_as_a_whole_or_not_at_all(path: Path, tmp_path: Path) -> None:
    old, seen, step = _contents(path), set[bool](), 0
    while not _stop_at_each_step(path, copy := tmp_path / f"copy-{step}", step):
        with ChipFolder.open(copy) as folder:
            silicon = folder.load().silicon
            happened = silicon.fuses.words()[CHIP_ID] == 1
            assert silicon.boot_count == happened
            assert silicon.flash.read(0, 4) == (b"once" if happened else b"\xff" * 4)
            assert bytes(silicon.retention[:4]) == (b"kept" if happened else bytes(4))
            assert happened or _contents(copy) == old
        assert sorted(entry.name for entry in copy.iterdir()) == sorted((*FILES, "lock"))
        assert (True in seen) <= happened, "once committed, a save does not vanish again"
        seen.add(happened)
        step += 1
    assert seen == {False, True}
    assert step > 20


def test_a_folder_that_died_while_it_was_made_can_be_made_again(tmp_path: Path) -> None:
    (tmp_path / "chip").mkdir()
    (tmp_path / "chip" / "lock").touch()
    (tmp_path / "chip" / f"{FUSES_FILE}.next").write_bytes(b"torn")
    with ChipFolder.create(tmp_path / "chip", 1) as folder:
        assert not any(_fuses(folder.load()))
    assert sorted(entry.name for entry in (tmp_path / "chip").iterdir()) == sorted((*FILES, "lock"))


def test_a_forged_commit_moves_no_other_file(path: Path) -> None:
    (path / "victim.next").write_text("evil")
    (path / "commit").write_text("chip.json\n../victim\nvictim")
    with pytest.raises(ChipFolderBroken):
        ChipFolder.open(path)
    assert (path / "victim.next").exists()


def test_fuses_and_flash_of_another_chip_load_but_keep_this_ones_silicon(path: Path, tmp_path: Path) -> None:
    with ChipFolder.create(tmp_path / "victim", 2) as folder:
        victim = folder.load()
        victim.silicon.fuses.blow(CHIP_ID, 0xFF)
        folder.save(victim)
    for name in (FUSES_FILE, FLASH_FILE):
        shutil.copy(tmp_path / "victim" / name, path / name)
    with ChipFolder.open(path) as folder:
        clone = folder.load().silicon
        clone.reset()
        victim.silicon.reset()
        assert clone.fuses.words() == victim.silicon.fuses.words()
        assert clone.psram.view(0x21E0_0000, 4096) != victim.silicon.psram.view(0x21E0_0000, 4096)


def _with_half_blown(*bits: tuple[int, float], words: bytes = bytes(4 * FUSE_WORDS)) -> bytes:
    return words + struct.pack("<I", len(bits)) + b"".join(struct.pack("<Id", *bit) for bit in bits)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        (FUSES_FILE, bytes(4 * FUSE_WORDS), ChipFolderBroken),
        (FUSES_FILE, _with_half_blown() + b"x", ChipFolderBroken),
        (FUSES_FILE, _with_half_blown((32 * FUSE_WORDS, 0.5)), ChipFolderBroken),
        (FUSES_FILE, _with_half_blown((7, 1.0)), ChipFolderBroken),
        (FUSES_FILE, _with_half_blown((7, float("nan"))), ChipFolderBroken),
        (FUSES_FILE, _with_half_blown((7, 0.5), (7, 0.6)), ChipFolderBroken),
        (FUSES_FILE, _with_half_blown((7, 0.5), words=b"\x80" + bytes(4 * FUSE_WORDS - 1)), ChipFolderBroken),
        (FLASH_FILE, bytes(FLASH_SIZE - 1), ChipFolderBroken),
        (RETENTION_FILE, bytes(RETENTION_SIZE + 1), ChipFolderBroken),
        (CHIP_FILE, b"", ChipFolderBroken),
        (CHIP_FILE, b"[]", ChipFolderBroken),
        (CHIP_FILE, b'{"format": 1}', ChipFolderBroken),
        (CHIP_FILE, b'{"format": 2}', ChipFolderVersion),
        (CHIP_FILE, b'{"format": 1e99}', ChipFolderBroken),
    ],
)
def test_a_file_that_breaks_the_format_is_named_and_left_alone(
    path: Path, name: str, content: bytes, error: type[FuselineError]
) -> None:
    (path / name).write_bytes(content)
    with pytest.raises(error):
        ChipFolder.open(path)
    assert (path / name).read_bytes() == content


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("seed", "12", ChipFolderBroken),
        ("seed", "0x", ChipFolderBroken),
        ("seed", "0x" + "f" * 65, ChipFolderBroken),
        ("seed", "-0x1", ChipFolderBroken),
        ("seed", 1, ChipFolderBroken),
        ("boot_count", -1, ChipFolderBroken),
        ("temperature_c", "hot", ChipFolderBroken),
        ("temperature_c", -300, ChipFolderBroken),
        ("age_years", -1, ChipFolderBroken),
        ("wear", [0] * 255, ChipFolderBroken),
        ("wear", [-1] * 256, ChipFolderBroken),
        ("revision", 2, ChipFolderVersion),
        ("unknown", 1, ChipFolderBroken),
    ],
)
def test_a_fact_out_of_range_is_refused(
    path: Path, key: str, value: object, error: type[FuselineError]
) -> None:
    facts = json.loads((path / CHIP_FILE).read_bytes())
    (path / CHIP_FILE).write_text(json.dumps(facts | {key: value}))
    with pytest.raises(error):
        ChipFolder.open(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.sampled_from(FILES), content=st.binary(max_size=3000))
def test_any_octets_give_a_chip_or_a_coded_error(path: Path, name: str, content: bytes) -> None:
    before = (path / name).read_bytes()
    (path / name).write_bytes(content)
    with contextlib.suppress(ChipFolderBroken, ChipFolderVersion), ChipFolder.open(path) as folder:
        folder.load()
    (path / name).write_bytes(before)


def test_a_missing_file_is_named(path: Path) -> None:
    (path / FLASH_FILE).unlink()
    with pytest.raises(ChipFolderBroken, match=FLASH_FILE):
        ChipFolder.open(path)


def test_a_save_of_nothing_new_writes_nothing(path: Path) -> None:
    before = {entry.name: entry.stat().st_mtime_ns for entry in path.iterdir()}
    with ChipFolder.open(path) as folder:
        folder.save(folder.load())
    assert {entry.name: entry.stat().st_mtime_ns for entry in path.iterdir()} == before
