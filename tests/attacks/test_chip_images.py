"""Loader images of any shape: the ROM's machine code against rules written down again, and against QEMU."""

from __future__ import annotations

import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuseline.device.silicon.memory_map import LOADER_RAM, LOADER_SLOT_SIZE, RAM_BASE, RAM_SIZE
from fuseline.device.silicon.qemu_engine import QEMU, QemuEngine
from fuseline.device.silicon.report import BootReport, Outcome
from fuseline.device.silicon.unicorn_engine import UnicornEngine
from fuseline.errors import ImageMalformed
from fuseline.formats.mcuboot import ParsedImage, Tlv, TlvType, parse_image
from fuseline.lab.chip_attacks.forge import (
    COUNTER,
    HEADER,
    HEADER_SIZE,
    UNPROTECTED_MAGIC,
    ImageSpec,
    Signer,
    area,
    counter_tlv,
    credentials,
    stop_payload,
)
from fuseline.lab.chip_attacks.images import HostileImage, entry_images, header_images, tlv_images
from fuseline.lab.chip_attacks.rig import Rig
from fuseline.lab.chip_attacks.signatures import (
    ecdsa_images,
    ed25519_images,
    key_images,
    rollback_images,
    usage_images,
)

MAKERS = (
    header_images,
    tlv_images,
    entry_images,
    ecdsa_images,
    ed25519_images,
    key_images,
    rollback_images,
    usage_images,
)
PROTECTED_LENGTHS = {TlvType.SEC_CNT: range(4, 5), TlvType.BOOT_RECORD: range(1, 513)}
UNPROTECTED_LENGTHS = {
    TlvType.SHA256: range(32, 33),
    TlvType.PUBKEY: range(44, 92),
    TlvType.ECDSA_SIG: range(8, 73),
    TlvType.ED25519: range(64, 65),
}


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Rig(UnicornEngine())


def hostile(rig: Rig) -> Iterator[HostileImage]:
    for make in MAKERS:
        yield from make(rig)


# --- the rules, written down again -----------------------------------------------------------------------


def _areas_allowed(image: ParsedImage) -> bool:
    areas = ((image.protected, PROTECTED_LENGTHS), (image.unprotected, UNPROTECTED_LENGTHS))
    return all(
        len(tlv.value) in lengths.get(TlvType(tlv.type), ()) if tlv.type in set(TlvType) else False
        for tlvs, lengths in areas
        for tlv in tlvs
    ) and all(count == 1 for tlvs, _ in areas for count in Counter(tlv.type for tlv in tlvs).values())


def _signed(image: ParsedImage, rig: Rig) -> bool:
    values = {tlv.type: tlv.value for tlv in image.unprotected}
    spki = values.get(TlvType.PUBKEY, b"")
    if spki not in (rig.keys.loader.spki, rig.keys.ed25519.spki) or image.stated_digest != image.digest:
        return False
    key = load_der_public_key(spki)
    if (TlvType.ED25519 in values) == (TlvType.ECDSA_SIG in values):
        return False
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(values.get(TlvType.ED25519, b""), image.digest)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(values.get(TlvType.ECDSA_SIG, b""), image.digest, ec.ECDSA(Prehashed(SHA256())))
    except InvalidSignature:
        return False
    return True


def _runs_inside(image: ParsedImage) -> bool:
    if len(image.payload) < 8:
        return False
    stack, entry = struct.unpack_from("<II", image.payload)
    code = LOADER_RAM + image.header_size
    inside: bool = (
        entry % 2 == 1
        and code + 8 <= entry - 1 < code + len(image.payload)
        and stack % 8 == 0
        and RAM_BASE < stack <= RAM_BASE + RAM_SIZE
    )
    return inside


def _without_what_follows(raw: bytes) -> bytes:
    """The one rule in which the parser is stricter: it looks behind the last TLV."""
    if len(raw) < HEADER.size:
        return raw
    _, _, header_size, protected_size, payload_size, *_ = HEADER.unpack_from(raw)
    start = header_size + payload_size + protected_size
    return raw[: start + int.from_bytes(raw[start + 2 : start + 4], "little")]


