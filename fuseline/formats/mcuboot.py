"""MCUboot images: structure, and the one verification that both device and plane use.

The format is that of MCUboot's `bootutil/image.h` and of its tool, imgtool 2.5: a 32-byte little-endian
header, the payload, protected TLVs (hashed and so signed), unprotected TLVs, then erased bytes and an
optional trailer.

Profile: SHA-256 and ECDSA on P-256, the key named by its hash, a plain payload executed where it lies.
Everything else that imgtool can make is refused by name rather than ignored.
"""

from __future__ import annotations

import hashlib
import re
import struct
import uuid
from collections import Counter
from dataclasses import InitVar, dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from fuseline.errors import (
    ImageDigest,
    ImageHardware,
    ImageKeyUnknown,
    ImageMalformed,
    ImageRollback,
    ImageSignature,
    ImageSize,
    ImageTlv,
)
from fuseline.formats.mcuboot_trailer import ERASED, TRAILER_SIZE, is_trailer, max_image_size

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEADER: Final = struct.Struct("<IIHHIIBBHII")
"""`struct image_header`: magic, load address, header size, protected TLV size, payload size, flags, version
(four numbers), padding."""

_TLV: Final = struct.Struct("<HH")
"""`struct image_tlv_info` (magic, total with itself) and `struct image_tlv` (type, length without itself)."""

_IMAGE_MAGIC: Final = 0x96F3B83D
_UNPROTECTED_MAGIC: Final = 0x6907
_PROTECTED_MAGIC: Final = 0x6908

_VERSION: Final = re.compile(
    r"(0|[1-9][0-9]{0,9})(?:\.(0|[1-9][0-9]{0,9})(?:\.(0|[1-9][0-9]{0,9})(?:\+(0|[1-9][0-9]{0,9}))?)?)?"
)
_VERSION_LIMITS: Final = (0xFF, 0xFF, 0xFFFF, 0xFFFF_FFFF)

_UUID_TEXT: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}")
"""The spellings that imgtool's `parse_uuid` takes for a UUID and not for a name."""

_FLAG_NAMES: Final = {
    0x0001: "PIC",
    0x0004: "ENCRYPTED_AES128",
    0x0008: "ENCRYPTED_AES256",
    0x0010: "NON_BOOTABLE",
    0x0020: "RAM_LOAD",
    0x0100: "ROM_FIXED",
    0x0200: "COMPRESSED_LZMA1",
    0x0400: "COMPRESSED_LZMA2",
    0x0800: "COMPRESSED_ARM_THUMB",
}


class TlvType(IntEnum):
    """TLV types of imgtool 2.5 (`TLV_VALUES`)."""

    KEYHASH = 0x01
    PUBKEY = 0x02
    SHA256 = 0x10
    SHA384 = 0x11
    SHA512 = 0x12
    RSA2048_PSS = 0x20
    ECDSA_SIG = 0x22
    RSA3072_PSS = 0x23
    ED25519 = 0x24
    SIG_PURE = 0x25
    ENC_RSA2048 = 0x30
    ENC_KW = 0x31
    ENC_EC256 = 0x32
    ENC_X25519 = 0x33
    ENC_X25519_SHA512 = 0x34
    DEPENDENCY = 0x40
    SEC_CNT = 0x50
    BOOT_RECORD = 0x60
    DECOMP_SIZE = 0x70
    DECOMP_SHA = 0x71
    DECOMP_SIGNATURE = 0x72
    COMP_DEC_SIZE = 0x73
    UUID_VID = 0x74
    UUID_CID = 0x75


_LENGTHS: Final[dict[int, int]] = {
    TlvType.SHA256: 32,
    TlvType.DEPENDENCY: 12,
    TlvType.SEC_CNT: 4,
    TlvType.UUID_VID: 16,
    TlvType.UUID_CID: 16,
}

