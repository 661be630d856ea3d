"""MCUboot images made by imgtool itself, and every way found to break or forge one."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fuseline.errors import (
    FormatError,
    FuselineError,
    ImageDigest,
    ImageError,
    ImageHardware,
    ImageKeyUnknown,
    ImageMalformed,
    ImageRollback,
    ImageSignature,
    ImageSize,
    ImageTlv,
)
from fuseline.formats import mcuboot
from fuseline.formats.mcuboot import (
    HardwareId,
    TlvType,
    TrustedKey,
    VerifiedImage,
    parse_image,
    verify_image,
)
from fuseline.formats.mcuboot_trailer import MAGIC

HARDWARE = HardwareId.of("acme.example", "lock-v1")
FOREIGN = HardwareId.of("acme.example", "lock-v2")
PAYLOAD = bytes(range(200)) * 3
SLOT_SIZE = 4096
COUNTER = 7
HEADER = 32

Tlvs = Sequence[tuple[int, bytes]]


@dataclass(frozen=True)
class Signer:
    """A release key, as a file for imgtool and as the device trusts it."""

    private: ec.EllipticCurvePrivateKey
    pem: Path

    @property
    def trusted(self) -> TrustedKey:
        spki = self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return TrustedKey(spki)


@dataclass(frozen=True)
class Workshop:
    """Makes images with imgtool, and by hand where imgtool refuses to."""

    folder: Path
    ours: Signer
    theirs: Signer

    def imgtool(self, *arguments: str | Path) -> str:
        command = [str(Path(sys.executable).parent / "imgtool"), *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def sign(self, *options: str | Path, key: Path | None = None, version: str = "1.2.3+4") -> bytes:
        """Return the output of `imgtool sign` with our defaults; `key` of `/` means none."""
        source, target = self.folder / "payload.bin", self.folder / "image.bin"
        source.write_bytes(PAYLOAD)
        chosen = key or self.ours.pem
        signing: list[str | Path] = [] if chosen == Path("/") else ["-k", chosen]
        geometry = ["-H", str(HEADER), "--pad-header", "-S", str(SLOT_SIZE), "-v", version]
        self.imgtool("sign", *signing, *geometry, *options, source, target)
        return target.read_bytes()

    def keygen(self, kind: str) -> Path:
        path = self.folder / f"{kind}.pem"
        self.imgtool("keygen", "-k", path, "-t", kind)
        return path


FACTS = ("-s", str(COUNTER), "--vid", "acme.example", "--cid", "lock-v1")
PROTECTED: Tlvs = (
    (TlvType.SEC_CNT, COUNTER.to_bytes(4, "little")),
    (TlvType.UUID_VID, HARDWARE.vendor_id.bytes),
    (TlvType.UUID_CID, HARDWARE.class_id.bytes),
)


def area(magic: int, tlvs: Tlvs) -> bytes:
    body = b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in tlvs)
    return struct.pack("<HH", magic, 4 + len(body)) + body


def forge(
    signer: Signer, *, protected: Tlvs = PROTECTED, extra: Tlvs = (), flags: int = 0, load: int = 0
) -> bytes:
    """Assemble and properly sign an image, with whatever in it."""
    head = struct.pack("<IIHH", 0x96F3B83D, load, HEADER, 4 + sum(4 + len(value) for _, value in protected))
    head += struct.pack("<IIBBHII", len(PAYLOAD), flags, 1, 2, 3, 4, 0)
    hashed = head + PAYLOAD + area(0x6908, protected)
    signature = signer.private.sign(hashed, ec.ECDSA(hashes.SHA256()))
    unprotected = (
        (TlvType.SHA256, hashlib.sha256(hashed).digest()),
        (TlvType.KEYHASH, signer.trusted.key_hash),
        (TlvType.ECDSA_SIG, signature),
    )
    return hashed + area(0x6907, (*unprotected, *extra))


def with_unprotected(image: bytes, change: Callable[[list[tuple[int, bytes]]], Tlvs]) -> bytes:
    """Rewrite the unprotected area, which no signature covers."""
    parsed = parse_image(image)
    start = parsed.size - 4 - sum(4 + len(tlv.value) for tlv in parsed.unprotected)
    return image[:start] + area(0x6907, change([(tlv.type, tlv.value) for tlv in parsed.unprotected]))


def with_value(image: bytes, kind: TlvType, value: bytes) -> bytes:
    """Replace the value of one unprotected TLV."""
    return with_unprotected(image, lambda tlvs: [(k, value if k == kind else old) for k, old in tlvs])


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("imgtool")
    signers: list[Signer] = []
    for name in ("ours", "theirs"):
        private = ec.generate_private_key(ec.SECP256R1())
        pem = folder / f"{name}.pem"
        pem.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        signers.append(Signer(private, pem))
    return Workshop(folder, *signers)


@pytest.fixture(scope="session")
def image(workshop: Workshop) -> bytes:
    return workshop.sign(*FACTS)


def verify(
    workshop: Workshop,
    raw: bytes,
    *,
    floor: int = COUNTER,
    hardware: HardwareId = HARDWARE,
    slot_size: int | None = SLOT_SIZE,
) -> VerifiedImage:
    return verify_image(
        raw, keys=[workshop.ours.trusted], hardware=hardware, counter_floor=floor, slot_size=slot_size
    )


# --- accepted ---------------------------------------------------------------------------------


def test_an_image_made_by_imgtool_verifies_and_reads_as_imgtool_dumps_it(
    workshop: Workshop, image: bytes
) -> None:
    verified = verify(workshop, image)
    target = workshop.folder / "dumped.bin"
    target.write_bytes(image)
    dump = json.loads(workshop.imgtool("dumpinfo", "--format", "json", target))
    unprotected = {tlv["type_name"]: tlv["data"] for tlv in dump["tlv_area"]["tlvs"]}
    protected = {tlv["type_name"]: tlv["data"] for tlv in dump["tlv_area"]["tlvs_prot"]}
    assert str(verified.version) == dump["header"]["version"] == "1.2.3+4"
    assert verified.digest.hex() == unprotected["SHA256"]
    assert verified.signer_id.hex() == unprotected["KEYHASH"]
    assert verified.security_counter == COUNTER
    assert verified.hardware.vendor_id.hex == protected["UUID_VID"]
    assert verified.hardware.class_id.hex == protected["UUID_CID"]
    assert verified.payload == PAYLOAD
    assert verified.size == len(image)


def test_a_forgery_with_our_own_key_verifies_so_refusals_below_are_for_their_reason(
    workshop: Workshop,
) -> None:
    assert verify(workshop, forge(workshop.ours)).payload == PAYLOAD


def test_dependencies_boot_record_and_vendor_tlvs_are_allowed_where_they_are_signed(
    workshop: Workshop,
) -> None:
    raw = workshop.sign(
        *FACTS,
        "--dependencies",
        "(1, 1.2.3)(2, 1.0.0)",
        "--boot-record",
        "BL",
        "--custom-tlv",
        "0xa1",
        "note",
    )
    names = [tlv.name for tlv in parse_image(raw).protected]
    assert names == ["SEC_CNT", "BOOT_RECORD", "DEPENDENCY", "DEPENDENCY", "UUID_VID", "UUID_CID", "0x00a1"]
    assert verify(workshop, raw).security_counter == COUNTER


def test_the_verified_payload_is_a_copy_that_the_caller_cannot_change(
    workshop: Workshop, image: bytes
) -> None:
    buffer = bytearray(image)
    verified = verify(workshop, cast("bytes", buffer))
    buffer[HEADER] ^= 0xFF
    assert verified.payload == PAYLOAD
    assert verified.payload.readonly


def test_only_verification_makes_a_verified_image(workshop: Workshop, image: bytes) -> None:
    verified = verify(workshop, image)
    with pytest.raises(RuntimeError, match="only verify_image"):
        replace(verified, security_counter=99, proof=object())
    assert verified.security_counter == COUNTER


def test_a_uuid_as_text_stands_for_itself_as_with_imgtool(workshop: Workshop) -> None:
    vendor, kind = str(uuid.uuid4()), uuid.uuid4().hex
    raw = workshop.sign("-s", "7", "--vid", vendor, "--cid", kind)
    assert HardwareId.of(vendor, kind) == HardwareId(uuid.UUID(vendor), uuid.UUID(kind))
    assert verify(workshop, raw, hardware=HardwareId.of(vendor, kind)).hardware.class_id.hex == kind


# --- changed bytes ----------------------------------------------------------------------------


def refusals(image: bytes) -> list[tuple[str, range, tuple[type[FuselineError], ...]]]:
    """Name each region of the image, its bytes, and what may refuse a change there."""
    parsed = parse_image(image)
    structure = (ImageMalformed, ImageTlv, ImageDigest)
    protected_start = HEADER + len(PAYLOAD)
    at = parsed.size - 4 - sum(4 + len(tlv.value) for tlv in parsed.unprotected)
    regions: list[tuple[str, range, tuple[type[FuselineError], ...]]] = [
        ("magic", range(4), (ImageMalformed,)),
        ("load address", range(4, 8), (ImageMalformed,)),
        ("sizes", range(8, 16), (ImageMalformed,)),
        ("flags", range(16, 20), (ImageMalformed,)),
        ("version", range(20, 28), (ImageDigest,)),
        ("pad", range(28, HEADER), (ImageMalformed,)),
        ("payload", range(HEADER, protected_start), (ImageDigest,)),
        ("protected", range(protected_start, at), structure),
        ("area header", range(at, at + 4), (ImageMalformed,)),
    ]
    at += 4
    reasons = {
        TlvType.SHA256: ImageDigest,
        TlvType.KEYHASH: ImageKeyUnknown,
        TlvType.ECDSA_SIG: ImageSignature,
    }
    for tlv in parsed.unprotected:
        regions.append((f"{tlv.name} head", range(at, at + 4), structure))
        regions.append((tlv.name, range(at + 4, at + 4 + len(tlv.value)), (reasons[TlvType(tlv.type)],)))
        at += 4 + len(tlv.value)
    assert at == len(image)
    return regions


def test_no_bit_of_an_image_can_change_and_each_region_is_refused_for_its_reason(
    workshop: Workshop, image: bytes
) -> None:
    swept = 0
    for name, where, expected in refusals(image):
        for bit in range(where.start * 8, where.stop * 8):
            with pytest.raises(expected):
                verify(workshop, flip(image, bit))
            swept += 1
        assert swept == where.stop * 8, name
    assert swept == len(image) * 8
    assert verify(workshop, image).payload == PAYLOAD


def test_an_image_cut_at_any_length_is_malformed(workshop: Workshop, image: bytes) -> None:
    for length in range(len(image)):
        with pytest.raises(ImageMalformed):
            verify(workshop, image[:length])
    assert verify(workshop, image).size == len(image)


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (8, "<H", 0),  # the header smaller than itself
        (8, "<H", 31),
        (8, "<H", 0xFFFF),
        (10, "<H", 0),  # protected TLVs present but not announced, so not hashed
        (10, "<H", 0xFFFF),
        (12, "<I", 0),
        (12, "<I", 0xFFFF_FFFF),
        (12, "<I", 0xFFFF_FFE0),  # header size + payload size wraps to 0 in 32 bits
        (HEADER + len(PAYLOAD), "<H", 0x6907),
        (HEADER + len(PAYLOAD) + 2, "<H", 0),
        (HEADER + len(PAYLOAD) + 2, "<H", 0xFFFF),
        (HEADER + len(PAYLOAD) + 6, "<H", 0xFFFF),  # a TLV longer than its area
        (HEADER + len(PAYLOAD) + 6, "<H", 3),  # a security counter of three bytes
    ],
)
def test_lengths_that_lie_are_malformed(workshop: Workshop, offset: int, layout: str, value: int) -> None:
    raw = bytearray(forge(workshop.ours))
    struct.pack_into(layout, raw, offset, value)
    with pytest.raises(ImageMalformed):
        parse_image(bytes(raw))


@pytest.mark.parametrize(
    "tail", [b"\x00", b"\xff" * 64 + b"\x01", b"\xff" * 8 + MAGIC, b"MZ" + b"\xff" * 100]
)
def test_anything_after_the_image_but_erased_bytes_and_a_trailer_is_malformed(
    workshop: Workshop, image: bytes, tail: bytes
) -> None:
    with pytest.raises(ImageMalformed, match="after the image"):
        verify(workshop, image + tail)
    assert verify(workshop, image + b"\xff" * len(tail)).size == len(image)


@given(st.binary(max_size=400), st.sampled_from([b"", struct.pack("<IIHH", 0x96F3B83D, 0, 32, 0)]))
@settings(max_examples=300, deadline=None)
def test_parsing_arbitrary_bytes_raises_nothing_but_malformed(data: bytes, prefix: bytes) -> None:
    try:
        parsed = parse_image(prefix + data)
    except FormatError:
        return
    assert 0 < len(parsed.payload) < parsed.size


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_splice_into_a_signed_image_is_accepted_or_crashes(
    workshop: Workshop, image: bytes, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(image)))
    end = data.draw(st.integers(start, len(image)))
    spliced = image[:start] + data.draw(st.binary(max_size=64)) + image[end:]
    if spliced.rstrip(b"\xff") == image.rstrip(b"\xff"):
        return
    with pytest.raises((FormatError, ImageError)):
        verify(workshop, spliced)


# --- what imgtool can make and this profile does not run --------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--load-addr", "0x20000000"), ImageMalformed),
        (("--rom-fixed", "0x10000"), ImageMalformed),
        (("--non-bootable",), ImageMalformed),
        (("--compression", "lzma2"), ImageMalformed),
        (("--public-key-format", "full"), ImageTlv),
        (("--endian", "big"), ImageMalformed),
    ],
)
def test_other_kinds_of_image_are_refused(
    workshop: Workshop, options: tuple[str, ...], expected: type[FuselineError]
) -> None:
    with pytest.raises(expected):
        verify(workshop, workshop.sign(*FACTS, *options))


def test_encrypted_images_are_refused(workshop: Workshop) -> None:
    public = workshop.folder / "encrypt.pem"
    public.write_text(workshop.imgtool("getpub", "-k", workshop.theirs.pem, "-e", "pem"))
    with pytest.raises(ImageMalformed) as caught:
        verify(workshop, workshop.sign(*FACTS, "--encrypt", public))
    assert caught.value.evidence["flags"] == ["ENCRYPTED_AES128"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [("rsa-2048", ()), ("ecdsa-p384", ()), ("ed25519", ()), ("ed25519", ("--pure",))],
)
def test_other_signature_algorithms_are_refused_by_name(
    workshop: Workshop, kind: str, options: tuple[str, ...]
) -> None:
    with pytest.raises(ImageTlv, match="ECDSA-P256") as caught:
        verify(workshop, workshop.sign(*FACTS, *options, key=workshop.keygen(kind)))
    assert caught.value.evidence["tlv"] in {"RSA2048_PSS", "SHA384", "SHA512", "ED25519", "SIG_PURE"}


def test_a_trusted_key_of_another_curve_verifies_nothing(workshop: Workshop, image: bytes) -> None:
    private = ec.generate_private_key(ec.SECP384R1())
    spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for useless in (TrustedKey(spki), TrustedKey(b"not a key")):
        renamed = with_value(image, TlvType.KEYHASH, useless.key_hash)
        with pytest.raises(ImageKeyUnknown, match="P-256"):
            verify_image(renamed, keys=[useless], hardware=HARDWARE, counter_floor=0)


# --- attacks ----------------------------------------------------------------------------------


def test_an_image_of_an_unknown_key_is_refused_until_that_key_is_trusted(workshop: Workshop) -> None:
    raw = workshop.sign(*FACTS, key=workshop.theirs.pem)
    with pytest.raises(ImageKeyUnknown):
        verify(workshop, raw)
    both = [workshop.ours.trusted, workshop.theirs.trusted]
    verified = verify_image(raw, keys=both, hardware=HARDWARE, counter_floor=0)
    assert verified.signer_id == workshop.theirs.trusted.key_hash


def test_claiming_our_key_hash_over_a_foreign_signature_is_refused(workshop: Workshop) -> None:
    raw = with_value(forge(workshop.theirs), TlvType.KEYHASH, workshop.ours.trusted.key_hash)
    with pytest.raises(ImageSignature):
        verify(workshop, raw)


def test_unsigned_images_are_refused(workshop: Workshop) -> None:
    with pytest.raises(ImageKeyUnknown, match="not signed"):
        verify(workshop, workshop.sign(*FACTS, key=Path("/")))


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (TlvType.SHA256, ImageDigest),
        (TlvType.KEYHASH, ImageKeyUnknown),
        (TlvType.ECDSA_SIG, ImageSignature),
    ],
)
def test_leaving_out_a_part_of_the_signature_is_refused(
    workshop: Workshop, image: bytes, missing: TlvType, expected: type[FuselineError]
) -> None:
    stripped = with_unprotected(image, lambda tlvs: [tlv for tlv in tlvs if tlv[0] != missing])
    with pytest.raises(expected):
        verify(workshop, stripped)


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        bytes.fromhex("3006020100020100"),
        bytes.fromhex("3006020101020100"),
        b"\x00" * 72,
        bytes.fromhex("3026022100ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551020101"),
    ],
)
def test_degenerate_signatures_are_refused(workshop: Workshop, image: bytes, signature: bytes) -> None:
    with pytest.raises(ImageSignature):
        verify(workshop, with_value(image, TlvType.ECDSA_SIG, signature))


def test_a_padded_signature_is_refused(workshop: Workshop, image: bytes) -> None:
    signature = parse_image(image).signature
    assert signature is not None
    with pytest.raises(ImageSignature):
        verify(workshop, with_value(image, TlvType.ECDSA_SIG, signature + b"\x00"))
    assert verify(workshop, with_value(image, TlvType.ECDSA_SIG, signature)).payload == PAYLOAD


@pytest.mark.parametrize(
    "options",
    [
        ("-s", "7"),
        ("-s", "7", "--vid", "acme.example"),
        ("-s", "7", "--vid", "x.example", "--cid", "lock-v1"),
    ],
)
def test_an_image_for_no_or_other_hardware_is_refused(workshop: Workshop, options: tuple[str, ...]) -> None:
    with pytest.raises(ImageHardware):
        verify(workshop, workshop.sign(*options))


def test_an_image_runs_on_its_own_hardware_only(workshop: Workshop) -> None:
    raw = workshop.sign("-s", "7", "--vid", "acme.example", "--cid", "lock-v2")
    with pytest.raises(ImageHardware):
        verify(workshop, raw)
    assert verify(workshop, raw, hardware=FOREIGN).hardware == FOREIGN


def test_rollback_to_a_lower_or_absent_security_counter_is_refused(workshop: Workshop, image: bytes) -> None:
    with pytest.raises(ImageRollback):
        verify(workshop, image, floor=COUNTER + 1)
    assert verify(workshop, image, floor=COUNTER).security_counter == COUNTER
    without = workshop.sign("--vid", "acme.example", "--cid", "lock-v1")
    with pytest.raises(ImageRollback) as caught:
        verify(workshop, without, floor=0)
    assert caught.value.evidence == {"counter": None, "floor": 0}


@pytest.mark.parametrize(
    "injected", [*PROTECTED, (TlvType.DEPENDENCY, bytes(12)), (TlvType.BOOT_RECORD, b"x")]
)
def test_a_fact_injected_unprotected_is_refused_cve_2024_32883(
    workshop: Workshop, injected: tuple[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = [tlv for tlv in PROTECTED if tlv[0] != injected[0]]
    raw = forge(workshop.ours, protected=signed, extra=[injected])
    with pytest.raises(ImageTlv) as caught:
        verify(workshop, raw)
    assert caught.value.evidence["area"] == "unprotected"
    # Even without that check, an injected fact is not read as a signed one.
    monkeypatch.setattr(mcuboot, "_check_tlvs", lambda _: None)
    if len(signed) < len(PROTECTED):
        with pytest.raises((ImageRollback, ImageHardware)):
            verify(workshop, raw)


@pytest.mark.parametrize("tlv", PROTECTED)
def test_a_duplicate_in_the_protected_area_is_refused_though_signed(
    workshop: Workshop, tlv: tuple[int, bytes]
) -> None:
    with pytest.raises(ImageTlv, match="2 times"):
        verify(workshop, forge(workshop.ours, protected=[*PROTECTED, tlv]))


@pytest.mark.parametrize(
    ("kind", "where"),
    [(TlvType.SHA256, "protected"), (0x1050, "protected"), (0x00A1, "unprotected"), (0x00FF, "protected")],
)
def test_unknown_or_misplaced_types_are_refused(workshop: Workshop, kind: int, where: str) -> None:
    alien = [(kind, bytes(32))]
    protected = where == "protected"
    raw = forge(
        workshop.ours,
        protected=[*PROTECTED, *(alien if protected else [])],
        extra=[] if protected else alien,
    )
    with pytest.raises(ImageTlv) as caught:
        verify(workshop, raw)
    assert caught.value.evidence["area"] == where


@pytest.mark.parametrize("bit", range(32))
def test_every_header_flag_is_refused_though_signed(workshop: Workshop, bit: int) -> None:
    with pytest.raises(ImageMalformed, match="executed in place"):
        verify(workshop, forge(workshop.ours, flags=1 << bit))


# --- mutation controls: without its check, each attack wins -----------------------------------


def repaired(signer: Signer) -> bytes:
    """Return an image whose payload was changed, and its stated digest with it."""
    changed = flip(forge(signer), HEADER * 8)
    return with_value(changed, TlvType.SHA256, parse_image(changed).digest)


ATTACKS: dict[str, tuple[Callable[[Workshop], bytes], type[FuselineError]]] = {
    "_check_kind": (lambda shop: forge(shop.ours, flags=0x04), ImageMalformed),
    "_check_size": (lambda shop: forge(shop.ours), ImageSize),
    "_check_tlvs": (lambda shop: forge(shop.ours, extra=[(TlvType.SEC_CNT, bytes(4))]), ImageTlv),
    "_check_digest": (lambda shop: with_value(forge(shop.ours), TlvType.SHA256, bytes(32)), ImageDigest),
    "_signing_key": (lambda shop: forge(shop.theirs), ImageKeyUnknown),
    "_check_signature": (lambda shop: repaired(shop.ours), ImageSignature),
    "_check_hardware": (
        lambda shop: forge(shop.ours, protected=[*PROTECTED[:2], (TlvType.UUID_CID, FOREIGN.class_id.bytes)]),
        ImageHardware,
    ),
    "_check_counter": (
        lambda shop: forge(shop.ours, protected=[(TlvType.SEC_CNT, bytes(4)), *PROTECTED[1:]]),
        ImageRollback,
    ),
}


@pytest.mark.parametrize("check", ATTACKS)
def test_each_step_alone_stands_between_an_attack_and_the_device(
    workshop: Workshop, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, expected = ATTACKS[check]
    attack = build(workshop)
    slot_size = 256 if check == "_check_size" else SLOT_SIZE
    with pytest.raises(expected):
        verify(workshop, attack, slot_size=slot_size)
    removed = {"_signing_key": workshop.theirs.trusted, "_check_counter": 0}
    monkeypatch.setattr(mcuboot, check, lambda *_: removed.get(check))
    assert verify(workshop, attack, slot_size=slot_size).size == len(attack)