def may_start(raw: bytes, rig: Rig) -> bool:
    """Whether the product may start an image, by the parser of `formats/` and the rules above."""
    try:
        image = parse_image(_without_what_follows(raw))
    except ImageMalformed:
        return False
    return (
        image.flags == 0x20
        and image.load_address == LOADER_RAM
        and image.header_size in range(0x20, 0x401, 4)
        and image.size <= LOADER_SLOT_SIZE
        and _areas_allowed(image)
        and image.security_counter is not None
        and COUNTER <= image.security_counter <= 127
        and _signed(image, rig)
        and _runs_inside(image)
    )


# --- images of any shape ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """An image as hypothesis draws it: well made but for what was drawn otherwise."""

    spec: ImageSpec
    signer: str
    edit: Callable[[list[Tlv]], list[Tlv]]
    stated_size: int | None
    flip: tuple[int, int] | None

    def build(self, rig: Rig) -> bytes:
        signer: Signer = getattr(rig.keys, self.signer)
        tlvs = self.edit(list(credentials(self.spec, signer)))
        image = bytearray(self.spec.hashed() + area(UNPROTECTED_MAGIC, tlvs, self.stated_size))
        if self.flip is not None:
            image[self.flip[0] % len(image)] ^= self.flip[1]
        return bytes(image)


TYPES = st.one_of(st.sampled_from([int(kind) for kind in TlvType]), st.integers(0, 0xFFFF))
TLVS = st.builds(Tlv, TYPES, st.binary(max_size=80))