_ALLOWED_PROTECTED: Final[frozenset[int]] = frozenset(
    {
        TlvType.DEPENDENCY,
        TlvType.SEC_CNT,
        TlvType.BOOT_RECORD,
        TlvType.UUID_VID,
        TlvType.UUID_CID,
    }
)
_ALLOWED_UNPROTECTED: Final[frozenset[int]] = frozenset({TlvType.SHA256, TlvType.KEYHASH, TlvType.ECDSA_SIG})
_REPEATABLE: Final = frozenset({TlvType.DEPENDENCY})
"""imgtool writes one dependency TLV for each image that is depended on."""


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """An image's version, ordered like MCUboot with `MCUBOOT_VERSION_CMP_USE_BUILD_NUMBER`.

    Attributes:
        major: 0 to 255.
        minor: 0 to 255.
        revision: 0 to 65,535.
        build: 0 to 2**32 - 1.
    """

    major: int
    minor: int = 0
    revision: int = 0
    build: int = 0

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read `major[.minor[.revision[+build]]]`, as imgtool's `--version` takes it.

        Raises:
            ImageMalformed: Other text, or a number that the image header cannot hold.
        """
        match = _VERSION.fullmatch(text)
        numbers = [int(group or 0) for group in match.groups()] if match else []
        if not match or any(number > limit for number, limit in zip(numbers, _VERSION_LIMITS, strict=True)):
            raise ImageMalformed("not a MCUboot version (major.minor.revision+build)", version=text[:64])
        return cls(*numbers)

    def __str__(self) -> str:
        base = f"{self.major}.{self.minor}.{self.revision}"
        return f"{base}+{self.build}" if self.build else base


@dataclass(frozen=True, slots=True)
class HardwareId:
    """The hardware an image is for: vendor and class, as UUIDs."""

    vendor_id: uuid.UUID
    class_id: uuid.UUID

    @classmethod
    def of(cls, vendor_domain: str, class_name: str) -> HardwareId:
        """Derive both UUIDs as `imgtool sign --vid DOMAIN --cid NAME` does.

        A version 5 UUID of the domain under the DNS namespace, and of the class name under the vendor's. As
        with imgtool, text that spells a UUID stands for itself.
        """
        vendor_id = _name_or_uuid(uuid.NAMESPACE_DNS, vendor_domain)
        return cls(vendor_id, _name_or_uuid(vendor_id, class_name))


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A release key that images may be signed with.

    Attributes:
        spki: The P-256 public key, DER SubjectPublicKeyInfo.
    """

    spki: bytes

    @property
    def key_hash(self) -> bytes:
        """The SHA-256 of the key, as imgtool's KEYHASH TLV names it."""
        return hashlib.sha256(self.spki).digest()


@dataclass(frozen=True, slots=True)
class Tlv:
    """One type-length-value entry; `type` is a number because unknown types must be representable."""

    type: int
    value: bytes

    @property
    def name(self) -> str:
        """The type's name, or its number in hexadecimal."""
        return TlvType(self.type).name if self.type in set(TlvType) else f"0x{self.type:04x}"


@dataclass(frozen=True, slots=True)
class ParsedImage:
    """An image's structure; nothing in it is to be believed before `verify_image`.

    Attributes:
        version: From the header.
        flags: `IMAGE_F_*` bits of the header.
        load_address: From the header; 0 unless the image must stand at a fixed address.
        header_size: Bytes before the payload.
        payload: A read-only view of the payload.
        protected: The TLVs that the digest covers.
        unprotected: The TLVs that it does not.
        digest: SHA-256 of header, payload and protected TLVs, as computed here.
        size: Bytes from the header to the last TLV, without padding and trailer.
    """

    version: Version
    flags: int
    load_address: int
    header_size: int
    payload: memoryview
    protected: tuple[Tlv, ...]
    unprotected: tuple[Tlv, ...]
    digest: bytes
    size: int

    @property
    def stated_digest(self) -> bytes | None:
        """The SHA-256 that the image states."""
        return _find(self.unprotected, TlvType.SHA256)

    @property
    def key_hash(self) -> bytes | None:
        """The hash of the key that the image says it is signed with."""
        return _find(self.unprotected, TlvType.KEYHASH)

    @property
    def signature(self) -> bytes | None:
        """The ECDSA signature, DER."""
        return _find(self.unprotected, TlvType.ECDSA_SIG)

    @property
    def security_counter(self) -> int | None:
        """The security counter; only a protected one counts."""
        value = _find(self.protected, TlvType.SEC_CNT)
        return None if value is None else int.from_bytes(value, "little")

    @property
    def vendor_id(self) -> uuid.UUID | None:
        """The vendor; only a protected one counts."""
        value = _find(self.protected, TlvType.UUID_VID)
        return None if value is None else uuid.UUID(bytes=value)

    @property
    def class_id(self) -> uuid.UUID | None:
        """The hardware class; only a protected one counts."""
        value = _find(self.protected, TlvType.UUID_CID)
        return None if value is None else uuid.UUID(bytes=value)


