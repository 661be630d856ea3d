"""`fuseline chip` as people and scripts use it: verdicts, exit statuses, JSON, and what is never touched."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from fuseline.device.silicon.memory_map import LOADER_RAM
from fuseline.device.silicon.rom import probe_image
from fuseline.formats.usage import UsageConstraints
from fuseline.lab.chip.factory import LoaderSpec, sign_loader
from fuseline.lab.releases import imgtool

# The command line is entered as a process enters it: `main` reads `sys.argv`.
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens:UserWarning")


if TYPE_CHECKING:
    from tests.cli.conftest import Fuseline, State, Workshop

ChipProcess = Callable[..., subprocess.CompletedProcess[str]]

# --- making chips --------------------------------------------------------------------------------------


def test_a_new_chip_has_its_id_and_nothing_else(chip: Fuseline, tmp_path: Path) -> None:
    made = chip("new", tmp_path / "one", "--seed", 11, "--json").json
    again = chip("new", tmp_path / "two", "--seed", 11, "--json").json
    other = chip("new", tmp_path / "three", "--json").json
    assert made["life_cycle"] == "TEST"
    assert made["chip_id"] == again["chip_id"] != other["chip_id"]
    shown = chip("show", tmp_path / "one", "--json").json
    assert (shown["puf_enrolled"], shown["product"], shown["faults"]) == (False, None, [])
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "one").iterdir())


def test_a_chip_is_never_made_over_another(chip: Fuseline, tmp_path: Path, state: State) -> None:
    chip("new", tmp_path / "one")
    before = state(tmp_path / "one")
    assert chip("new", tmp_path / "one", "--json").error["code"] == "E_CHIP_FOLDER_EXISTS"
    assert state(tmp_path / "one") == before


def test_provisioning_tells_every_step_and_the_identity(workshop: Workshop) -> None:
    document = workshop.provisioned
    assert (document["life_cycle"], document["rehearsal"]) == ("PROD", False)
    steps = [step["step"] for step in document["steps"]]
    assert steps[0] == "PUF"
    assert steps[-1] == "first boot"
    assert steps.index("life cycle PROD") > steps.index("flash: recovery loader")
    certificate = x509.load_pem_x509_certificate(document["certificate"].encode())
    assert certificate.subject.rfc4514_string() == f"2.5.4.5={document['chip_id']}"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [document["name"]]
    assert document["loader"]["measurement"] == document["boot"]["measurement"]


def test_openssl_accepts_the_chips_identity(workshop: Workshop, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    path = tmp_path / "idevid.pem"
    path.write_text(workshop.provisioned["certificate"])
    authority = workshop.factory / "factory-ca.pem"
    command = [openssl, "verify", "-x509_strict", "-CAfile", str(authority), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rehearsed_provisioning_leaves_the_chip_as_it_was(
    chip: Fuseline, workshop: Workshop, tmp_path: Path, state: State
) -> None:
    chip("new", tmp_path / "one")
    before = state(tmp_path / "one")
    manifest = workshop.factory / "manifest.toml"
    done = chip("provision", tmp_path / "one", "--manifest", manifest, "--rehearse", "--json")
    assert done.json["boot"]["outcome"] == "booted"
    assert state(tmp_path / "one") == before


def test_a_chip_whose_rehearsal_fails_is_left_in_test(
    chip: Fuseline, workshop: Workshop, tmp_path: Path, state: State
) -> None:
    """The manifest's loader is signed by a key that the manifest does not bring into the chip."""
    factory = tmp_path / "factory"
    shutil.copytree(workshop.factory, factory)
    (factory / "loader.bin").write_bytes(
        sign_loader(probe_image(), workshop.key("loader-test"), LoaderSpec())
    )
    chip("new", tmp_path / "one")
    before = state(tmp_path / "one")
    error = chip("provision", tmp_path / "one", "--manifest", factory / "manifest.toml", "--json").error
    assert (error["code"], error["evidence"]["rom_code"]) == ("E_CHIP_PROVISION", "E_ROM_KEY_UNKNOWN")
    assert state(tmp_path / "one") == before