def mostly(usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What is well made, three times of four: an image with one flaw finds more than one with five."""
    return st.sampled_from([usual, usual, usual, other]).flatmap(lambda strategy: strategy)


EDITS = mostly(
    st.just(lambda tlvs: tlvs),
    st.one_of(
        st.permutations(range(3)).map(lambda order: lambda tlvs: [tlvs[index] for index in order]),
        st.integers(0, 2).map(lambda index: lambda tlvs: tlvs[:index] + tlvs[index + 1 :]),
        st.integers(0, 2).map(lambda index: lambda tlvs: [*tlvs, tlvs[index]]),
        st.tuples(st.integers(0, 3), TLVS).map(
            lambda at: lambda tlvs: [*tlvs[: at[0]], at[1], *tlvs[at[0] :]]
        ),
    ),
)
COUNTERS = st.one_of(st.sampled_from([4, 5, 6, 127, 128]), st.integers(0, 0xFFFF_FFFF)).map(counter_tlv)
HEADERS = st.one_of(st.integers(0, 0x404), st.sampled_from([0x1C, 0x20, 0x24, 0x200, 0x400, 0x404]))
SIZES = st.one_of(
    st.integers(0, 64), st.sampled_from([0xFFFF, 0x1_0000, 0x7FFF_FFFF, 0xFFFF_FFE0, 0xFFFF_FFFF])
)
FLAWED = st.one_of(
    st.builds(lambda tlv, more: ImageSpec(protected=(tlv, *more)), COUNTERS, st.lists(TLVS, max_size=2)),
    st.integers(8, 0x100).map(
        lambda words: ImageSpec(header_size=4 * words, payload=stop_payload(4 * words))
    ),
    HEADERS.map(lambda size: ImageSpec(stated_header_size=size)),
    SIZES.map(lambda size: ImageSpec(stated_payload_size=size)),
    SIZES.filter(lambda size: size < 0x1_0000).map(lambda size: ImageSpec(stated_protected_size=size)),
    st.integers(0, 0xFFFF).map(lambda flags: ImageSpec(flags=flags)),
    st.binary(min_size=0, max_size=40).map(lambda octets: ImageSpec(protected_area=octets)),
    st.tuples(st.integers(0, 0xFFFF_FFFF), st.integers(0, 0xFFFF_FFFF)).map(
        lambda at: ImageSpec(payload=stop_payload(stack=at[0], entry=at[1]))
    ),
    st.tuples(st.integers(-4, 44), st.integers(-16, 16)).map(
        lambda at: ImageSpec(
            payload=stop_payload(stack=RAM_BASE + RAM_SIZE + at[1], entry=LOADER_RAM + HEADER_SIZE + at[0])
        )
    ),
)
SHAPES = st.builds(
    Shape,
    spec=mostly(st.just(ImageSpec()), FLAWED),
    signer=mostly(
        st.sampled_from(["loader", "ed25519"]),
        st.sampled_from(["loader", "ed25519", "revoked", "dev", "stranger"]),
    ),
    edit=EDITS,
    stated_size=mostly(st.none(), st.integers(0, 0xFFFF)),
    flip=mostly(st.none(), st.tuples(st.integers(0, 1000), st.sampled_from([1, 2, 16, 128]))),
)
SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check_verdict(rig: Rig, image: bytes) -> None:
    """The ROM starts exactly what may start, and measures what the parser measures."""
    report = rig.start(image)
    assert report.outcome in {Outcome.BOOTED, Outcome.REFUSED}, report.stop
    assert (report.outcome is Outcome.BOOTED) == may_start(image, rig), report.error
    if report.record is not None:
        parsed = parse_image(image)
        assert report.record.measurement == parsed.digest
        assert report.record.image_counter == parsed.security_counter
        assert report.record.payload_size == len(parsed.payload)
    else:
        assert report.error is not None
        assert report.error.code not in {"E_ROM_EXCEPTION", "E_ROM_FAULT_DETECTED", "E_ROM_PORT"}


@given(SHAPES)
@settings(SETTINGS, max_examples=600)
def test_the_rom_starts_exactly_what_may_start(rig: Rig, shape: Shape) -> None:
    check_verdict(rig, shape.build(rig))


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@given(SHAPES)
@settings(SETTINGS, max_examples=40_000)
def test_the_rom_starts_exactly_what_may_start_at_length(rig: Rig, shape: Shape) -> None:
    check_verdict(rig, shape.build(rig))


@given(st.binary(max_size=400), st.sampled_from([0, 4, 8, 16, 28, 32]))
@settings(SETTINGS, max_examples=200)
def test_garbage_behind_a_header_leads_the_rom_nowhere(rig: Rig, octets: bytes, kept: int) -> None:
    check_verdict(rig, ImageSpec().hashed()[:kept] + octets)


def test_the_rules_written_down_again_take_what_is_well_made(rig: Rig) -> None:
    for signer in (rig.keys.loader, rig.keys.ed25519):
        image = ImageSpec().hashed() + area(UNPROTECTED_MAGIC, credentials(ImageSpec(), signer))
        assert may_start(image, rig)
        check_verdict(rig, image)


def test_every_hostile_image_has_its_own_error_word_or_is_what_was_signed(rig: Rig) -> None:
    seen: Counter[str] = Counter()
    for image in hostile(rig):
        report = rig.start(image.image)
        if image.measurement:
            assert report.record is not None, image.what
            assert report.record.measurement == image.measurement, image.what
        else:
            assert report.error is not None, image.what
            assert report.error.code == image.code, image.what
            seen[report.error.code] += 1
    assert len(seen) >= 25


# --- where the formats' own verification has the same rule -------------------------------------------------


def test_what_the_format_calls_malformed_the_rom_refuses(rig: Rig) -> None:
    malformed = 0
    for image in hostile(rig):
        try:
            parse_image(_without_what_follows(image.image))
        except ImageMalformed:
            assert not image.measurement, image.what
            assert rig.start(image.image).outcome is Outcome.REFUSED, image.what
            malformed += 1
    assert malformed > 50


# --- both engines ----------------------------------------------------------------------------------------


def facts(report: BootReport) -> tuple[object, ...]:
    return (
        report.outcome,
        report.error,
        report.console,
        report.stages,
        report.exit_status,
        replace(report.record, boot_count=0) if report.record else None,
        report.fuse_digest,
        report.flash_digest,
    )


@pytest.mark.interop
@pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")
def test_both_engines_judge_hostile_images_alike(rig: Rig) -> None:
    qemu = QemuEngine()
    chosen: dict[str | None, HostileImage] = {}
    for image in hostile(rig):
        chosen.setdefault(image.code, image)
    for image in chosen.values():
        rig.insert()
        here = rig.boot(image.image)
        rig.insert()
        there = rig.boot(image.image, engine=qemu)
        assert facts(here) == facts(there), image.what
    assert len(chosen) >= 25