_MADE_BY_VERIFY_IMAGE: Final = object()


@dataclass(frozen=True, slots=True)
class VerifiedImage:
    """An image that passed every check of `verify_image`, which alone can make one.

    Attributes:
        version: What runs.
        security_counter: At or above the floor that was given.
        digest: SHA-256 of header, payload and protected TLVs: the measurement of this image.
        signer_id: Hash of the key that signed it.
        hardware: What it runs on.
        payload: A read-only view of the bytes that were verified.
        size: Bytes of the image without padding and trailer.
        proof: Only `verify_image` has it.
    """

    version: Version
    security_counter: int
    digest: bytes
    signer_id: bytes
    hardware: HardwareId
    payload: memoryview
    size: int
    proof: InitVar[object]

    def __post_init__(self, proof: object) -> None:
        if proof is not _MADE_BY_VERIFY_IMAGE:
            raise RuntimeError("only verify_image makes a VerifiedImage")


def parse_image(raw: bytes) -> ParsedImage:
    """Read the structure of one image, alone or as a slot holds it.

    Args:
        raw: The image, optionally followed by erased bytes (0xff), and those by a trailer.

    Raises:
        ImageMalformed: Anything else.
    """
    raw = bytes(raw)  # a caller's bytearray could change between this check and the image's use
    if len(raw) < _HEADER.size:
        raise ImageMalformed("shorter than an image header", size=len(raw), minimum=_HEADER.size)
    magic, load_address, header_size, protected_size, payload_size, flags, *version, pad = (
        _HEADER.unpack_from(raw)
    )
    if magic != _IMAGE_MAGIC:
        raise ImageMalformed("no image magic at the start", magic=f"0x{magic:08x}")
    if header_size < _HEADER.size or payload_size == 0 or pad != 0:
        raise ImageMalformed("impossible header", header_size=header_size, payload_size=payload_size, pad=pad)
    payload_end = header_size + payload_size
    hashed_end = payload_end + protected_size
    protected: tuple[Tlv, ...] = ()
    if protected_size:
        protected, end = _parse_tlv_area(raw, payload_end, _PROTECTED_MAGIC)
        if end != hashed_end:
            raise ImageMalformed(
                "header and protected TLV area disagree on its size",
                header=protected_size,
                area=end - payload_end,
            )
    unprotected, size = _parse_tlv_area(raw, hashed_end, _UNPROTECTED_MAGIC)
    _refuse_trailing(raw, size)
    view = memoryview(raw)
    return ParsedImage(
        version=Version(*version),
        flags=flags,
        load_address=load_address,
        header_size=header_size,
        payload=view[header_size:payload_end],
        protected=protected,
        unprotected=unprotected,
        digest=hashlib.sha256(view[:hashed_end]).digest(),
        size=size,
    )


