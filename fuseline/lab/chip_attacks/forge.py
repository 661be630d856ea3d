"""Loader images of any shape: well made, badly made, and made to deceive.

Unlike imgtool this signs whatever it is given. Offsets and names are those of MCUboot's `bootutil/image.h`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fuseline.device.silicon.commands import Command
from fuseline.device.silicon.crypto_block import P256_N
from fuseline.device.silicon.memory_map import DOORBELL, LOADER_RAM, MAILBOX, RAM_BASE, RAM_SIZE
from fuseline.formats.mcuboot import Tlv, TlvType
from fuseline.formats.usage import USAGE_TLV

HEADER: Final = struct.Struct("<IIHHIIBBHII")
"""`struct image_header`."""
IMAGE_MAGIC: Final = 0x96F3_B83D
PROTECTED_MAGIC: Final = 0x6908
UNPROTECTED_MAGIC: Final = 0x6907
RAM_LOAD: Final = 0x20
HEADER_SIZE: Final = 0x20
COUNTER: Final = 5
"""Security counter of images that are well made, and of the chips that are attacked."""

_SIGNING: Final = ec.ECDSA(Prehashed(SHA256()), deterministic_signing=True)
_STOP_CODE: Final = struct.pack(
    "<10H2I",
    # ldr r0, MAILBOX; movs r1, #STOP; str r1, [r0]; movs r2, #0; str r2, [r0, #4]; str r2, [r0, #8]
    *(0x4804, 0x2100 | Command.STOP, 0x6001, 0x2200, 0x6042, 0x6082),
    # ldr r0, DOORBELL; str r1, [r0]; b .; nop
    *(0x4802, 0x6001, 0xE7FE, 0xBF00),
    *(MAILBOX, DOORBELL),
)
"""Ends the run with status 0. It runs anywhere."""


def stop_payload(
    header_size: int = HEADER_SIZE, *, stack: int | None = None, entry: int | None = None
) -> bytes:
    """Return the shortest loader: two vectors, and code that stops.

    Args:
        header_size: Octets of the header before it.
        stack: Initial stack pointer; the end of main RAM by default.
        entry: Reset vector; the code behind the vectors by default.
    """
    start = LOADER_RAM + header_size + 8 | 1 if entry is None else entry
    return struct.pack("<II", RAM_BASE + RAM_SIZE if stack is None else stack, start) + _STOP_CODE


class Signer(Protocol):
    """Signs digests, and says with which key."""

    spki: bytes

    def signature(self, digest: bytes) -> Tlv:
        """Return the signature TLV over a SHA-256 digest."""
        ...


class P256Signer:
    """A P-256 key made from a public label: the same on every machine, and worthless on all of them.

    Args:
        label: Names the key.
    """

    def __init__(self, label: str) -> None:
        secret = int.from_bytes(hashlib.sha384(b"fuseline lab p256 " + label.encode()).digest(), "big")
        self.key: Final = ec.derive_private_key(secret % (P256_N - 1) + 1, ec.SECP256R1())
        self.spki: bytes = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def signature(self, digest: bytes) -> Tlv:
        """Return the ECDSA TLV, deterministic (RFC 6979)."""
        return Tlv(TlvType.ECDSA_SIG, self.key.sign(digest, _SIGNING))

    def numbers(self, digest: bytes) -> tuple[int, int]:
        """Return r and s of the signature."""
        return decode_dss_signature(self.key.sign(digest, _SIGNING))


class Ed25519Signer:
    """An Ed25519 key made from a public label.

    Args:
        label: Names the key.
    """

    def __init__(self, label: str) -> None:
        secret = hashlib.sha256(b"fuseline lab ed25519 " + label.encode()).digest()
        self.key: Final = ed25519.Ed25519PrivateKey.from_private_bytes(secret)
        self.spki: bytes = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def signature(self, digest: bytes) -> Tlv:
        """Return the Ed25519 TLV over the digest, as imgtool makes it."""
        return Tlv(TlvType.ED25519, self.key.sign(digest))


def counter_tlv(value: int) -> Tlv:
    """Return the security counter TLV."""
    return Tlv(TlvType.SEC_CNT, value.to_bytes(4, "little"))


def usage_tlv(value: bytes) -> Tlv:
    """Return the usage constraints TLV."""
    return Tlv(USAGE_TLV, value)


def area(magic: int, tlvs: Sequence[Tlv], size: int | None = None) -> bytes:
    """Return a TLV area.

    Args:
        magic: Which area.
        tlvs: What is in it.
        size: What it says of its size; the truth by default.
    """
    body = b"".join(struct.pack("<HH", tlv.type, len(tlv.value)) + tlv.value for tlv in tlvs)
    return struct.pack("<HH", magic, len(body) + 4 if size is None else size) + body


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What of an image is under the signature.

    Attributes:
        payload: Machine code.
        protected: The protected TLVs.
        protected_area: The whole protected area, if it is to be another than `protected` gives.
        magic: Of the header.
        load_address: Of the header.
        header_size: Octets of the header, and what it says of itself.
        stated_header_size: What it says instead.
        stated_protected_size: What the header says instead of the truth.
        stated_payload_size: What the header says instead of the truth.
        flags: Of the header.
        padding: Last word of the header.
        version: Major, minor, revision, build.
    """

    payload: bytes = field(default_factory=stop_payload)
    protected: tuple[Tlv, ...] = (counter_tlv(COUNTER),)
    protected_area: bytes | None = None
    magic: int = IMAGE_MAGIC
    load_address: int = LOADER_RAM
    header_size: int = HEADER_SIZE
    stated_header_size: int | None = None
    stated_protected_size: int | None = None
    stated_payload_size: int | None = None
    flags: int = RAM_LOAD
    padding: int = 0
    version: tuple[int, int, int, int] = (1, 0, 0, 0)

    def hashed(self) -> bytes:
        """Return header, payload and protected area: what the digest covers if the header tells the truth."""
        protected = (
            area(PROTECTED_MAGIC, self.protected) if self.protected_area is None else self.protected_area
        )
        header = HEADER.pack(
            self.magic,
            self.load_address,
            self.header_size if self.stated_header_size is None else self.stated_header_size,
            len(protected) if self.stated_protected_size is None else self.stated_protected_size,
            len(self.payload) if self.stated_payload_size is None else self.stated_payload_size,
            self.flags,
            *self.version,
            self.padding,
        )
        return header.ljust(self.header_size, b"\0") + self.payload + protected

    def digest(self) -> bytes:
        """Return the SHA-256 of `hashed`: what is signed, and the loader's measurement."""
        return hashlib.sha256(self.hashed()).digest()


def credentials(spec: ImageSpec, signer: Signer) -> tuple[Tlv, Tlv, Tlv]:
    """Return the unprotected TLVs of a well-made image: digest, full public key, signature."""
    digest = spec.digest()
    return Tlv(TlvType.SHA256, digest), Tlv(TlvType.PUBKEY, signer.spki), signer.signature(digest)


def assemble(spec: ImageSpec, unprotected: Sequence[Tlv]) -> bytes:
    """Return an image with these unprotected TLVs."""
    return spec.hashed() + area(UNPROTECTED_MAGIC, unprotected)


def forge(spec: ImageSpec, signer: Signer) -> bytes:
    """Return an image that is signed, whatever it is."""
    return assemble(spec, credentials(spec, signer))


def der_signature(r: bytes, s: bytes) -> bytes:
    """Return a DER sequence around two integers that are encoded already."""
    return bytes((0x30, len(r) + len(s))) + r + s


def der_integer(value: int) -> bytes:
    """Return a DER integer (X.690 8.3)."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
    return bytes((2, len(content))) + content
