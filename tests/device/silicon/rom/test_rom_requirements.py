"""The requirements, the machine code that names them, and the tests that carry them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fuseline.device.silicon import rom
from fuseline.device.silicon.rom import __name__ as package
from fuseline.device.silicon.rom import (
    load_requirements,
    probe_image,
    quick_image,
    requirement_of,
    requirements,
    rom_image,
)
from fuseline.errors import RomDamaged, RomErrorUnknown

ROOT = Path(__file__).resolve().parents[4]
SOURCES = "\n".join(path.read_text() for path in sorted((ROOT / "chip/rom").glob("*.[ch]")))


def _marked() -> set[str]:
    text = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    return set(re.findall(r'mark\.requirement\(\s*"([^"]+)"', text))


def test_every_requirement_has_a_test_and_every_mark_a_requirement() -> None:
    wanted = set(load_requirements())
    assert _marked() - wanted == set()
    assert wanted - _marked() == set()


def test_the_machine_code_refuses_with_every_word() -> None:
    missing = [item.code for item in load_requirements().values() if item.code not in SOURCES]
    assert missing == []


def test_the_machine_code_names_requirements_that_there_are() -> None:
    named: set[str] = set()
    for prefix, numbers in re.findall(r"ROM-([A-Z]+)-([0-9]+(?:(?: to |, | and )[0-9]+)*)", SOURCES):
        first, *rest = (int(number) for number in re.findall(r"[0-9]+", numbers))
        last = rest[-1] if rest else first
        named |= {f"ROM-{prefix}-{number}" for number in range(first, last + 1)}
    assert named - set(load_requirements()) == set()


def test_error_words_are_unique_and_keep_their_code() -> None:
    words = [item.word for item in load_requirements().values()]
    assert len(set(words)) == len(words)
    assert len({item.code for item in load_requirements().values()}) == len(words)
    for word in words:
        marker, group, number, check = word.to_bytes(4, "big")
        assert marker == 0xE0
        assert marker ^ group ^ number ^ check == 0xFF, hex(word)


def test_an_error_word_leads_to_its_requirement() -> None:
    for item in load_requirements().values():
        assert requirement_of(item.word) is item
        assert item.text.endswith(".")
    with pytest.raises(RomErrorUnknown):
        requirement_of(0xE000_0000)


def test_requirement_numbers_have_no_gaps() -> None:
    groups: dict[str, list[int]] = {}
    for identifier in load_requirements():
        _, group, number = identifier.split("-")
        groups.setdefault(group, []).append(int(number))
    for group, numbers in groups.items():
        assert numbers == list(range(1, len(numbers) + 1)), group


def test_the_package_holds_the_frozen_binaries() -> None:
    frozen = (ROOT / "chip/rom/rom.sha256").read_text()
    packaged = (Path(requirements.__file__).parent / "rom.sha256").read_text()
    assert packaged == frozen
    assert rom_image().digest.hex() in frozen
    assert probe_image()
    assert quick_image()


def test_every_instruction_of_the_rom_has_a_line() -> None:
    image = rom_image()
    reset = int.from_bytes(image.binary[4:8], "little") & ~1
    line = image.line(reset)
    assert line is not None
    assert (line.file, line.function) == ("start.c", "rom_reset")
    assert str(line).startswith("start.c:")
    assert image.line(-2) is None
    assert image.line(len(image.binary)) is None
    assert image.line(0) is None


def test_a_damaged_binary_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def other_digests() -> dict[str, str]:
        return {"rom.bin": "00" * 32}

    rom_image.cache_clear()
    monkeypatch.setattr(f"{package}._digests", other_digests)
    monkeypatch.setattr(f"{package}._packaged", rom._packaged.__wrapped__)
    with pytest.raises(RomDamaged, match="not the frozen one"):
        rom_image()
    monkeypatch.undo()
    rom_image.cache_clear()
    assert rom_image().binary
