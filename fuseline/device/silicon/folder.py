"""A chip on disk: a folder that outlives the process.

| file | holds |
| --- | --- |
| `chip.json` | seed, revision, conditions, boot count, wear of each flash block |
| `fuses.bin` | 512 little-endian words, then the half-blown bits |
| `flash.bin` | 1 MiB, as it stands in the part |
| `retention.bin` | 4 KiB that survive every reset but a cold one |

The supply is off between two uses: main RAM and the key slots are in no file. All four files change
together or not at all, also when the machine stops in the middle, and a save that would take back a blown
fuse is refused.

Whoever can write the files owns this chip as nobody owns a real one: formats and sizes are checked, no
more. But fuses and flash that are copied into another chip's folder meet another PUF there, and the ROM
refuses.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final

from fuseline.device.files import sync_folder, write_durably
from fuseline.device.silicon import stored_chip
from fuseline.device.silicon.chip import Chip
from fuseline.device.silicon.puf import Puf
from fuseline.device.silicon.silicon import Silicon
from fuseline.device.silicon.stored_chip import CHIP_FILE, FILES, SEED_LIMIT, StoredChip
from fuseline.errors import (
    ChipFolderBroken,
    ChipFolderBusy,
    ChipFolderExists,
    ChipFolderMissing,
    ChipFuseRewind,
    ChipSeed,
    FuselineError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

_LOCK_FILE: Final = "lock"
# Names the files whose successors (`NAME.next`) are on the disk as a whole: once it is there, the save has
# happened.
_COMMIT_FILE: Final = "commit"
_NEXT: Final = ".next"
_LEFT_BY_A_CRASH: Final = {
    _LOCK_FILE,
    f"{_COMMIT_FILE}.new",
    *(f"{name}{_NEXT}{new}" for name in FILES for new in ("", ".new")),
}


class ChipFolder:
    """One chip's folder, held by this process alone until `close`.

    A context manager; `create` and `open` make it.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        # What the files hold: a save writes only those that change, and takes no fuse back.
        self._contents: dict[str, bytes] = {}

    @classmethod
    def create(cls, path: Path, seed: int | None = None) -> Self:
        """Make a folder with a blank chip.

        Args:
            path: Must not exist yet, or be an empty folder.
            seed: What this piece of silicon is like; a random one by default.

        Raises:
            ChipSeed: The seed is negative or too large.
            ChipFolderExists: Something is there.
            ChipFolderBusy: Another process is at work there.
        """
        if seed is not None and not 0 <= seed < SEED_LIMIT:
            raise ChipSeed("a seed is a natural number of up to 256 bits")
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ChipFolderExists("there is a file in the way", path=str(path)) from error
        if {entry.name for entry in path.iterdir()} - _LEFT_BY_A_CRASH:
            raise ChipFolderExists("the folder is not empty", path=str(path))
        folder = cls(path, _take_lock(path))
        folder.save(Chip(Silicon(seed)))
        return folder

    @classmethod
    def open(cls, path: Path) -> Self:
        """Take hold of the chip in a folder; finishes or undoes a save that a crash interrupted.

        Raises:
            ChipFolderMissing: There is no chip.
            ChipFolderBusy: Another process works on it.
            ChipFolderBroken: A file is missing or does not follow the format. Nothing was changed.
            ChipFolderVersion: It was written by another release.
        """
        if not any((path / name).is_file() for name in (CHIP_FILE, f"{CHIP_FILE}{_NEXT}")):
            raise ChipFolderMissing("there is no chip in this folder", path=str(path))
        folder = cls(path, _take_lock(path))
        try:
            _finish_save(path)
            folder._contents = {name: _read(path / name) for name in FILES}
            stored_chip.decode(folder._contents)
        except FuselineError:
            folder.close()
            raise
        return folder

    def load(self) -> Chip:
        """Return the chip as the files have it: powered, its processor held in reset."""
        stored = stored_chip.decode(self._contents)
        conditions = stored.conditions
        puf = Puf(stored.seed, temperature_c=conditions.temperature_c, age_years=conditions.age_years)
        return Chip(Silicon(stored.seed, non_volatile=stored.kept, puf=puf, retention=stored.retention))

    def save(self, chip: Chip) -> None:
        """Write the chip's lasting state; on the disk when this returns.

        Args:
            chip: The one that was loaded, or a copy of it from a later moment.

        Raises:
            ChipFuseRewind: It has fewer fuses blown than the file, or another seed. Nothing was changed.
        """
        silicon = chip.silicon
        stored = StoredChip(
            silicon.seed, silicon.puf.conditions, silicon.non_volatile(), bytes(silicon.retention)
        )
        if self._contents:
            _require_later(stored_chip.decode(self._contents), stored)
        contents = stored_chip.encode(stored)
        changed = {name: octets for name, octets in contents.items() if self._contents.get(name) != octets}
        if changed:
            _replace_together(self.path, changed)
        self._contents = contents

    def close(self) -> None:
        """Let others work on the chip. What was not saved has not happened."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _require_later(before: StoredChip, after: StoredChip) -> None:
    """Refuse a chip that is not the same one at a later moment."""
    if before.seed != after.seed:
        raise ChipFuseRewind("this is another chip than the folder's")
    old, new = before.kept.fuses, after.kept.fuses
    blown = int.from_bytes(new.words, "little")
    lost = int.from_bytes(old.words, "little") & ~blown
    half_blown = {bit for bit, _ in new.half_blown}
    healed = [bit for bit, _ in old.half_blown if bit not in half_blown and not blown >> bit & 1]
    if lost or healed:
        raise ChipFuseRewind(
            "fuses that are blown would become whole again", blown=lost.bit_count(), half_blown=len(healed)
        )


def _take_lock(path: Path) -> int:
    try:
        descriptor = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ChipFolderBroken("the folder cannot be locked", path=str(path), cause=str(error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ChipFolderBusy("another process works on this chip", path=str(path)) from error
    return descriptor


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ChipFolderBroken(f"{path.name} cannot be read", path=str(path), cause=str(error)) from error


def _replace_together(path: Path, contents: Mapping[str, bytes]) -> None:
    """Replace several files so that whoever comes after a crash finds all of the old or all of the new."""
    for name, octets in contents.items():
        write_durably(path / f"{name}{_NEXT}", octets)
    write_durably(path / _COMMIT_FILE, "\n".join(contents).encode())
    _finish_save(path)


def _finish_save(path: Path) -> None:
    """Bring a save to its end, or undo one that was not committed."""
    commit = path / _COMMIT_FILE
    if commit.exists():
        names = _read(commit).decode(errors="replace").split("\n")
        if not set(names) <= set(FILES):
            raise ChipFolderBroken(f"`{_COMMIT_FILE}` names files that no chip has", path=str(path))
        for name in names:
            # One that is not there was renamed before the crash.
            with contextlib.suppress(FileNotFoundError):
                (path / f"{name}{_NEXT}").replace(path / name)
        sync_folder(path)
        commit.unlink()
        sync_folder(path)
    for name in _LEFT_BY_A_CRASH - {_LOCK_FILE}:
        (path / name).unlink(missing_ok=True)
