"""COSE_Sign1 with ES256 (RFC 9052 4.2, RFC 9053 2.1).

Signing is by digest, so that the key may live in a secure element. The algorithm comes from the trust
anchor: a token may repeat it, never choose it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)

from fuseline.errors import CborMalformed, CoseMalformed, FuselineError
from fuseline.formats import cbor

TAG_SIGN1 = 18  # RFC 9052 table 1
HEADER_ALG = 1  # RFC 9052 table 3
HEADER_CRIT = 2
ES256 = -7  # RFC 9053 table 1
_SCALAR = 32  # bytes of r and of s for P-256

DigestSigner = Callable[[bytes], bytes]
"""SHA-256 digest (32 bytes) to a DER ECDSA-Sig-Value."""


@dataclass(frozen=True, slots=True)
class VerifiedSign1:
    """A COSE_Sign1 whose signature verified; made by `verify_sign1` only."""

    payload: bytes


def signer_for(key: ec.EllipticCurvePrivateKey) -> DigestSigner:
    """Return a digest signer for a private key in this process."""
    return lambda digest: key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))


def der_to_raw(signature: bytes) -> bytes:
    """Turn a DER ECDSA-Sig-Value into the 64 bytes r || s (RFC 9053 2.1)."""
    r, s = decode_dss_signature(signature)
    return r.to_bytes(_SCALAR) + s.to_bytes(_SCALAR)


def raw_to_der(signature: bytes) -> bytes:
    """Turn the 64 bytes r || s into a DER ECDSA-Sig-Value."""
    return encode_dss_signature(
        int.from_bytes(signature[:_SCALAR]), int.from_bytes(signature[_SCALAR : 2 * _SCALAR])
    )


def _to_be_signed(protected: bytes, payload: bytes, external_aad: bytes) -> bytes:
    # RFC 9052 4.4: Sig_structure
    return cbor.encode(["Signature1", protected, external_aad, payload])


def sign1(payload: bytes, sign: DigestSigner, *, external_aad: bytes = b"") -> bytes:
    """Wrap a payload in a tagged COSE_Sign1 with ES256.

    Args:
        payload: The bytes to sign, carried inside.
        sign: The key, as a signer of SHA-256 digests.
        external_aad: Context that is signed but not carried (RFC 9052 4.3).
    """
    protected = cbor.encode({HEADER_ALG: ES256})
    digest = hashlib.sha256(_to_be_signed(protected, payload, external_aad)).digest()
    return cbor.encode(cbor2.CBORTag(TAG_SIGN1, [protected, {}, payload, der_to_raw(sign(digest))]))


def verify_sign1(
    raw: bytes,
    key: ec.EllipticCurvePublicKey,
    *,
    refused: type[FuselineError],
    external_aad: bytes = b"",
) -> VerifiedSign1:
    """Verify a tagged COSE_Sign1 under a P-256 trust anchor.

    Raises:
        CborMalformed: Not strict CBOR.
        CoseMalformed: Not a COSE_Sign1, an algorithm other than the anchor's, or a critical header.
        refused: The signature does not verify. The caller names the error, since only it knows what
            was signed.
    """
    protected, payload, signature = _parts(cbor.decode(raw))
    _check_headers(protected)
    try:
        key.verify(
            raw_to_der(signature),
            _to_be_signed(protected, payload, external_aad),
            ec.ECDSA(hashes.SHA256()),
        )
    except InvalidSignature as error:
        raise refused("the COSE signature does not verify under the trust anchor") from error
    return VerifiedSign1(payload)


def _parts(item: object) -> tuple[bytes, bytes, bytes]:
    # RFC 9052 4.2: COSE_Sign1 = [protected bstr, unprotected map, payload bstr / nil, signature bstr]
    if not isinstance(item, cbor2.CBORTag) or item.tag != TAG_SIGN1:
        raise CoseMalformed("not a COSE_Sign1 (tag 18)")
    body = item.value
    if not isinstance(body, (list, tuple)) or len(body) != 4:
        raise CoseMalformed("a COSE_Sign1 has four members")
    protected, unprotected, payload, signature = body
    if not isinstance(protected, bytes) or not isinstance(payload, bytes) or not isinstance(signature, bytes):
        raise CoseMalformed("protected header, payload and signature are byte strings")
    if not hasattr(unprotected, "keys"):
        raise CoseMalformed("the unprotected header is a map")
    if unprotected:
        # Nothing we act on may stand outside the signature.
        raise CoseMalformed("the unprotected header must be empty", labels=[str(k) for k in unprotected])
    if len(signature) != 2 * _SCALAR:
        raise CoseMalformed("an ES256 signature has 64 bytes", length=len(signature))
    return protected, payload, signature


def _check_headers(protected: bytes) -> None:
    try:
        headers = cbor.decode(protected) if protected else {}  # RFC 9052 3: empty map may be h''
    except CborMalformed as error:
        raise CoseMalformed("the protected header is not a CBOR map") from error
    if not isinstance(headers, dict):
        raise CoseMalformed("the protected header is not a CBOR map")
    if headers.get(HEADER_ALG, ES256) != ES256:
        raise CoseMalformed("the token states another algorithm than its trust anchor's ES256")
    if HEADER_CRIT in headers:
        raise CoseMalformed("critical headers are not understood here")  # RFC 9052 3.1
