"""The crypto block: hashes, ciphers, and signature checks that do not decide.

A signature check here returns the value that a right signature would have named, recovered from key, message
and signature. Whether the two are equal is for the machine code to see (FIPS 186-5 6.4.2 step 7 and RFC 8032
5.1.7 step 3 end with that comparison): no answer of this block says "yes".
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_core_ed25519_sub,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_scalarmult_ed25519_noclamp,
)

from fuseline.errors import SignaturePoint

P256: Final = ec.SECP256R1()
P256_P: Final = 0xFFFFFFFF_00000001_00000000_00000000_00000000_FFFFFFFF_FFFFFFFF_FFFFFFFF
P256_N: Final = 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551
P256_B: Final = 0x5AC635D8_AA3A93E7_B3EBBD55_769886BC_651D06B0_CC53B0F6_3BCE3C3E_27D2604B
"""Field, order and coefficient b of P-256 (SP 800-186 3.2.1.3); a is -3."""

ED25519_L: Final = 2**252 + 27742317777372353535851937790883648493
"""Order of edwards25519's base point (RFC 8032 5.1)."""
_ED25519_IDENTITY: Final = b"\x01" + bytes(31)

_HASH_LENGTH: Final = 32
HKDF_MAX: Final = 255 * _HASH_LENGTH
"""RFC 5869 2.3."""

_REMEMBERED: Final = 16
"""Recovered values kept: a rehearsal checks the same few signatures thousands of times."""

Point = tuple[int, int]


def hkdf_extract(salt: bytes, key: bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869 2.2)."""
    return hmac.digest(salt or bytes(_HASH_LENGTH), key, "sha256")


def hkdf_expand(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869 2.3).

    Raises:
        RuntimeError: `length` is over `HKDF_MAX`.
    """
    if length > HKDF_MAX:
        raise RuntimeError(f"HKDF gives at most {HKDF_MAX} octets")
    block = output = hmac.digest(secret, info + b"\x01", "sha256")
    count = 1
    while len(output) < length:
        count += 1
        block = hmac.digest(secret, block + info + bytes((count,)), "sha256")
        output += block
    return output[:length]


def aes_ctr(key: bytes, counter: bytes, data: bytes) -> bytes:
    """AES-128 or AES-256 in counter mode (SP 800-38A 6.5); the whole block counts, big-endian.

    Args:
        key: 16 or 32 octets.
        counter: Initial counter block, 16 octets.
        data: To encrypt or to decrypt.
    """
    encryptor = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def _on_p256(point: Point) -> bool:
    x, y = point
    return x < P256_P and y < P256_P and (y * y - x * x * x + 3 * x - P256_B) % P256_P == 0


def _add_p256(left: Point, right: Point) -> Point:
    """Add two affine points of P-256.

    Raises:
        SignaturePoint: They add up to the point at infinity.
    """
    (x1, y1), (x2, y2) = left, right
    if x1 != x2:
        slope = (y2 - y1) * pow(x2 - x1, -1, P256_P)
    elif (y1 + y2) % P256_P:
        slope = (3 * x1 * x1 - 3) * pow(2 * y1, -1, P256_P)
    else:
        raise SignaturePoint("the signature leads to the point at infinity")
    x3 = (slope * slope - x1 - x2) % P256_P
    return x3, (slope * (x1 - x3) - y1) % P256_P


@functools.lru_cache(maxsize=_REMEMBERED)
def ecdsa_p256_recover(public_key: bytes, digest: bytes, signature: bytes) -> bytes:
    """Return r' = x(s^-1 e G + s^-1 r Q) mod n (FIPS 186-5 6.4.2 steps 3 to 6).

    With u1 = e / s and u2 = r / s that point is u2 (t G + Q), t = u1 / u2: one base point multiplication, one
    addition, and one multiplication of which ECDH gives the x coordinate.

    Args:
        public_key: X || Y, 64 octets.
        digest: 32 octets.
        signature: r || s, 64 octets.

    Returns:
        32 octets, big-endian.

    Raises:
        SignaturePoint: r or s not in 1..n-1, key not on the curve, or no such point.
    """
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (0 < r < P256_N and 0 < s < P256_N):
        raise SignaturePoint("r or s is out of range")
    point = int.from_bytes(public_key[:32], "big"), int.from_bytes(public_key[32:], "big")
    if not _on_p256(point):
        raise SignaturePoint("the public key is not on the curve")
    # One inverse for both: 1 / r = s / (r s), r / s = r^2 / (r s).
    inverse = pow(r * s, -1, P256_N)
    t = int.from_bytes(digest, "big") * s * inverse % P256_N
    if t:
        base = ec.derive_private_key(t, P256).public_key().public_numbers()
        point = _add_p256((base.x, base.y), point)
    encoded = b"\x04" + point[0].to_bytes(32, "big") + point[1].to_bytes(32, "big")
    scalar = ec.derive_private_key(r * r * inverse % P256_N, P256)
    x = scalar.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(P256, encoded))
    return (int.from_bytes(x, "big") % P256_N).to_bytes(32, "big")


@functools.lru_cache(maxsize=_REMEMBERED)
def ed25519_recover(public_key: bytes, message: bytes, signature: bytes) -> bytes:
    """Return R' = S B - k A (RFC 8032 5.1.7, without cofactor).

    Args:
        public_key: A, 32 octets.
        message: As signed.
        signature: R || S, 64 octets.

    Returns:
        R', 32 octets.

    Raises:
        SignaturePoint: S >= L, or A is not a canonical point of prime order: keys of small or mixed order,
            which RFC 8032 leaves to the verifier, are refused.
    """
    s = int.from_bytes(signature[32:], "little")
    if s >= ED25519_L:
        raise SignaturePoint("S is out of range")
    if not crypto_core_ed25519_is_valid_point(public_key):
        raise SignaturePoint("the public key is not a point of prime order")
    k = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little") % ED25519_L
    # libsodium refuses products that are the identity; the two scalars 0 give it.
    left = crypto_scalarmult_ed25519_base_noclamp(signature[32:]) if s else _ED25519_IDENTITY
    if k == 0:
        return left
    return crypto_core_ed25519_sub(
        left, crypto_scalarmult_ed25519_noclamp(k.to_bytes(32, "little"), public_key)
    )