@pytest.mark.parametrize(
    "last_seen", ["PUF", "fuses: key slot 0", "flash: primary", "life cycle DEV", "identity"]
)
def test_a_killed_provisioning_is_resumed_by_the_same_command(
    last_seen: str, chip: Fuseline, workshop: Workshop, tmp_path: Path
) -> None:
    chip("new", tmp_path / "one")
    arguments = ("provision", tmp_path / "one", "--manifest", workshop.factory / "manifest.toml")
    command = [sys.executable, "-m", "fuseline", "chip", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as running:
        assert running.stderr is not None
        assert any(last_seen in line for line in running.stderr)
        running.kill()
    done = chip(*arguments, "--json").json
    assert done["boot"]["outcome"] == "booted"
    assert not done["steps"][0]["changed"]
    assert chip("boot", tmp_path / "one").status == 0


# --- booting -------------------------------------------------------------------------------------------


def test_a_product_boots(chip: Fuseline, product: Path) -> None:
    done = chip("boot", product, "--json")
    report = done.json
    assert (done.status, report["outcome"], report["error"]) == (0, "booted", None)
    assert report["stages"] == ["ROM", "FUSES", "PUF", "DICE", "VERIFIED", "LOADER", "LOADER_RUNS"]
    assert (report["key_slot"], report["loader_version"], report["engine"]) == (0, "1.0.0", "unicorn")
    assert report["counters"]["loader"] == 1
    assert "probe runs" in report["console"]
    text = chip("boot", product)
    assert text.status == 0
    assert "LOADER_RUNS" in text.out


@pytest.mark.interop
def test_both_engines_tell_the_same(chip: Fuseline, product: Path, tmp_path: Path) -> None:
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    shutil.copytree(product, tmp_path / "twin")
    reports = [
        chip("boot", product, "--engine", "unicorn", "--json").json,
        chip("boot", tmp_path / "twin", "--engine", "qemu", "--json").json,
    ]
    for report in reports:
        del report["engine"], report["instructions"]
    assert reports[0] == reports[1]


def _unsigned(workshop: Workshop, folder: Path) -> bytes:
    source, target = folder / "raw", folder / "unsigned"
    source.write_bytes(probe_image())
    command = [imgtool(), "sign", "--version", "1.0.0", "--security-counter", "1", "--header-size", "0x200"]
    command += ["--pad-header", "--align", "4", "--slot-size", "65536", "--load-addr", hex(LOADER_RAM)]
    subprocess.run([*map(str, command), str(source), str(target)], check=True, capture_output=True)
    return target.read_bytes()


def _signed(key: str, **spec: Any) -> Callable[[Workshop, Path], bytes]:
    return lambda workshop, _: sign_loader(probe_image(), workshop.key(key), LoaderSpec(**spec))


def _packaged(workshop: Workshop) -> bytes:
    return (workshop.factory / "loader.bin").read_bytes()


def _flipped(workshop: Workshop, _: Path) -> bytes:
    image = bytearray(_packaged(workshop))
    image[0x400] ^= 1
    return bytes(image)


IMAGES: dict[str, tuple[Callable[[Workshop, Path], bytes], str | None]] = {
    "good": (lambda workshop, _: _packaged(workshop), None),
    "newer": (_signed("loader-0", security_counter=2, version="2.0.0"), None),
    "spare key": (_signed("loader-1"), None),
    "for this product": (_signed("loader-0", usage=UsageConstraints(product_id=0x46555345)), None),
    "unsigned": (_unsigned, "E_ROM_UNSIGNED"),
    "wrong key": (_signed("loader-test"), "E_ROM_KEY_UNKNOWN"),
    "debug authority's key": (_signed("debug-authority"), "E_ROM_KEY_UNKNOWN"),
    "rolled back": (_signed("loader-0", security_counter=0), "E_ROM_ROLLBACK"),
    "other chip": (_signed("loader-0", usage=UsageConstraints(chip_id=bytes(range(32)))), "E_ROM_USAGE"),
    "other life cycle": (_signed("loader-0", usage=UsageConstraints(life_cycle=1)), "E_ROM_USAGE"),
    "flipped bit": (_flipped, "E_ROM_DIGEST"),
    "truncated": (lambda workshop, _: _packaged(workshop)[:-100], "E_ROM_TLV"),
    "header only": (lambda workshop, _: _packaged(workshop)[:32], "E_ROM_TLV"),
    "empty": (lambda *_: b"", "E_ROM_NO_IMAGE"),
    "all ones": (lambda *_: b"\xff" * 65536, "E_ROM_NO_IMAGE"),
    "all zero": (lambda *_: bytes(4096), "E_ROM_NO_IMAGE"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_is_tried_on_a_copy_and_judged(
    case: str, chip: Fuseline, workshop: Workshop, product: Path, tmp_path: Path, state: State
) -> None:
    build, code = IMAGES[case]
    path = tmp_path / "image.bin"
    path.write_bytes(build(workshop, tmp_path))
    before = state(product)
    done = chip("boot", product, "--image", path, "--json")
    report = done.json
    if code is None:
        assert (done.status, report["outcome"], report["error"]) == (0, "booted", None)
    else:
        assert (done.status, report["outcome"]) == (1, "refused")
        assert report["error"]["code"].startswith(code)
        assert report["error"]["requirement"].startswith("ROM-")
        assert report["measurement"] is None
    assert state(product) == before


def test_people_read_why_an_image_was_refused(chip: Fuseline, product: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    done = chip("boot", product, "--image", tmp_path / "empty")
    assert done.status == 1
    for part in ("refused", "E_ROM_NO_IMAGE", "ROM-HDR-1", "The slot starts with the image magic"):
        assert part in done.out


def test_a_damaged_primary_is_passed_over_for_the_recovery_copy(
    chip: Fuseline, product: Path, tmp_path: Path
) -> None:
    (tmp_path / "garbage").write_bytes(b"garbage!" * 512)
    assert chip("flash", product, tmp_path / "garbage", "--json").json["changed"]
    report = chip("boot", product, "--json").json
    assert (report["outcome"], report["recovery_error"]["code"]) == ("booted", "E_ROM_NO_IMAGE")
    assert chip("flash", product, tmp_path / "garbage", "--slot", "recovery").status == 0
    assert chip("boot", product).status == 1
    assert "no image" in chip("show", product).out


def test_a_file_that_fits_no_slot_is_not_written(
    chip: Fuseline, product: Path, tmp_path: Path, state: State
) -> None:
    (tmp_path / "large").write_bytes(bytes(65537))
    before = state(product)
    assert chip("flash", product, tmp_path / "large", "--json").error["code"] == "E_CHIP_LOADER_SIZE"
    assert state(product) == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("boot", "{gone}"), "E_CHIP_FOLDER_MISSING"),
        (("show", "{gone}"), "E_CHIP_FOLDER_MISSING"),
        (("fuse", "{gone}", "--revoke", "1"), "E_CHIP_FOLDER_MISSING"),
        (("debug", "{gone}"), "E_CHIP_FOLDER_MISSING"),
        (("flash", "{gone}", "{image}"), "E_CHIP_FOLDER_MISSING"),
        (("flash", "{product}", "{gone}"), "E_CHIP_FILE"),
        (("boot", "{product}", "--image", "{gone}"), "E_CHIP_FILE"),
        (("provision", "{product}", "--manifest", "{gone}"), "E_CHIP_MANIFEST_FILE"),
        (("provision", "{product}", "--manifest", "{image}"), "E_CHIP_MANIFEST"),
        (("debug", "{product}", "--respond", "{gone}"), "E_CHIP_FILE"),
        (("debug", "{product}", "--respond", "{image}"), "E_CHIP_FILE"),
        (("debug", "{product}", "--response", "{image}"), "E_CHIP_FILE"),
        (("factory", "{image}"), "E_STATE_MISSING"),
        (("factory", "{image}/below"), "E_STATE_MISSING"),
        (("new", "{image}/below"), "E_CHIP_FOLDER_EXISTS"),
        (("debug-sign", "{image}", "{image}"), "E_CHIP_FILE"),
        (("errors", "0xE0FFFFFF"), "E_CHIP_ERROR_UNKNOWN"),
        (("fuse", "{product}", "--counter", "loader"), "E_CHIP_FUSE_ARGUMENT"),
        (("fuse", "{product}", "--counter", "moon=1"), "E_CHIP_FUSE_ARGUMENT"),
        (("fuse", "{product}", "--blow", "0x200=1"), "E_CHIP_FUSE_ARGUMENT"),
        (("fuse", "{product}", "--blow", "1=-1"), "E_CHIP_FUSE_ARGUMENT"),
        (("fuse", "{product}", "--blow", "x=1"), "E_CHIP_FUSE_ARGUMENT"),
        (("fuse", "{product}", "--key", "2={gone}"), "E_CHIP_MANIFEST_FILE"),
        (("fuse", "{product}", "--life-cycle", "HEAVEN"), "E_CHIP_FUSE_ARGUMENT"),
        (("fuse", "{product}", "--life-cycle", "TEST"), "E_CHIP_FUSE_ORDER"),
        (("fuse", "{product}", "--revoke", "1"), "E_CHIP_FUSE_DEBUG"),
        (
            (
                "fuse",
                "{product}",
            ),
            "E_CHIP_FUSE_NOTHING",
        ),
    ],
)
def test_what_cannot_be_done_is_a_coded_error_and_changes_nothing(
    arguments: tuple[str, ...], code: str, chip: Fuseline, product: Path, tmp_path: Path, state: State
) -> None:
    (tmp_path / "image").write_bytes(b"\x00not an image, nor a key, nor a document")
    names = {"gone": tmp_path / "gone", "image": tmp_path / "image", "product": product}
    before = state(product)
    as_json = () if arguments[0] == "debug-sign" else ("--json",)
    done = chip(*(argument.format(**names) for argument in arguments), *as_json)
    # `boot` keeps 1 for a chip that was asked and refused.
    assert done.status == (2 if arguments[0] == "boot" else 1)
    assert code in (done.json["error"]["code"] if as_json else done.err)
    assert state(product) == before
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("boot",),
        ("boot", "x", "--engine", "renode"),
        ("boot", "x", "--max-time", "0"),
        ("new", "x", "--seed", "-1"),
        ("fuse", "x", "--revoke", "one"),
        ("fuse", "x", "--cut-at", "0"),
        ("flash", "x", "y", "--slot", "third"),
        ("nonsense",),
    ],
)
def test_wrong_usage_ends_with_status_2(arguments: tuple[str, ...], chip: Fuseline) -> None:
    assert chip(*arguments).status == 2