def verify_image(
    raw: bytes,
    *,
    keys: Sequence[TrustedKey],
    hardware: HardwareId,
    counter_floor: int,
    slot_size: int | None = None,
) -> VerifiedImage:
    """Decide whether an image may run on this hardware.

    Args:
        raw: The image, alone or as a slot holds it.
        keys: The release keys trusted here.
        hardware: What the image would run on.
        counter_floor: The device's security counter; the image's may not be below.
        slot_size: Bytes of the slot it would run from, if that matters here.

    Raises:
        ImageMalformed: Steps 1 and 2.
        ImageSize: Step 3.
        ImageTlv: Step 4.
        ImageDigest: Step 5.
        ImageKeyUnknown: Step 6.
        ImageSignature: Step 7.
        ImageHardware: Step 8.
        ImageRollback: Step 9.
    """
    # The steps, each relying on the ones before it:
    #  1  structure: lengths, magics and areas agree with each other and with the bytes
    #  2  kind: a plain payload that is executed where it lies
    #  3  size: image and trailer fit the slot
    #  4  TLVs: each only where it may stand, and once
    #  5  digest: the bytes have the digest that the image states
    #  6  key: the image names a key trusted here
    #  7  signature: that key signed the digest
    #  8  hardware: the signed vendor and class are ours
    #  9  counter: the signed security counter is not below the device's
    image = parse_image(raw)  # 1
    _check_kind(image)  # 2
    _check_size(image, slot_size)  # 3
    _check_tlvs(image)  # 4
    _check_digest(image)  # 5
    key = _signing_key(image, keys)  # 6
    _check_signature(image, key)  # 7
    _check_hardware(image, hardware)  # 8
    counter = _check_counter(image, counter_floor)  # 9
    return VerifiedImage(
        version=image.version,
        security_counter=counter,
        digest=image.digest,
        signer_id=key.key_hash,
        hardware=hardware,
        payload=image.payload,
        size=image.size,
        proof=_MADE_BY_VERIFY_IMAGE,
    )


def _check_kind(image: ParsedImage) -> None:
    # 2: no flag of image.h is supported; an unknown one may change the meaning of everything after it.
    if image.flags or image.load_address:
        raise ImageMalformed(
            "only plain images that are executed in place are supported",
            flags=_flag_names(image.flags),
            load_address=f"0x{image.load_address:08x}",
        )


def _check_size(image: ParsedImage, slot_size: int | None) -> None:
    # 3: bootutil_max_image_size; an image under the trailer would be overwritten by it.
    if slot_size is not None and image.size > max_image_size(slot_size):
        raise ImageSize("the image does not fit the slot", size=image.size, maximum=max_image_size(slot_size))


def _check_tlvs(image: ParsedImage) -> None:
    # 4: CVE-2024-32883 let anyone add unprotected TLVs that MCUboot believed like signed ones, so this is an
    # allow-list for each area; and of what stands twice, one could be checked and the other used.
    for area, tlvs, allowed in (
        ("protected", image.protected, _ALLOWED_PROTECTED),
        ("unprotected", image.unprotected, _ALLOWED_UNPROTECTED),
    ):
        for tlv in tlvs:
            if tlv.type not in allowed and not (area == "protected" and _is_vendor_type(tlv.type)):
                raise ImageTlv(
                    f"{tlv.name} may not stand in the {area} area (ECDSA-P256, SHA-256, key by hash only)",
                    tlv=tlv.name,
                    area=area,
                )
        for kind, count in Counter(tlv.type for tlv in tlvs).items():
            if count > 1 and kind not in _REPEATABLE:
                raise ImageTlv(
                    f"a TLV stands {count} times in the {area} area", tlv=Tlv(kind, b"").name, area=area
                )


def _check_digest(image: ParsedImage) -> None:
    # 5: MCUboot also refuses an image without a hash TLV.
    if image.stated_digest != image.digest:
        stated = image.stated_digest
        raise ImageDigest(
            "the image does not have the digest it states",
            stated=stated.hex() if stated is not None else None,
            computed=image.digest.hex(),
        )


def _signing_key(image: ParsedImage, keys: Sequence[TrustedKey]) -> TrustedKey:
    # 6: the image may only choose among our keys, never bring its own (PUBKEY is refused in step 4).
    if image.key_hash is None:
        raise ImageKeyUnknown("the image is not signed")
    for key in keys:
        if key.key_hash == image.key_hash:
            return key
    raise ImageKeyUnknown(
        "the image names a key that is not trusted here",
        key_hash=image.key_hash.hex(),
        trusted=[key.key_hash.hex() for key in keys],
    )


def _check_signature(image: ParsedImage, key: TrustedKey) -> None:
    # 7: imgtool signs the digest of step 5, so the bytes are hashed once. OpenSSL takes exact DER only, so
    # there is no room for padding, and `--pad-sig` (for MCUboot before 1.5) is refused.
    if image.signature is None:
        raise ImageSignature("the image names a key but carries no signature", key_hash=key.key_hash.hex())
    try:
        _p256(key).verify(image.signature, image.digest, ec.ECDSA(Prehashed(SHA256())))
    except InvalidSignature:
        raise ImageSignature("the signature does not verify", key_hash=key.key_hash.hex()) from None


