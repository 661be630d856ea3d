"""The manufacturing manifest: which devices a factory made, with which keys.

Two files. ``NAME.jsonl`` has one JSON object a line, one device each, so that a million devices stream
through constant memory. ``NAME.sig`` is a COSE_Sign1 by the factory over the file's SHA-256 and its
number of devices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from fuseline.errors import ManifestMalformed, ManifestSignature
from fuseline.formats import cbor
from fuseline.formats.cose import DigestSigner, sign1, verify_sign1

# Keeps a signature made for a manifest from meaning anything elsewhere (RFC 9052 4.3).
_CONTEXT = b"fuseline manufacturing manifest 1"


class ManifestEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One device as it left the factory.

    Attributes:
        name: The dNSName in its IDevID.
        idevid_serial: Serial number of the IDevID certificate, lower-case hex.
        idevid_key_sha256: SHA-256 of the IDevID's SubjectPublicKeyInfo, hex.
        attestation_key: SubjectPublicKeyInfo of the attestation key, DER in base64.
        implementation_id: 32 bytes, hex (RFC 9783 4.2.2).
        vendor: Vendor domain of the hardware class.
        hardware: Name of the hardware class.
    """

    name: str
    idevid_serial: str
    idevid_key_sha256: str
    attestation_key: bytes
    implementation_id: str
    vendor: str
    hardware: str


@dataclass(frozen=True, slots=True)
class VerifiedManifest:
    """A manifest file's digest and size, as the factory signed them."""

    sha256: bytes
    devices: int


def encode_entries(entries: Iterable[ManifestEntry]) -> bytes:
    """Encode the device lines."""
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


def sign(body: bytes, signer: DigestSigner) -> bytes:
    """Sign an encoded manifest with the factory's key."""
    statement = {"sha256": hashlib.sha256(body).digest(), "devices": body.count(b"\n")}
    return sign1(cbor.encode(statement), signer, external_aad=_CONTEXT)


def verify(sha256: bytes, signature: bytes, factory_key: ec.EllipticCurvePublicKey) -> VerifiedManifest:
    """Check a manifest's signature against the digest of its file.

    Raises:
        ManifestSignature: Not signed by this factory, or the file was changed.
        ManifestMalformed: Signed, without a number of devices.
    """
    verified = verify_sign1(signature, factory_key, refused=ManifestSignature, external_aad=_CONTEXT)
    statement = cbor.decode(verified.payload)
    if not isinstance(statement, dict) or statement.get("sha256") != sha256:
        raise ManifestSignature("the manifest is not the one that was signed", sha256=sha256.hex())
    devices = statement.get("devices")
    if type(devices) is not int or devices < 0:
        raise ManifestMalformed("the signed statement does not say how many devices there are")
    return VerifiedManifest(sha256, devices)


def decode_entries(lines: Iterable[bytes], manifest: VerifiedManifest) -> Iterator[ManifestEntry]:
    """Decode the device lines of a manifest that was verified.

    Raises:
        ManifestMalformed: A line is not a device, or the number of lines is not the signed one.
    """
    decoder = msgspec.json.Decoder(ManifestEntry)
    number = 0
    for number, line in enumerate(lines, 1):
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError as error:
            raise ManifestMalformed(f"line {number}: {error}", line=number) from error
    if number != manifest.devices:
        raise ManifestMalformed("lines are missing", lines=number, signed=manifest.devices)