def test_a_boot_that_takes_too_long_is_given_up(chip: Fuseline, product: Path) -> None:
    done = chip("boot", product, "--max-time", "0.000001", "--json")
    assert (done.status, done.json["outcome"]) == (1, "timeout")


# --- the rest ------------------------------------------------------------------------------------------


def test_show_pictures_fuses_and_flash(chip: Fuseline, product: Path) -> None:
    done = chip("show", product)
    for part in ("PROD", "usable", "1 of 128", "loader, primary", "version 1.0.0", "IDevID", "█", "·"):
        assert part in done.out
    document = chip("show", product, "--json").json
    regions = {region["name"]: region for region in document["flash"]}
    assert regions["loader, primary"]["blocks"].startswith("#")
    assert set(regions["free"]["blocks"]) == {"."}
    assert regions["IDevID"]["wear"] == 1
    assert (document["debug"], document["half_blown"]) == ("LOCKED", 0)


@pytest.mark.parametrize("word", ["0xE0090513", "e0090513", "E_ROM_SIGNATURE", "rom-sig-5"])
def test_an_error_word_is_looked_up_by_any_of_its_names(chip: Fuseline, word: str) -> None:
    rows = chip("errors", word, "--json").json["errors"]
    assert [row["code"] for row in rows] == ["E_ROM_SIGNATURE"]


