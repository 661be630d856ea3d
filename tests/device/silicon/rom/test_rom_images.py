"""What the ROM takes as a loader, and every way in which an image is none."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from fuseline.device.silicon import fuse_map, fuse_plans
from fuseline.device.silicon.crypto_block import P256_N
from fuseline.device.silicon.fuse_map import Counter, KeyType, LifeCycle
from fuseline.device.silicon.memory_map import (
    HANDOVER,
    LOADER_RAM,
    LOADER_SLOT_SIZE,
    RAM_BASE,
    RAM_SIZE,
)
from fuseline.device.silicon.report import Outcome
from fuseline.formats.mcuboot import Tlv, TlvType
from fuseline.formats.usage import UsageConstraints, build_usage
from fuseline.lab.chip_attacks.forge import (
    COUNTER,
    PROTECTED_MAGIC,
    UNPROTECTED_MAGIC,
    Ed25519Signer,
    ImageSpec,
    P256Signer,
    area,
    assemble,
    counter_tlv,
    credentials,
    der_integer,
    der_signature,
    forge,
    stop_payload,
    usage_tlv,
)

if TYPE_CHECKING:
    from tests.device.silicon.rom.conftest import MakeChip, RomChip

KEY_A, KEY_B, KEY_DEV, STRANGER = (P256Signer(name) for name in ("key a", "key b", "dev key", "stranger"))
ED25519 = Ed25519Signer("key e")
GOOD = forge(ImageSpec(), KEY_A)


def _refusal(chip: RomChip, image: bytes) -> str | None:
    """The code with which the image in the primary slot is refused; None if the loader was entered."""
    chip.write_flash(0, image)
    report = chip.boot()
    if report.outcome is Outcome.BOOTED:
        return None
    assert report.outcome is Outcome.REFUSED, report
    assert not chip.silicon.exec_enabled
    assert report.error is not None
    return report.error.code


def _signed(**fields: object) -> bytes:
    return forge(ImageSpec(**fields), KEY_A)  # type: ignore[arg-type]


def _with_signature(r: bytes, s: bytes, tail: bytes = b"") -> bytes:
    spec = ImageSpec()
    digest, key, _ = credentials(spec, KEY_A)
    return assemble(spec, (digest, key, Tlv(TlvType.ECDSA_SIG, der_signature(r, s) + tail)))


def _numbers() -> tuple[int, int]:
    return KEY_A.numbers(ImageSpec().digest())


@pytest.mark.requirement("ROM-HDR-1")
def test_a_slot_without_an_image_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    assert _refusal(chip, b"\xff" * 4096) == "E_ROM_NO_IMAGE"
    assert _refusal(chip, _signed(magic=0x96F3_B83C)) == "E_ROM_NO_IMAGE"


@pytest.mark.requirement("ROM-HDR-2")
def test_header_sizes_are_bounded_and_whole_words(make_chip: MakeChip) -> None:
    chip = make_chip()
    for size in (0x20, 0x24, 0x200, 0x400):
        image = _signed(header_size=size, payload=stop_payload(size))
        assert _refusal(chip, image) is None, hex(size)
    for size in (0, 4, 0x1C, 0x22, 0x404, 0xFFFC, 0xFFFF):
        assert _refusal(chip, _signed(stated_header_size=size)) == "E_ROM_HEADER_SIZE", hex(size)


@pytest.mark.requirement("ROM-HDR-3")
def test_any_flag_but_ram_load_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    for flags in (0, *(0x20 | 1 << bit for bit in range(32) if bit != 5)):
        assert _refusal(chip, _signed(flags=flags)) == "E_ROM_FLAGS", hex(flags)
    assert _refusal(chip, _signed(padding=1)) == "E_ROM_FLAGS"


@pytest.mark.requirement("ROM-HDR-4")
def test_an_image_for_another_address_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    for address in (0, LOADER_RAM + 4, LOADER_RAM - 0x1000, 0x2000_0000, 0xFFFF_FFFF):
        assert _refusal(chip, _signed(load_address=address)) == "E_ROM_LOAD_ADDRESS", hex(address)


@pytest.mark.requirement("ROM-HDR-5")
def test_sizes_that_leave_the_slot_or_wrap_are_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    for size in (0, 7, LOADER_SLOT_SIZE - 8, LOADER_SLOT_SIZE, 0x7FFF_FFFF, 0xFFFF_FFE0, 0xFFFF_FFFF):
        image = _signed(stated_payload_size=size)
        assert _refusal(chip, image) == "E_ROM_IMAGE_SIZE", hex(size)
    assert _refusal(chip, _signed(stated_protected_size=0xFFFF)) == "E_ROM_IMAGE_SIZE"


@pytest.mark.requirement("ROM-HDR-5")
def test_the_largest_image_that_fits_boots(make_chip: MakeChip) -> None:
    room = LOADER_SLOT_SIZE - len(GOOD)
    image = b""
    while len(image) != LOADER_SLOT_SIZE:  # the DER signature has not always the same length
        image = _signed(payload=stop_payload() + bytes(room))
        room += LOADER_SLOT_SIZE - len(image)
    assert _refusal(make_chip(), image) is None


@pytest.mark.requirement("ROM-TLV-1")
def test_the_protected_area_is_as_the_header_says(make_chip: MakeChip) -> None:
    chip = make_chip()
    tlvs = (counter_tlv(COUNTER),)
    for protected in (
        area(UNPROTECTED_MAGIC, tlvs),
        area(PROTECTED_MAGIC, tlvs, size=8),
        area(PROTECTED_MAGIC, tlvs, size=16),
        b"\x08\x69",
    ):
        assert _refusal(chip, _signed(protected_area=protected)) == "E_ROM_TLV_PROTECTED", protected.hex()


@pytest.mark.requirement("ROM-TLV-2")
def test_the_unprotected_area_follows_and_ends_in_the_slot(make_chip: MakeChip) -> None:
    chip = make_chip()
    spec = ImageSpec()
    tlvs = credentials(spec, KEY_A)
    for unprotected in (
        area(PROTECTED_MAGIC, tlvs),
        area(UNPROTECTED_MAGIC, tlvs, size=3),
        area(UNPROTECTED_MAGIC, tlvs, size=0xFFFF),
        b"",
    ):
        image = spec.hashed() + unprotected
        assert _refusal(chip, image) == "E_ROM_TLV_UNPROTECTED", unprotected[:8].hex()


@pytest.mark.requirement("ROM-TLV-3")
def test_a_tlv_that_leaves_its_area_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    spec = ImageSpec()
    good = area(UNPROTECTED_MAGIC, credentials(spec, KEY_A))
    for cut in (1, 2, 40, 100):
        shorter = struct.pack("<HH", UNPROTECTED_MAGIC, len(good) - cut) + good[4:]
        assert _refusal(chip, spec.hashed() + shorter) == "E_ROM_TLV_BOUNDS", cut
    longer = struct.pack("<HHHH", PROTECTED_MAGIC, 12, TlvType.SEC_CNT, 5) + bytes(4)
    assert _refusal(chip, _signed(protected_area=longer)) == "E_ROM_TLV_BOUNDS"
    huge = struct.pack("<HHHH", PROTECTED_MAGIC, 12, TlvType.SEC_CNT, 0xFFFF) + bytes(4)
    assert _refusal(chip, _signed(protected_area=huge)) == "E_ROM_TLV_BOUNDS"


@pytest.mark.requirement("ROM-TLV-4")
def test_a_type_that_is_not_on_its_areas_list_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    spec = ImageSpec()
    unprotected = credentials(spec, KEY_A)
    # CVE-2024-32883: what stands in the unprotected area is under no signature.
    for kind in (TlvType.SEC_CNT, TlvType.BOOT_RECORD, TlvType.DEPENDENCY, TlvType.KEYHASH, 0x00A0, 0x55A1):
        injected = assemble(spec, (*unprotected, Tlv(kind, bytes(4))))
        assert _refusal(chip, injected) == "E_ROM_TLV_TYPE", hex(kind)
    for kind in (TlvType.SHA256, TlvType.PUBKEY, TlvType.ECDSA_SIG, TlvType.DEPENDENCY, 0x55A1):
        image = _signed(protected=(counter_tlv(COUNTER), Tlv(kind, bytes(32))))
        assert _refusal(chip, image) == "E_ROM_TLV_TYPE", hex(kind)


@pytest.mark.requirement("ROM-TLV-5")
def test_no_tlv_stands_twice(make_chip: MakeChip) -> None:
    chip = make_chip()
    spec = ImageSpec()
    unprotected = credentials(spec, KEY_A)
    for tlv in unprotected:
        assert _refusal(chip, assemble(spec, (*unprotected, tlv))) == "E_ROM_TLV_TWICE", tlv.name
    twice = (counter_tlv(COUNTER), counter_tlv(COUNTER + 1))
    assert _refusal(chip, _signed(protected=twice)) == "E_ROM_TLV_TWICE"


@pytest.mark.requirement("ROM-TLV-6")
def test_a_tlv_has_a_length_that_its_type_can_have(make_chip: MakeChip) -> None:
    chip = make_chip()
    spec = ImageSpec()
    digest, key, signature = credentials(spec, KEY_A)
    for wrong in (
        (Tlv(TlvType.SHA256, digest.value[:-1]), key, signature),
        (digest, Tlv(TlvType.PUBKEY, key.value + b"\0"), signature),
        (digest, key, Tlv(TlvType.ECDSA_SIG, bytes(73))),
        (digest, key, Tlv(TlvType.ED25519, bytes(63))),
    ):
        assert _refusal(chip, assemble(spec, wrong)) == "E_ROM_TLV_LENGTH", [tlv.name for tlv in wrong]
    for tlv in (Tlv(TlvType.SEC_CNT, bytes(3)), Tlv(0x00A0, bytes(60)), Tlv(TlvType.BOOT_RECORD, b"")):
        assert _refusal(chip, _signed(protected=(tlv,))) == "E_ROM_TLV_LENGTH", tlv.name


@pytest.mark.requirement("ROM-TLV-7")
def test_digest_and_key_are_there(make_chip: MakeChip) -> None:
    chip = make_chip()
    spec = ImageSpec()
    digest, key, signature = credentials(spec, KEY_A)
    assert _refusal(chip, assemble(spec, (key, signature))) == "E_ROM_TLV_MISSING"
    assert _refusal(chip, assemble(spec, (digest, signature))) == "E_ROM_TLV_MISSING"


def test_order_of_tlvs_and_a_boot_record_do_not_matter(make_chip: MakeChip) -> None:
    record = Tlv(TlvType.BOOT_RECORD, bytes(range(40)))
    spec = ImageSpec(protected=(record, counter_tlv(COUNTER)))
    assert _refusal(make_chip(), assemble(spec, credentials(spec, KEY_A)[::-1])) is None


@pytest.mark.requirement("ROM-SIG-1")
def test_an_unsigned_image_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    spec = ImageSpec()
    digest, key, signature = credentials(spec, KEY_A)
    foreign = ED25519.signature(spec.digest())
    for unprotected in (
        (digest, key),
        (digest,),
        (),
        (digest, key, foreign),
        (digest, key, signature, foreign),
    ):
        image = assemble(spec, unprotected)
        assert _refusal(chip, image) == "E_ROM_UNSIGNED", [tlv.name for tlv in unprotected]


@pytest.mark.requirement("ROM-SIG-2")
def test_a_signature_that_is_not_der_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    r, s = der_integer(0x1234_5678), der_integer(0x9ABC_DEF0)
    cases = {
        "octet behind": _with_signature(r, s, tail=b"\0"),
        "third integer": _with_signature(r, s + der_integer(1)),
        "leading zero": _with_signature(b"\x02" + bytes([r[1] + 1]) + b"\0" + r[2:], s),
        "negative r": _with_signature(b"\x02\x04\x80" + r[3:], s),
        "empty integer": _with_signature(b"\x02\x00", s),
        "long length": _with_signature(b"\x02\x81" + r[1:], s),
        "34 octets": _with_signature(b"\x02\x22\x00\x80" + bytes(32), s),
        "33 without zero": _with_signature(b"\x02\x21\x01" + bytes(32), s),
        "other tag": _with_signature(b"\x03" + r[1:], s),
        "s missing": _with_signature(r, b"\x02\x01"),
        "r over the end": _with_signature(b"\x02\x7f" + r[2:], s),
    }
    for name, image in cases.items():
        assert _refusal(chip, image) == "E_ROM_SIG_ENCODING", name


@pytest.mark.requirement("ROM-SIG-3")
def test_numbers_outside_the_order_are_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    r, s = _numbers()
    for one, other in ((0, s), (r, 0), (P256_N, s), (r, P256_N), (2**256 - 1, s), (0, 0), (P256_N, P256_N)):
        image = _with_signature(der_integer(one), der_integer(other))
        assert _refusal(chip, image) == "E_ROM_SIG_RANGE", (one, other)


@pytest.mark.requirement("ROM-SIG-4")
@pytest.mark.requirement("ROM-SIG-5")
def test_a_changed_octet_changes_digest_or_signature(make_chip: MakeChip) -> None:
    chip = make_chip()
    spec = ImageSpec()
    stated = credentials(spec, KEY_A)
    other = ImageSpec(payload=stop_payload() + b"\0")
    assert _refusal(chip, assemble(other, stated)) == "E_ROM_DIGEST"
    forged = (Tlv(TlvType.SHA256, other.digest()), *stated[1:])
    assert _refusal(chip, assemble(other, forged)) == "E_ROM_SIGNATURE"


@pytest.mark.requirement("ROM-SIG-5")
def test_a_signature_by_another_key_or_over_another_image_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    spec = ImageSpec()
    digest, key, _ = credentials(spec, KEY_A)
    for signature in (STRANGER.signature(spec.digest()), KEY_A.signature(bytes(32))):
        assert _refusal(chip, assemble(spec, (digest, key, signature))) == "E_ROM_SIGNATURE"


def test_the_other_form_of_a_signature_is_the_same_measurement(make_chip: MakeChip) -> None:
    chip = make_chip()
    r, s = _numbers()
    measured = []
    for form in (s, P256_N - s):
        assert _refusal(chip, _with_signature(der_integer(r), der_integer(form))) is None
        measured.append(chip.record().measurement)
    assert measured == [ImageSpec().digest()] * 2


def test_short_numbers_in_a_signature_are_read(make_chip: MakeChip) -> None:
    # r or s below 2**247 has a shorter encoding; a search over payloads finds one of each.
    chip = make_chip()
    for which in (0, 1):
        spec = next(
            spec
            for filler in range(4000)
            for spec in (ImageSpec(payload=stop_payload() + filler.to_bytes(4, "big")),)
            if KEY_A.numbers(spec.digest())[which] < 1 << 247
        )
        assert _refusal(chip, forge(spec, KEY_A)) is None


def test_an_ed25519_key_signs_loaders(make_chip: MakeChip) -> None:
    chip = make_chip(signers=((ED25519, KeyType.PROD),))
    spec = ImageSpec()
    assert _refusal(chip, forge(spec, ED25519)) is None
    digest, key, signature = credentials(spec, ED25519)
    for at in (0, 31, 32, 63):
        broken = bytearray(signature.value)
        broken[at] ^= 1
        image = assemble(spec, (digest, key, Tlv(TlvType.ED25519, bytes(broken))))
        assert _refusal(chip, image) == "E_ROM_SIGNATURE", at


@pytest.mark.requirement("ROM-SIG-3")
def test_an_ed25519_signature_of_zeros_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip(signers=((ED25519, KeyType.PROD),))
    spec = ImageSpec()
    digest, key, _ = credentials(spec, ED25519)
    # The block answers R' = 0 for an S that is too large: R = 0 must not equal it.
    for value in (bytes(64), bytes(32) + b"\xff" * 32):
        image = assemble(spec, (digest, key, Tlv(TlvType.ED25519, value)))
        assert _refusal(chip, image) == "E_ROM_SIG_RANGE"


@pytest.mark.requirement("ROM-KEY-1")
def test_a_key_that_is_in_no_valid_slot_signs_nothing(make_chip: MakeChip) -> None:
    chip = make_chip()
    assert _refusal(chip, forge(ImageSpec(), STRANGER)) == "E_ROM_KEY_UNKNOWN"
    valid = fuse_map.KEY_SLOT + fuse_map.KEY_SLOT_VALID
    for damaged in (0, fuse_map.KEY_SLOT_VALID_WORD | 0x8000_0000 >> 1, 0xFFFF_FFFF):
        chip.set_fuses({valid: damaged})
        assert _refusal(chip, GOOD) == "E_ROM_KEY_UNKNOWN", hex(damaged)


@pytest.mark.requirement("ROM-KEY-2")
def test_a_revoked_key_signs_nothing_and_the_other_goes_on(make_chip: MakeChip) -> None:
    chip = make_chip()
    chip.blow(fuse_plans.plan_revocation(0))
    assert _refusal(chip, GOOD) == "E_ROM_KEY_REVOKED"
    assert _refusal(chip, forge(ImageSpec(), KEY_B)) is None


@pytest.mark.requirement("ROM-KEY-2")
def test_any_one_bit_revokes(make_chip: MakeChip) -> None:
    chip = make_chip()
    for word in (fuse_map.KEY_SLOT_REVOKED_A, fuse_map.KEY_SLOT_REVOKED_B):
        for bit in (0, 13, 31):
            twin = chip.copy()
            twin.set_fuses({fuse_map.KEY_SLOT + word: 1 << bit})
            assert _refusal(twin, GOOD) == "E_ROM_KEY_REVOKED", (word, bit)


@pytest.mark.requirement("ROM-KEY-3")
@pytest.mark.parametrize("life_cycle", [LifeCycle.TEST, LifeCycle.DEV, LifeCycle.PROD])
def test_each_life_cycle_takes_its_types_of_key(make_chip: MakeChip, life_cycle: LifeCycle) -> None:
    for kind in KeyType:
        chip = make_chip(life_cycle=life_cycle, signers=((KEY_A, kind),))
        expected = None if kind in fuse_map.KEY_TYPES[life_cycle] else "E_ROM_KEY_TYPE"
        assert _refusal(chip, GOOD) == expected, kind.name


@pytest.mark.requirement("ROM-KEY-4")
def test_a_key_hash_that_breaks_its_berger_word_signs_nothing(make_chip: MakeChip) -> None:
    chip = make_chip()
    word = fuse_map.KEY_SLOT + fuse_map.KEY_SLOT_HASH_WORDS
    chip.set_fuses({word: chip.fuse(word) | 0x200})
    assert _refusal(chip, GOOD) == "E_ROM_KEY_FUSES"


@pytest.mark.requirement("ROM-CNT-1")
def test_a_counter_with_a_hole_stops_the_chip(make_chip: MakeChip) -> None:
    chip = make_chip()
    for word in (fuse_map.COUNTER, fuse_map.COUNTER + fuse_map.COUNTER_WORDS):
        for value in (0b101, 0b11110, 0x8000_0000):
            twin = chip.copy()
            twin.set_fuses({word: value})
            assert _refusal(twin, GOOD) == "E_ROM_COUNTER_FUSES", (word, value)


@pytest.mark.requirement("ROM-CNT-1")
def test_the_higher_copy_of_a_counter_counts(make_chip: MakeChip) -> None:
    chip = make_chip(counter=0)
    chip.set_fuses({fuse_map.COUNTER + fuse_map.COUNTER_WORDS: (1 << COUNTER + 1) - 1})
    assert _refusal(chip, GOOD) == "E_ROM_ROLLBACK"
    assert _refusal(chip, _signed(protected=(counter_tlv(COUNTER + 1),))) is None


@pytest.mark.requirement("ROM-CNT-2")
def test_rollback_is_refused_at_every_step_of_the_fuses(make_chip: MakeChip) -> None:
    chip = make_chip(counter=0)
    for floor in (1, 31, 32, 33, 64, 100, 127):
        chip.blow(fuse_plans.plan_counter(Counter.LOADER, floor))
        assert _refusal(chip, _signed(protected=(counter_tlv(floor - 1),))) == "E_ROM_ROLLBACK", floor
        assert _refusal(chip, _signed(protected=(counter_tlv(floor),))) is None, floor


@pytest.mark.requirement("ROM-CNT-3")
def test_an_image_without_a_counter_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip(counter=0)
    assert _refusal(chip, _signed(protected=())) == "E_ROM_COUNTER_MISSING"
    assert _refusal(chip, _signed(protected_area=b"")) == "E_ROM_COUNTER_MISSING"


@pytest.mark.requirement("ROM-CNT-4")
def test_a_counter_that_the_fuses_cannot_hold_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip(counter=0)
    for value in (128, 255, 0x8000_0000, 0xFFFF_FFFF):
        image = _signed(protected=(counter_tlv(value),))
        assert _refusal(chip, image) == "E_ROM_COUNTER_RANGE", value
    assert _refusal(chip, _signed(protected=(counter_tlv(127),))) is None
    chip.blow(fuse_plans.plan_counter(Counter.LOADER, 128))
    assert _refusal(chip, _signed(protected=(counter_tlv(127),))) == "E_ROM_ROLLBACK"


@pytest.mark.requirement("ROM-RUN-1")
def test_an_entry_point_outside_the_payload_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    code = LOADER_RAM + 0x20
    end = code + len(stop_payload())
    for entry in (0, 1, code | 1, code + 4 | 1, code + 8, end | 1, HANDOVER | 1, 0x21, 0xFFFF_FFFF):
        image = _signed(payload=stop_payload(entry=entry))
        assert _refusal(chip, image) == "E_ROM_ENTRY", hex(entry)


@pytest.mark.requirement("ROM-RUN-2")
def test_a_stack_outside_main_ram_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    for stack in (
        0,
        RAM_BASE,
        RAM_BASE - 8,
        RAM_BASE + RAM_SIZE + 8,
        RAM_BASE + 0x104,
        0x2004_0000,
        0xFFFF_FFF8,
    ):
        assert _refusal(chip, _signed(payload=stop_payload(stack=stack))) == "E_ROM_STACK", hex(stack)
    assert _refusal(chip, _signed(payload=stop_payload(stack=RAM_BASE + 0x1000))) is None


@pytest.mark.requirement("ROM-USE-1")
def test_usage_selects_only_fields_that_there_are(make_chip: MakeChip) -> None:
    chip = make_chip()
    plain = build_usage(UsageConstraints())
    for selector in (1 << 11, 1 << 15, 1 << 31):
        value = selector.to_bytes(4, "little") + plain[4:]
        image = _signed(protected=(counter_tlv(COUNTER), usage_tlv(value)))
        assert _refusal(chip, image) == "E_ROM_USAGE_SELECTOR", hex(selector)
    for word in range(1, 16):
        value = plain[: 4 * word] + bytes(4) + plain[4 * word + 4 :]
        image = _signed(protected=(counter_tlv(COUNTER), usage_tlv(value)))
        assert _refusal(chip, image) == "E_ROM_USAGE_SELECTOR", word


@pytest.mark.requirement("ROM-USE-2")
def test_an_image_for_another_device_has_another_digest(make_chip: MakeChip) -> None:
    chip = make_chip()
    chip_id = b"".join(chip.fuse(fuse_map.CHIP_ID + word).to_bytes(4, "little") for word in range(8))
    right = UsageConstraints(life_cycle=3, chip_id=chip_id, product_id=0x1234, hardware_revision=2)
    wrong = (
        UsageConstraints(life_cycle=1),
        UsageConstraints(chip_id=chip_id[:31] + bytes([chip_id[31] ^ 1])),
        UsageConstraints(product_id=0x1235),
        UsageConstraints(hardware_revision=3),
    )
    for constraints, expected in (
        (UsageConstraints(), None),
        (right, None),
        *((w, "E_ROM_USAGE") for w in wrong),
    ):
        tlv = usage_tlv(build_usage(constraints))
        image = _signed(protected=(counter_tlv(COUNTER), tlv))
        assert _refusal(chip, image) == expected, constraints


def test_recovery_is_held_to_the_same(make_chip: MakeChip) -> None:
    chip = make_chip(image=forge(ImageSpec(), STRANGER), recovery=GOOD)
    report = chip.boot()
    assert report.outcome is Outcome.BOOTED
    assert report.recovery_error is not None
    assert report.recovery_error.code == "E_ROM_KEY_UNKNOWN"
    assert chip.record().recovery
    old = _signed(protected=(counter_tlv(COUNTER - 1),))
    report = make_chip(image=forge(ImageSpec(), STRANGER), recovery=old).boot()
    assert report.error is not None
    assert report.error.code == "E_ROM_KEY_UNKNOWN"
    assert "recovery loader refused, e00b0216" in report.console
