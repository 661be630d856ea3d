"""EAT Attestation Results as a JWT (draft-ietf-rats-ear-03), with AR4SI trust tiers."""

from __future__ import annotations

import base64
import enum
import hashlib
from dataclasses import dataclass, field
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fuseline.errors import ResultMalformed
from fuseline.formats.cose import DigestSigner, der_to_raw, raw_to_der

PROFILE = "tag:ietf.org,2026:rats/ear#03"
MEDIA_TYPE = f'application/eat+jwt; eat_profile="{PROFILE}"'  # RFC 9782 2


class Tier(enum.StrEnum):
    """AR4SI trustworthiness tiers, as EAR writes them in JSON."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"


# draft-ietf-rats-ar4si 2.3.4: values inside the trustworthiness vector that we assert.
GENUINE = 2  # instance-identity: trustworthy instance; executables: approved at boot
CONTRAINDICATED_EXECUTABLES = 96


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """What the verifier says about one piece of evidence.

    Attributes:
        status: Overall tier.
        vector: AR4SI trustworthiness claims by name.
        nonce: The challenge the evidence answered.
        issued_at: Seconds since the epoch.
        policy_id: The appraisal policy that decided.
        submodule: Name of the attester inside the result.
        verifier_claims: What the verifier adds: device, release matched, reason.
    """

    status: Tier
    vector: dict[str, int]
    nonce: bytes
    issued_at: int
    policy_id: str
    submodule: str = "PSA_IOT"
    verifier_claims: dict[str, Any] = field(default_factory=dict)


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise ResultMalformed("not base64url") from error
    if _b64(raw) != text:
        # RFC 4648 3.5: spare bits are zero; else one result could be written in many ways.
        raise ResultMalformed("not base64url as RFC 7515 writes it")
    return raw


def encode(result: AttestationResult, sign: DigestSigner, *, developer: str, build: str, key_id: str) -> str:
    """Sign a result as a compact JWS with ES256 (RFC 7515 7.1, RFC 7518 3.4).

    Args:
        result: The result.
        sign: The verifier's key, as a signer of SHA-256 digests.
        developer: `ear_verifier_id` developer, a URI or name.
        build: `ear_verifier_id` build, product and version.
        key_id: `kid` header of the JWS.
    """
    header = {"alg": "ES256", "kid": key_id, "typ": "eat+jwt"}
    claims = {
        "eat_profile": PROFILE,
        "iat": result.issued_at,
        "ear_verifier_id": {"developer": developer, "build": build},
        "eat_nonce": _b64(result.nonce),
        "submods": {
            result.submodule: {
                "ear_status": result.status.value,
                "ear_trustworthiness_vector": result.vector,
                "ear_appraisal_policy_ids": [result.policy_id],
                "ear_verifier_claims": result.verifier_claims,
            }
        },
    }
    signing_input = f"{_b64(msgspec.json.encode(header))}.{_b64(msgspec.json.encode(claims))}"
    signature = der_to_raw(sign(hashlib.sha256(signing_input.encode()).digest()))
    return f"{signing_input}.{_b64(signature)}"


def verify(token: str, key: ec.EllipticCurvePublicKey) -> AttestationResult:
    """Verify a result's signature and profile and return what it says.

    Raises:
        ResultMalformed: Not an ES256 JWS under this key, or not an EAR of this profile.
    """
    try:
        header64, claims64, signature64 = token.split(".")
        header = msgspec.json.decode(_unb64(header64), type=dict[str, Any])
    except (ValueError, msgspec.DecodeError) as error:
        raise ResultMalformed("not a compact JWS") from error
    claims, signature = _unb64(claims64), _unb64(signature64)
    if header.get("alg") != "ES256" or len(signature) != 64:
        raise ResultMalformed("not an ES256 JWS", alg=str(header.get("alg")))
    try:
        key.verify(raw_to_der(signature), f"{header64}.{claims64}".encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise ResultMalformed("the result is not signed by this verifier") from error
    return _decode_claims(claims)


def decode_unverified(token: str) -> AttestationResult:
    """Return what a result says without knowing who says it: for showing, never for deciding.

    Raises:
        ResultMalformed: Not a compact JWS, or not an EAR of this profile.
    """
    try:
        _, claims64, _ = token.split(".")
    except ValueError as error:
        raise ResultMalformed("not a compact JWS") from error
    return _decode_claims(_unb64(claims64))


def _decode_claims(raw: bytes) -> AttestationResult:
    try:
        claims = msgspec.json.decode(raw, type=dict[str, Any])
        if claims["eat_profile"] != PROFILE:
            raise ResultMalformed("another EAR profile", profile=claims["eat_profile"])
        [(name, submodule)] = claims["submods"].items()
        return AttestationResult(
            status=Tier(submodule["ear_status"]),
            vector=submodule["ear_trustworthiness_vector"],
            nonce=_unb64(claims["eat_nonce"]),
            issued_at=claims["iat"],
            policy_id=submodule["ear_appraisal_policy_ids"][0],
            submodule=name,
            verifier_claims=submodule.get("ear_verifier_claims", {}),
        )
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, msgspec.DecodeError) as error:
        raise ResultMalformed("not an EAR claims set") from error