def test_the_table_of_error_words_is_whole(chip: Fuseline) -> None:
    rows = chip("errors", "--json").json["errors"]
    assert len({row["word"] for row in rows}) == len(rows) > 40
    assert "E_ROM_ROLLBACK" in chip("errors").out


FEW = ("puf", "report", "--chips", "2", "--reconstructions", "10")


def test_a_puf_report_is_measured_and_drawn(chip: Fuseline, tmp_path: Path) -> None:
    page = tmp_path / "puf.html"
    facts = chip(*FEW, "--out", page, "--json").json
    assert facts["study"]["chips"] == 2
    assert "<svg" in page.read_text()


@pytest.mark.sweep
def test_a_puf_report_is_told_to_people_too(chip: Fuseline, tmp_path: Path) -> None:
    assert "Worst chip" in chip(*FEW).out
    missing = chip(*FEW, "--out", tmp_path / "none" / "puf.html", "--json")
    assert missing.error["code"] == "E_CHIP_FILE"


def _program(status: int, *, endless: bool = False) -> bytes:
    """Machine code for address 0 that prints a line on UART0 and ends by semihosting, or never."""
    text = b"hello from 386\n"
    words = [
        0x4C06,  # ldr r4, =UART0
        0x2101,  # movs r1, #1
        0x60A1,  # str r1, [r4, #8]   CTRL: transmit
        0x4D06,  # ldr r5, =text
        0x7829,  # ldrb r1, [r5]
        0xB111,  # cbz r1, end
        0x6021,  # str r1, [r4]
        0x3501,  # adds r5, #1
        0xE7FA,  # b ldrb
        0xE7FE if endless else 0x4804,  # b . / ldr r0, =SYS_EXIT_EXTENDED
        0x4904,  # ldr r1, =block
        0xBEAB,  # bkpt 0xab
        0xE7FE,  # b .
        0xBF00,
    ]
    code = struct.pack(f"<{len(words)}H", *words)
    base = 8 + len(code)
    literals = struct.pack("<4I", 0x4000_4000, base + 16, 0x20, base + 32)
    block = struct.pack("<2I", 0x20026, status)
    return struct.pack("<2I", 0x2000_1000, 9) + code + literals + text.ljust(16, b"\0") + block


def test_a_program_prints_as_it_runs_and_gives_its_exit_status(
    tmp_path: Path, chip_process: ChipProcess
) -> None:
    path = tmp_path / "hello.bin"
    path.write_bytes(_program(42))
    done = chip_process("run", path)
    assert (done.returncode, done.stdout) == (42, "hello from 386\n")


def test_a_program_that_hangs_ends_with_124(tmp_path: Path, chip_process: ChipProcess) -> None:
    path = tmp_path / "endless.bin"
    path.write_bytes(_program(0, endless=True))
    done = chip_process("run", path, "--max-time", "1")
    assert (done.returncode, done.stdout) == (124, "hello from 386\n")


def test_a_file_that_is_no_program_is_a_coded_error(tmp_path: Path, chip_process: ChipProcess) -> None:
    path = tmp_path / "empty.bin"
    path.write_bytes(b"")
    done = chip_process("run", path)
    assert done.returncode == 1
    assert done.stderr.startswith("E_PROGRAM")
    assert chip_process("run", tmp_path / "gone.elf").stderr.startswith("E_PROGRAM")
