"""The PSA attestation token's claims, profile `tag:psacertified.org,2023:psa#tfm` (RFC 9783)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fuseline.errors import PsaClaims
from fuseline.formats import cbor

PROFILE = "tag:psacertified.org,2023:psa#tfm"  # RFC 9783 4.5.2
# RFC 9782 2: the media type names the profile.
MEDIA_TYPE = f'application/eat+cwt; eat_profile="{PROFILE}"'

# Claim keys, RFC 9783 table 1 and the sections beside them.
NONCE = 10  # 4.1.1
INSTANCE_ID = 256  # 4.2.1 (EAT ueid)
PROFILE_CLAIM = 265  # 4.5.2
BOOT_SEED = 268  # 4.3.2
CLIENT_ID = 2394  # 4.1.2
LIFECYCLE = 2395  # 4.3.1
IMPLEMENTATION_ID = 2396  # 4.2.2
SOFTWARE_COMPONENTS = 2399  # 4.4.1

# Keys inside a software component, RFC 9783 4.4.1.
_TYPE, _VALUE, _VERSION, _SIGNER, _DESCRIPTION = 1, 2, 4, 5, 6

LIFECYCLE_SECURED = 0x3000  # RFC 9783 4.3.1: 0x3000-0x30ff
_DIGESTS = (32, 48, 64)  # bytes of SHA-256, SHA-384, SHA-512
_UEID_RAND = 0x01  # RFC 9783 4.2.1: the UEID type byte for a 256-bit RAND
_MAX_COMPONENTS = 32  # RFC 9783 sets no bound; a boot chain has a handful


@dataclass(frozen=True, slots=True)
class SoftwareComponent:
    """One measured software component (RFC 9783 4.4.1).

    Attributes:
        measurement_type: Role in the boot chain, for instance ``BL`` or ``APP``.
        measurement_value: Digest of the component, 32, 48 or 64 bytes.
        signer_id: Digest of the signer's public key, 32, 48 or 64 bytes.
        version: Version as text.
        measurement_description: Name of the hash, for instance ``sha-256``.
    """

    measurement_type: str
    measurement_value: bytes
    signer_id: bytes
    version: str = ""
    measurement_description: str = "sha-256"

    def as_cbor(self) -> dict[int, Any]:
        """Return the component as its CBOR map."""
        return {
            _TYPE: self.measurement_type,
            _VALUE: self.measurement_value,
            _VERSION: self.version,
            _SIGNER: self.signer_id,
            _DESCRIPTION: self.measurement_description,
        }

    @classmethod
    def from_cbor(cls, item: object) -> SoftwareComponent:
        """Read a component map.

        Raises:
            PsaClaims: A member is missing or of the wrong type.
        """
        if not isinstance(item, Mapping):
            raise PsaClaims("a software component is a map")
        return cls(
            measurement_type=_text(item.get(_TYPE, ""), "measurement-type"),
            measurement_value=_digest(item.get(_VALUE), "measurement-value"),
            signer_id=_digest(item.get(_SIGNER), "signer-id"),
            version=_text(item.get(_VERSION, ""), "version"),
            measurement_description=_text(item.get(_DESCRIPTION, "sha-256"), "measurement-desc"),
        )


@dataclass(frozen=True, slots=True)
class PsaToken:
    """The claims of a PSA token.

    Attributes:
        nonce: The verifier's challenge, 32, 48 or 64 bytes.
        instance_id: UEID, 0x01 followed by 32 bytes (`instance_id_of`).
        implementation_id: 32 bytes naming the hardware and its immutable root of trust.
        client_id: Caller's partition; negative is non-secure.
        lifecycle: Security lifecycle state, 0x0000 to 0xffff.
        boot_seed: 8 to 32 random bytes fixed for one boot.
        components: Everything measured, in boot order.
    """

    nonce: bytes
    instance_id: bytes
    implementation_id: bytes
    client_id: int
    lifecycle: int
    boot_seed: bytes
    components: tuple[SoftwareComponent, ...]


def instance_id_of(attestation_key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the UEID of an attestation key: 0x01 || SHA-256 of the uncompressed point.

    RFC 9783 4.2.1 binds the instance to its initial attestation key.
    """
    point = attestation_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return bytes([_UEID_RAND]) + hashlib.sha256(point).digest()


def encode_claims(token: PsaToken) -> bytes:
    """Encode the claims as a CBOR map, ready to be signed."""
    return cbor.encode(
        {
            PROFILE_CLAIM: PROFILE,
            NONCE: token.nonce,
            INSTANCE_ID: token.instance_id,
            IMPLEMENTATION_ID: token.implementation_id,
            CLIENT_ID: token.client_id,
            LIFECYCLE: token.lifecycle,
            BOOT_SEED: token.boot_seed,
            SOFTWARE_COMPONENTS: [component.as_cbor() for component in token.components],
        }
    )


def decode_claims(raw: bytes) -> PsaToken:
    """Decode and check the claims' types and ranges; unknown claims are passed over (RFC 9783 4).

    Raises:
        CborMalformed: Not strict CBOR.
        PsaClaims: Another profile, or a claim missing, mistyped or out of range.
    """
    claims = cbor.decode(raw)
    if not isinstance(claims, Mapping):
        raise PsaClaims("the claims are a map")
    if claims.get(PROFILE_CLAIM) != PROFILE:
        raise PsaClaims("another profile", profile=str(claims.get(PROFILE_CLAIM))[:80])
    return PsaToken(
        nonce=_digest(claims.get(NONCE), "nonce"),
        instance_id=_bytes(claims.get(INSTANCE_ID), "instance-id", 33, 33),
        implementation_id=_bytes(claims.get(IMPLEMENTATION_ID), "implementation-id", 32, 32),
        client_id=_integer(claims.get(CLIENT_ID), "client-id", -(2**31), 2**31 - 1),
        lifecycle=_integer(claims.get(LIFECYCLE), "lifecycle", 0, 0xFFFF),
        boot_seed=_bytes(claims.get(BOOT_SEED), "boot-seed", 8, 32),
        components=_components(claims.get(SOFTWARE_COMPONENTS)),
    )


def _components(value: object) -> tuple[SoftwareComponent, ...]:
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= _MAX_COMPONENTS:
        raise PsaClaims("software-components is an array of 1 to 32 maps")
    return tuple(SoftwareComponent.from_cbor(item) for item in value)


def _bytes(value: object, name: str, low: int, high: int) -> bytes:
    if not isinstance(value, bytes) or not low <= len(value) <= high:
        raise PsaClaims(f"{name} is a byte string of {low} to {high} bytes")
    return value


def _digest(value: object, name: str) -> bytes:
    if not isinstance(value, bytes) or len(value) not in _DIGESTS:
        raise PsaClaims(f"{name} is a byte string of 32, 48 or 64 bytes")
    return value


def _integer(value: object, name: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise PsaClaims(f"{name} is an integer from {low} to {high}")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > 128:
        raise PsaClaims(f"{name} is a text of at most 128 characters")
    return value
