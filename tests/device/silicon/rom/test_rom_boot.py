"""A boot that succeeds: what the loader is handed, what it can no longer reach, and update resets."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import NameOID

from fuseline.device.silicon import fuse_plans
from fuseline.device.silicon.commands import EXEC_ENABLE_WORD, Lock, Stage
from fuseline.device.silicon.fuse_map import Counter, KeyType, LifeCycle
from fuseline.device.silicon.memory_map import (
    LOADER_PRIMARY,
    PUF_ROWS,
    PUF_ROWS_SIZE,
    RETENTION,
    SYSTEM,
    DebugState,
    ResetReason,
    Strap,
    SystemWord,
)
from fuseline.device.silicon.report import Outcome
from fuseline.device.silicon.rom import probe_image, quick_image, rom_image
from fuseline.formats import dice
from fuseline.formats.dice import TcbFlags
from fuseline.lab.chip_attacks.forge import COUNTER, ImageSpec, P256Signer, counter_tlv, forge, usage_tlv

if TYPE_CHECKING:
    from tests.device.silicon.rom.conftest import MakeChip, RomChip

KEY_A, KEY_B = P256Signer("key a"), P256Signer("key b")
PROBE_HEADER = 0x200
PROBE = ImageSpec(payload=probe_image(), header_size=PROBE_HEADER, version=(1, 2, 3, 4))
GOOD = forge(ImageSpec(), KEY_A)


def _retention(chip: RomChip, at: int, size: int = 4) -> memoryview:
    return chip.silicon.psram.view(RETENTION + at, size)


def _lines(console: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in console.splitlines() if ": " in line)


def test_the_probe_is_handed_the_facts_of_the_boot(make_chip: MakeChip) -> None:
    chip = make_chip(forge(PROBE, KEY_B))
    report = chip.boot()
    assert report.outcome is Outcome.BOOTED
    assert report.exit_status == 0
    assert report.stages == (
        Stage.ROM, Stage.FUSES, Stage.PUF, Stage.DICE, Stage.VERIFIED, Stage.LOADER, Stage.LOADER_RUNS,
    )  # fmt: skip
    record = chip.record()
    assert record.life_cycle is LifeCycle.PROD
    assert record.debug is DebugState.LOCKED
    assert record.counters == {Counter.LOADER: COUNTER, Counter.FIRMWARE_0: 0, Counter.FIRMWARE_1: 0}
    assert (record.key_slot, record.key_type, record.image_counter) == (1, KeyType.PROD, COUNTER)
    assert (record.loader_version, record.header_size) == ("1.2.3+4", PROBE_HEADER)
    assert record.payload_size == len(probe_image())
    assert record.measurement == PROBE.digest()
    assert record.signer == hashlib.sha256(KEY_B.spki).digest()
    assert (record.product, record.hardware_revision) == (0x1234, 2)
    assert not record.recovery
    assert record.primary_refusal is None
    assert _lines(report.console)["measurement"] == record.measurement.hex()


@pytest.mark.requirement("ROM-LOCK-1")
@pytest.mark.requirement("ROM-PUF-6")
def test_the_loader_reaches_no_secret_and_no_factory_fuse(make_chip: MakeChip) -> None:
    chip = make_chip(forge(PROBE, KEY_A))
    console = chip.boot().console
    tried = {
        line[4:].split(": ")[0]: line.split(": ")[1] for line in console.splitlines() if line[:4] == "try "
    }
    assert tried.pop("read puf-rows") == "nothing"
    assert tried.pop("read rom-ram") == "nothing"
    assert len(tried) == 10
    assert set(tried.values()) == {"refused"}
    needed = Lock.FUSES_FACTORY | Lock.FLASH_IDENTITY | Lock.DEBUG | Lock.KEY_ROOTS | Lock.EXEC | Lock.PUF
    assert chip.silicon.locks & needed == needed
    assert not any(chip.silicon.psram.view(PUF_ROWS, PUF_ROWS_SIZE))


@pytest.mark.requirement("ROM-LOCK-1")
def test_an_update_boot_locks_the_same(make_chip: MakeChip) -> None:
    chip = make_chip(forge(PROBE, KEY_A))
    cold = chip.boot().console
    update = chip.boot(reason=ResetReason.UPDATE).console
    assert [line for line in cold.splitlines() if line.startswith("try")] == [
        line for line in update.splitlines() if line.startswith("try")
    ]


def _idevid(chip: RomChip) -> ec.EllipticCurvePublicKey:
    point = b"\x04" + chip.record().idevid_public
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)


@pytest.mark.requirement("ROM-DICE-1")
@pytest.mark.requirement("ROM-DICE-2")
def test_the_loader_has_a_certificate_for_the_key_it_signs_with(make_chip: MakeChip) -> None:
    chip = make_chip(forge(PROBE, KEY_A))
    report = chip.boot()
    record = chip.record()
    certificate = x509.load_der_x509_certificate(record.certificate)
    _idevid(chip).verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    raw = bytes.fromhex(_lines(report.console)["statement"])
    signature = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key.verify(signature, b"fuseline probe" + record.measurement, ec.ECDSA(hashes.SHA256()))
    assert certificate.issuer.get_attributes_for_oid(NameOID.SERIAL_NUMBER)[0].value == record.chip_id.hex()
    info = dice.parse_tcb_info(
        certificate.extensions.get_extension_for_oid(dice.TCB_INFO).value.public_bytes()
    )
    assert info == dice.TcbInfo(COUNTER, 1, record.measurement, TcbFlags(0))


def test_the_certificates_names_follow_from_the_key(make_chip: MakeChip) -> None:
    chip = make_chip()
    chip.boot()
    certificate = x509.load_der_x509_certificate(chip.record().certificate)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    numbers = key.public_numbers()
    point = b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    digest = hashlib.sha256(point).digest()  # RFC 7093 2, method 1
    extensions = certificate.extensions
    assert extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest == digest[:20]
    authority = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert authority == hashlib.sha256(b"\x04" + chip.record().idevid_public).digest()[:20]
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == digest.hex()
    serial = bytes([digest[0] & 0x7F | 0x40]) + digest[1:20]
    assert certificate.serial_number == int.from_bytes(serial, "big")
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.ca
    assert certificate.not_valid_after_utc.year == 9999


@pytest.mark.parametrize(
    ("life_cycle", "flags"),
    [
        (LifeCycle.TEST, TcbFlags.NOT_CONFIGURED | TcbFlags.NOT_SECURE | TcbFlags.DEBUG),
        (LifeCycle.DEV, TcbFlags.NOT_SECURE),
        (LifeCycle.PROD, TcbFlags(0)),
    ],
)
def test_the_certificate_tells_life_cycle_and_recovery(
    make_chip: MakeChip, life_cycle: LifeCycle, flags: TcbFlags
) -> None:
    for image, recovery, extra in ((GOOD, None, TcbFlags(0)), (b"\xff" * 64, GOOD, TcbFlags.RECOVERY)):
        chip = make_chip(image, recovery=recovery, life_cycle=life_cycle)
        assert chip.boot().outcome is Outcome.BOOTED
        certificate = x509.load_der_x509_certificate(chip.record().certificate)
        value = certificate.extensions.get_extension_for_oid(dice.TCB_INFO).value.public_bytes()
        assert dice.parse_tcb_info(value).flags == flags | extra


def test_another_loader_counter_or_signer_has_another_key(make_chip: MakeChip) -> None:
    chip = make_chip()
    keys = set()
    for image in (
        GOOD,
        forge(ImageSpec(version=(1, 0, 1, 0)), KEY_A),
        forge(ImageSpec(protected=(counter_tlv(COUNTER + 1),)), KEY_A),
        forge(ImageSpec(), KEY_B),
    ):
        chip.write_flash(LOADER_PRIMARY, image)
        chip.boot()
        keys.add(x509.load_der_x509_certificate(chip.record().certificate).subject.rfc4514_string())
    assert len(keys) == 4


def test_a_boot_takes_fewer_than_15000_instructions(make_chip: MakeChip) -> None:
    payload = quick_image().ljust(4096 - PROBE_HEADER, b"\0")
    chip = make_chip(forge(ImageSpec(payload=payload, header_size=PROBE_HEADER), KEY_A))
    report = chip.boot()
    assert report.outcome is Outcome.BOOTED
    assert 5_000 < report.instructions < 15_000


def test_a_successful_boot_says_nothing(make_chip: MakeChip) -> None:
    assert make_chip().boot().console == ""


@pytest.mark.requirement("ROM-LOCK-2")
def test_the_exec_word_is_not_in_the_rom() -> None:
    binary = rom_image().binary
    for order in ("little", "big"):
        assert EXEC_ENABLE_WORD.to_bytes(4, "little" if order == "little" else "big") not in binary
    low, high = EXEC_ENABLE_WORD & 0xFFFF, EXEC_ENABLE_WORD >> 16
    halves = {low: False, high: False}
    for at in range(0, len(binary) - 3, 2):
        first, second = (int.from_bytes(binary[at + part : at + part + 2], "little") for part in (0, 2))
        if first & 0xFB70 == 0xF240 and not second & 0x8000:  # MOVW T3, MOVT T1 (Armv7-M A7.7.76, A7.7.79)
            value = (first & 0xF) << 12 | (first & 0x400) << 1 | (second & 0x7000) >> 4 | second & 0xFF
            if value in halves:
                halves[value] = True
    assert not all(halves.values())


@pytest.mark.requirement("ROM-UPD-1")
def test_an_update_reset_keeps_the_identity(make_chip: MakeChip) -> None:
    chip = make_chip()
    chip.boot()
    before = chip.record()
    newer = forge(ImageSpec(version=(2, 0, 0, 0)), KEY_A)
    chip.write_flash(LOADER_PRIMARY, newer)
    for _ in range(2):
        report = chip.boot(reason=ResetReason.UPDATE)
        assert report.outcome is Outcome.BOOTED, report
        after = chip.record()
        assert after.idevid_public == before.idevid_public
        assert after.reset_reason is ResetReason.UPDATE
        assert after.loader_version == "2.0.0"
        assert Stage.PUF not in report.stages


@pytest.mark.requirement("ROM-UPD-1")
def test_a_forged_update_record_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    chip.boot()
    for at in range(0x100, 0x100 + 112):
        twin = chip.copy()
        _retention(twin, at)[0] ^= 1 << at % 8
        report = twin.boot(reason=ResetReason.UPDATE)
        assert report.error is not None, at
        assert report.error.code == "E_ROM_UPDATE_RECORD", at


@pytest.mark.requirement("ROM-UPD-1")
def test_an_update_reset_without_a_boot_before_it_is_refused(make_chip: MakeChip) -> None:
    report = make_chip().boot(reason=ResetReason.UPDATE)
    assert report.error is not None
    assert report.error.code == "E_ROM_UPDATE_RECORD"


@pytest.mark.requirement("ROM-UPD-2")
def test_an_update_reset_after_a_step_of_the_life_cycle_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip(life_cycle=LifeCycle.DEV)
    assert chip.boot().outcome is Outcome.BOOTED
    chip.silicon.state.locks = Lock(0)
    chip.blow(fuse_plans.plan_life_cycle(LifeCycle.PROD))
    report = chip.boot(reason=ResetReason.UPDATE)
    assert report.error is not None
    assert report.error.code == "E_ROM_UPDATE_STATE"


@pytest.mark.requirement("ROM-UPD-3")
def test_an_update_reset_takes_no_loader_of_another_key(make_chip: MakeChip) -> None:
    chip = make_chip()
    chip.boot()
    chip.write_flash(LOADER_PRIMARY, forge(ImageSpec(), KEY_B))
    report = chip.boot(reason=ResetReason.UPDATE)
    assert report.error is not None
    assert report.error.code == "E_ROM_UPDATE_KEY"
    assert chip.boot().outcome is Outcome.BOOTED


@pytest.mark.requirement("ROM-RST-2")
@pytest.mark.parametrize("strap", [Strap.PROVISION, Strap.DEBUG])
def test_an_update_reset_serves_no_strap(make_chip: MakeChip, strap: Strap) -> None:
    chip = make_chip()
    chip.boot()
    report = chip.boot(reason=ResetReason.UPDATE, strap=strap)
    assert report.error is not None
    assert report.error.code == "E_ROM_STRAP"


@pytest.mark.parametrize(
    ("word", "value", "code"),
    [
        pytest.param(SystemWord.RESET_REASON, ResetReason.COLD ^ 1, "E_ROM_RESET_REASON",
                     marks=pytest.mark.requirement("ROM-RST-1")),
        pytest.param(SystemWord.RESET_REASON, 0, "E_ROM_RESET_REASON",
                     marks=pytest.mark.requirement("ROM-RST-1")),
        pytest.param(SystemWord.STRAP, 0, "E_ROM_STRAP", marks=pytest.mark.requirement("ROM-RST-2")),
        pytest.param(SystemWord.REVISION, 2, "E_ROM_REVISION", marks=pytest.mark.requirement("ROM-RST-3")),
        pytest.param(SystemWord.DEBUG, DebugState.OPEN, "E_ROM_DEBUG_STATE",
                     marks=pytest.mark.requirement("ROM-DBG-1")),
        pytest.param(SystemWord.DEBUG, 0, "E_ROM_DEBUG_STATE", marks=pytest.mark.requirement("ROM-DBG-1")),
    ],
)  # fmt: skip
def test_a_system_word_that_cannot_be_is_refused(
    make_chip: MakeChip, word: SystemWord, value: int, code: str
) -> None:
    chip = make_chip()
    chip.silicon.reset()
    chip.silicon.psram.view(SYSTEM + 4 * word, 4)[:] = int(value).to_bytes(4, "little")
    report = chip.run_as_it_is()
    assert report.error is not None
    assert report.error.code == code


def test_usage_constraints_are_measured_as_signed(make_chip: MakeChip) -> None:
    spec = ImageSpec(protected=(counter_tlv(COUNTER), usage_tlv(bytes(4) + b"\xa5" * 60)))
    chip = make_chip(forge(spec, KEY_A))
    assert chip.boot().outcome is Outcome.BOOTED
    assert chip.record().measurement == spec.digest()