def _check_hardware(image: ParsedImage, hardware: HardwareId) -> None:
    # 8: MCUBOOT_UUID_VID and MCUBOOT_UUID_CID; absent means "any hardware", which no release may claim.
    if (image.vendor_id, image.class_id) != (hardware.vendor_id, hardware.class_id):
        raise ImageHardware(
            "the image is not for this hardware",
            image_vendor=str(image.vendor_id),
            image_class=str(image.class_id),
            vendor=str(hardware.vendor_id),
            hardware_class=str(hardware.class_id),
        )


def _check_counter(image: ParsedImage, floor: int) -> int:
    # 9: MCUBOOT_HW_ROLLBACK_PROT; an image without a counter could be of any age.
    counter = image.security_counter
    if counter is None or counter < floor:
        raise ImageRollback("the security counter is below the device's", counter=counter, floor=floor)
    return counter


def _parse_tlv_area(raw: bytes, start: int, expected_magic: int) -> tuple[tuple[Tlv, ...], int]:
    """Return the TLVs of the area at `start`, and where the area ends."""
    magic, total = _unpack_pair(raw, start, len(raw))
    if magic != expected_magic:
        raise ImageMalformed(
            "no TLV area where the header says",
            offset=start,
            magic=f"0x{magic:04x}",
            expected=f"0x{expected_magic:04x}",
        )
    end = start + total
    if total < _TLV.size or end > len(raw):
        raise ImageMalformed("the TLV area leaves the image", offset=start, total=total, size=len(raw))
    tlvs: list[Tlv] = []
    at = start + _TLV.size
    while at < end:
        kind, length = _unpack_pair(raw, at, end)
        at += _TLV.size
        if length > end - at or length != _LENGTHS.get(kind, length):
            raise ImageMalformed(
                "a TLV has an impossible length", tlv=f"0x{kind:04x}", length=length, offset=at
            )
        tlvs.append(Tlv(kind, raw[at : at + length]))
        at += length
    return tuple(tlvs), end


def _unpack_pair(raw: bytes, at: int, end: int) -> tuple[int, int]:
    if at + _TLV.size > end:
        raise ImageMalformed("the image ends inside a TLV header", offset=at, end=end)
    first, second = _TLV.unpack_from(raw, at)
    return int(first), int(second)


def _refuse_trailing(raw: bytes, size: int) -> None:
    """Allow nothing after the image that could carry anything."""
    padding_end = len(raw)
    if len(raw) - size >= TRAILER_SIZE and is_trailer(raw[-TRAILER_SIZE:]):
        padding_end -= TRAILER_SIZE
    if raw.count(ERASED, size, padding_end) != padding_end - size:
        raise ImageMalformed(
            "bytes after the image that are neither erased nor a trailer", offset=size, size=len(raw)
        )


def _find(tlvs: tuple[Tlv, ...], kind: TlvType) -> bytes | None:
    return next((tlv.value for tlv in tlvs if tlv.type == kind), None)


def _is_vendor_type(kind: int) -> bool:
    # image.h: vendor reserved TLVs are xxA0 to xxFE.
    return 0xA0 <= kind & 0xFF <= 0xFE


def _flag_names(flags: int) -> list[str]:
    bits = [1 << bit for bit in range(32) if flags & 1 << bit]
    return [_FLAG_NAMES.get(bit, f"0x{bit:08x}") for bit in bits]


def _p256(key: TrustedKey) -> ec.EllipticCurvePublicKey:
    try:
        public = load_der_public_key(key.spki)
    except (ValueError, UnsupportedAlgorithm):
        public = None
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise ImageKeyUnknown("the key trusted here is not a P-256 public key", key_hash=key.key_hash.hex())
    return public


def _name_or_uuid(namespace: uuid.UUID, text: str) -> uuid.UUID:
    return uuid.UUID(text) if _UUID_TEXT.fullmatch(text) else uuid.uuid5(namespace, text)
