"""The binaries in the package are what the sources make, wherever they are built."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fuseline.device.silicon.chip import Chip
from fuseline.device.silicon.engine import Limits
from fuseline.device.silicon.memory_map import LOADER_PRIMARY
from fuseline.device.silicon.report import Outcome
from fuseline.device.silicon.rom import rom_image, rom_image_from
from fuseline.lab.chip_attacks.forge import ImageSpec, P256Signer, forge

if TYPE_CHECKING:
    from tests.device.silicon.rom.conftest import MakeChip

TOOL = Path(__file__).resolve().parents[4] / "tools/chip.py"
LIMITS = Limits(seconds=20)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None,
    reason="the ziglang wheel, the pinned compiler, is not installed",
)


def _tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments], capture_output=True, text=True, check=False, timeout=200
    )


def test_two_builds_in_two_folders_are_the_frozen_binaries() -> None:
    done = _tool("check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_unhardened_rom_refuses_and_boots_like_the_other_one(make_chip: MakeChip, tmp_path: Path) -> None:
    done = _tool("build", "--unhardened", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    rom = rom_image_from(tmp_path)
    assert rom.digest != rom_image().digest
    for key, outcome in (("key a", Outcome.BOOTED), ("stranger", Outcome.REFUSED)):
        chip = make_chip()
        chip.write_flash(LOADER_PRIMARY, forge(ImageSpec(), P256Signer(key)))
        assert Chip(chip.silicon).boot(chip.engine, rom=rom, limits=LIMITS).outcome is outcome
