"""`fuseline chip fuse` and `debug`: what is shown before it is blown, and who may open the port."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fuseline.device.silicon.rom import probe_image
from fuseline.lab.chip.factory import LoaderSpec, sign_loader

if TYPE_CHECKING:
    from tests.cli.conftest import Fuseline, State, Workshop

# The command line is entered as a process enters it: `main` reads `sys.argv`.
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens:UserWarning")


def test_a_rehearsal_shows_every_word_and_leaves_the_folder_bit_for_bit(
    chip: Fuseline, workshop: Workshop, product: Path, state: State
) -> None:
    before = state(product)
    key = workshop.key("debug-authority")
    done = chip("fuse", product, "--revoke", "1", "--debug-key", key, "--rehearse")
    assert done.status == 0
    for part in ("key 1 revoked", "00000000", "ffffffff", "revoke key slot 1", "boots"):
        assert part in done.out
    document = chip("fuse", product, "--revoke", "1", "--debug-key", key, "--rehearse", "--json").json
    assert (document["blown"], document["rehearsal"]["verdict"]) == (False, "boots")
    assert state(product) == before


def test_a_revoked_key_boots_nothing_any_more(
    chip: Fuseline, workshop: Workshop, product: Path, tmp_path: Path
) -> None:
    (tmp_path / "spare.bin").write_bytes(sign_loader(probe_image(), workshop.key("loader-1"), LoaderSpec()))
    assert chip("boot", product, "--image", tmp_path / "spare.bin").status == 0
    key = workshop.key("debug-authority")
    done = chip("fuse", product, "--revoke", "1", "--debug-key", key, "--yes", "--json").json
    assert done["blown"]
    report = chip("boot", product, "--image", tmp_path / "spare.bin", "--json").json
    assert report["error"]["code"] == "E_ROM_KEY_REVOKED"
    assert chip("boot", product).status == 0
    assert chip("show", product, "--json").json["keys"][1]["revoked"]
    error = chip("fuse", product, "--revoke", "0", "--debug-key", key, "--yes", "--json").error
    assert error["code"] == "E_CHIP_FUSE_LAST_KEY"


def test_nothing_is_blown_unless_somebody_says_so(
    chip: Fuseline, workshop: Workshop, product: Path, state: State
) -> None:
    before = state(product)
    key = workshop.key("debug-authority")
    error = chip("fuse", product, "--revoke", "1", "--debug-key", key, "--json").error
    assert error["code"] == "E_CHIP_NOT_CONFIRMED"
    assert state(product) == before


@pytest.mark.parametrize(("answer", "blown"), [(b"y\n", True), (b"n\n", False), (b"\n", False)])
def test_a_person_at_a_terminal_is_asked(
    answer: bytes, blown: bool, chip: Fuseline, workshop: Workshop, product: Path
) -> None:
    person, terminal = pty.openpty()
    arguments = ("fuse", product, "--revoke", "1", "--debug-key", workshop.key("debug-authority"))
    command = [sys.executable, "-m", "fuseline", "chip", *map(str, arguments)]
    os.write(person, answer)
    done = subprocess.run(command, stdin=terminal, capture_output=True, text=True, timeout=60, check=False)
    os.close(terminal)
    os.close(person)
    assert "Blow these fuses for ever?" in done.stdout
    assert done.returncode == (0 if blown else 1)
    assert chip("show", product, "--json").json["keys"][1]["revoked"] is blown


def test_what_bricks_the_chip_needs_more_than_yes(
    chip: Fuseline, workshop: Workshop, product: Path, state: State
) -> None:
    before = state(product)
    plan = ("fuse", product, "--counter", "loader=2", "--debug-key", workshop.key("debug-authority"), "--yes")
    error = chip(*plan, "--json").error
    assert error["code"] == "E_CHIP_WOULD_NOT_BOOT"
    assert error["evidence"]["rom_error"]["code"] == "E_ROM_ROLLBACK"
    assert state(product) == before
    assert chip(*plan, "--even-if-it-no-longer-boots").status == 0
    assert chip("boot", product, "--json").json["error"]["code"] == "E_ROM_ROLLBACK"


def test_a_cut_supply_is_rehearsed_and_never_blown(
    chip: Fuseline, workshop: Workshop, product: Path, state: State
) -> None:
    before = state(product)
    key = workshop.key("debug-authority")
    plan = ("fuse", product, "--revoke", "1", "--debug-key", key, "--cut-at", "5", "--yes")
    document = chip(*plan, "--json").json
    rehearsal = document["rehearsal"]
    assert (document["blown"], rehearsal["cut"], rehearsal["operations"]) == (False, True, 5)
    assert rehearsal["changes"][0]["half_blown"] == "0x00000010"
    assert rehearsal["after"]["outcome"] == "booted"
    assert "cut at operation 5" in chip(*plan).out
    assert state(product) == before


def test_a_chip_in_test_takes_keys_authority_and_raw_bits(
    chip: Fuseline, workshop: Workshop, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    chip("new", folder)
    plan: tuple[str, ...] = ("--key", f"3={workshop.factory / 'loader-test.pub.pem'}", "--key-type", "test")
    plan += ("--debug-authority", str(workshop.factory / "debug-authority.pub.pem"))
    plan += ("--counter", "firmware-1=3", "--blow", "0x20=0x1", "--yes")
    assert chip("fuse", folder, *plan).status == 0
    shown = chip("show", folder, "--json").json
    assert (shown["keys"][3]["type"], shown["keys"][3]["valid"]) == ("TEST", True)
    assert shown["counters"]["firmware_1"] == 3
    assert shown["debug_authority"] is not None
    assert [fault["field"] for fault in shown["faults"]] == ["product"]
    assert "product" in chip("show", folder).out


# --- debug ---------------------------------------------------------------------------------------------


def test_debug_is_unlocked_with_the_authority_far_away(
    chip: Fuseline, workshop: Workshop, product: Path, tmp_path: Path
) -> None:
    challenge, response = tmp_path / "challenge", tmp_path / "response"
    assert chip("debug", product, "--out", challenge).status == 0
    assert len(json.loads(challenge.read_text())["challenge"]) == 64
    assert chip("debug-sign", challenge, workshop.key("debug-authority"), "--out", response).status == 0
    report = chip("debug", product, "--response", response, "--json").json
    assert (report["outcome"], report["debug"]) == ("booted", "OPEN")
    unwritable = chip("debug", product, "--out", tmp_path / "none" / "challenge")
    assert unwritable.err.startswith("E_CHIP_FILE")
    assert chip("boot", product, "--json").json["debug"] == "LOCKED"
    error = chip("debug", product, "--response", response, "--json").error
    assert error["code"] == "E_CHIP_DEBUG_NO_CHALLENGE"


def test_debug_is_unlocked_in_one_go_and_by_nobody_else(
    chip: Fuseline, workshop: Workshop, product: Path
) -> None:
    opened = chip("debug", product, "--respond", workshop.key("debug-authority"))
    assert "debug was open" in opened.out
    error = chip("debug", product, "--respond", workshop.key("loader-0"), "--json").error
    assert error["code"] == "E_CHIP_DEBUG_REFUSED"
    assert error["evidence"]["rom_error"]["code"] == "E_ROM_DEBUG_KEY"
