"""Mutation controls of the boot ROM: each check taken out of its source, and the attack it stops must win.

All mutants are one build: every removed check reads a word that says which mutant this is, and each mutant is
that binary with another number in the word. Number 0 is the ROM with every check in its place.
"""

from __future__ import annotations

import importlib.util
import shutil
import struct
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from fuseline.device.silicon.rom import load_requirements
from fuseline.device.silicon.unicorn_engine import UnicornEngine
from fuseline.lab.chip_attacks.catalogue import choose
from fuseline.lab.chip_attacks.model import Effort, Verdict
from fuseline.lab.chip_attacks.rig import Rig, Victims, make_victims

ROOT = Path(__file__).resolve().parents[2]
NO_MUTANT = 0x4D55_5400
"""What the build holds where the mutant's number goes."""
DECLARATION = "\nextern const volatile unsigned int mutant;\n"
DEFINITION = f"\nconst volatile unsigned int mutant = {NO_MUTANT:#x}u;\n"

CHECKS = tomllib.loads(Path(__file__).with_name("rom_checks.toml").read_text())["control"]
PORT = "void port_take_away(uint32_t command, uint32_t a0) {"

Edit = tuple[str, str, str]
"""File in chip/rom, the check as it stands there exactly once, and what stands instead of it."""


@dataclass(frozen=True)
class Control:
    """One check, and the attacks that win without it."""

    requirement: str
    name: str
    edits: tuple[Edit, ...]
    attacks: tuple[str, ...]


def _edit(row: dict[str, str]) -> Edit:
    file = row["file"]
    if "zero" in row:
        return file, row["zero"], f"(OFF ? 0u : {row['zero']})"
    if "never" in row:
        return file, f"if ({row['never']})", f"if (!OFF && ({row['never']}))"
    if "asked" in row:
        return file, PORT, f"{PORT}\n  if (OFF && ({row['asked']})) {row['to']};"
    return file, row["from"], row["to"]


CONTROLS = tuple(
    Control(
        row["requirement"], row["name"], tuple(_edit(edit) for edit in row["edits"]), tuple(row["attacks"])
    )
    for row in CHECKS
)

ONLY_BY_FAULTS = {
    "ROM-OTP-3": "two readings of one fuse in one boot differ",
    "ROM-DBG-6": "the port does not open although the block says so",
    "ROM-DICE-1": "the key manager refuses what it always does at this point",
    "ROM-DICE-2": "the block signs wrongly",
    "ROM-LOCK-2": "a check was skipped",
    "ROM-FLOW-1": "two passes over the same memory differ",
    "ROM-FLOW-2": "the ROM's own code faults",
    "ROM-FLOW-3": "a command fails that cannot, but for a stuck noise source",
    "ROM-PRV-2": "the key manager refuses what it always does at this point",
}
"""Requirements that no input can violate; `fuseline lab faults` looks after them."""


def _numbers() -> dict[Edit, list[int]]:
    users: dict[Edit, list[int]] = {}
    for number, control in enumerate(CONTROLS, 1):
        for edit in control.edits:
            users.setdefault(edit, []).append(number)
    return users


def _mutate(sources: Path) -> None:
    """Put every edit into the sources; the check must stand there exactly once."""
    originals = {path.name: path.read_text() for path in sources.iterdir()}
    changed = dict(originals)
    for (file, check, instead), users in _numbers().items():
        assert originals[file].count(check) == 1, (
            f"{check!r} stands {originals[file].count(check)} times in {file}"
        )
        off = " || ".join(f"mutant == {number}u" for number in users)
        text = instead.replace("OFF", f"({off})").replace("NUMBER", str(users[0]))
        assert changed[file].count(check) == 1, f"two controls change {check!r}"
        changed[file] = changed[file].replace(check, text)
    changed["hard.h"] = changed["hard.h"].replace("#include <stdint.h>", f"#include <stdint.h>{DECLARATION}")
    changed["main.c"] += DEFINITION
    for name, text in changed.items():
        (sources / name).write_text(text)


def _compiler(path: Path) -> ModuleType:
    """`tools/chip.py` of another tree: it builds the sources that stand beside it."""
    spec = importlib.util.spec_from_file_location("chip_of_mutants", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class MutantRom:
    """A ROM without one check."""

    binary: bytes


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    """The one binary of all mutants."""
    tree = tmp_path_factory.mktemp("mutants")
    shutil.copytree(ROOT / "chip", tree / "chip")
    (tree / "tools").mkdir()
    shutil.copy(ROOT / "tools/chip.py", tree / "tools/chip.py")
    _mutate(tree / "chip/rom")
    compiler = _compiler(tree / "tools/chip.py")
    yield compiler.build(compiler.targets()[0], tree)["rom.bin"]
    del sys.modules["chip_of_mutants"]


@pytest.fixture(scope="module")
def engine() -> UnicornEngine:
    return UnicornEngine()


@pytest.fixture(scope="module")
def victims(engine: UnicornEngine) -> Victims:
    return make_victims(engine)


def _mutant(binary: bytes, number: int) -> MutantRom:
    word = struct.pack("<I", NO_MUTANT)
    assert binary.count(word) == 1
    return MutantRom(binary.replace(word, struct.pack("<I", number)))


def _wins(attack: str, rig: Rig) -> bool:
    (one,) = choose([attack])
    return any(attempt.verdict is Verdict.ESCAPED for attempt in one.run(rig, Effort.QUICK))


@pytest.mark.parametrize(
    ("number", "control"),
    [
        pytest.param(number, control, id=f"{control.requirement} {control.name}")
        for number, control in enumerate(CONTROLS, 1)
    ],
)
def test_the_attack_wins_once_its_check_is_gone(
    number: int, control: Control, mutants: bytes, engine: UnicornEngine, victims: Victims
) -> None:
    rig = Rig(engine, rom=_mutant(mutants, number), victims=victims)
    for attack in control.attacks:
        assert _wins(attack, rig), f"{attack}: the check was not what stopped it"


def test_the_build_of_all_mutants_with_every_check_in_its_place_withstands(
    mutants: bytes, engine: UnicornEngine, victims: Victims
) -> None:
    rig = Rig(engine, rom=_mutant(mutants, 0), victims=victims)
    # The catalogue's own test takes the long ones to the ROM itself.
    long = {"any-fuse", "cut-enrolment", "cut-image", "damaged-fuses", "flip-every-bit", "helper-bits"}
    attacks = {attack for control in CONTROLS for attack in control.attacks} - long
    assert [attack for attack in sorted(attacks) if _wins(attack, rig)] == []


def test_every_requirement_has_a_control_or_is_only_for_faults() -> None:
    controlled = {control.requirement for control in CONTROLS}
    assert controlled.isdisjoint(ONLY_BY_FAULTS)
    assert controlled | set(ONLY_BY_FAULTS) == set(load_requirements())
