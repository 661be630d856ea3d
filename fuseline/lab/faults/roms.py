"""Which boot ROM a campaign attacks."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import fuseline
from fuseline.device.silicon.rom import RomImage, rom_image, rom_image_from
from fuseline.errors import RomDamaged, ToolMissing

HARDENED: Final = "hardened"
UNHARDENED: Final = "unhardened"


def rom_named(name: str) -> RomImage:
    """Return the package's ROM, the same built without its defences, or one from a folder.

    Args:
        name: `HARDENED`, `UNHARDENED`, or a folder with `rom.bin` and `rom.lines` as `tools/chip.py` makes
            them.

    Raises:
        RomDamaged: The package's ROM is not the frozen one, or the folder holds none.
        ToolMissing: The sources of the ROM or its compiler are not there.
    """
    if name == HARDENED:
        return rom_image()
    if name == UNHARDENED:
        return _build_unhardened()
    try:
        return rom_image_from(Path(name))
    except OSError as error:
        raise RomDamaged("the folder holds no ROM", folder=name, missing=error.filename) from error


def _build_unhardened() -> RomImage:
    builder = Path(fuseline.__file__).parent.parent / "tools/chip.py"
    if not builder.is_file():
        raise ToolMissing(
            "the unhardened ROM is built from the sources, which are not installed", tool=builder.name
        )
    with tempfile.TemporaryDirectory(prefix="fuseline-rom-") as folder:
        command = [sys.executable, str(builder), "build", "--unhardened", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ToolMissing("the ROM's sources do not build", output=done.stderr[-400:])
        return rom_image_from(Path(folder))
