"""Recovered values equal the signature's exactly when an independent verifier accepts it."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from fuseline.device.silicon.crypto_block import (
    ED25519_L,
    HKDF_MAX,
    P256_B,
    P256_N,
    P256_P,
    Point,
    _add_p256,
    aes_ctr,
    ecdsa_p256_recover,
    ed25519_recover,
    hkdf_expand,
    hkdf_extract,
)
from fuseline.errors import SignaturePoint

CURVE = ec.SECP256R1()
D = 0x1234_5678_9ABC_DEF0_0FED_CBA9_8765_4321_1111_2222_3333_4444_5555_6666_7777_8889
PRIVATE = ec.derive_private_key(D, CURVE)
DIGEST = hashlib.sha256(b"image").digest()


def octets(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(32, "big") for number in numbers)


def raw_key(key: ec.EllipticCurvePublicKey) -> bytes:
    numbers = key.public_numbers()
    return octets(numbers.x, numbers.y)


PUBLIC = raw_key(PRIVATE.public_key())


def sign(digest: bytes) -> bytes:
    return octets(
        *decode_dss_signature(
            PRIVATE.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()), deterministic_signing=True))
        )
    )


SIGNATURE = sign(DIGEST)


def ecdsa_accepts(public: bytes, digest: bytes, signature: bytes) -> bool:
    """The independent verifier: OpenSSL through cryptography."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(CURVE, b"\x04" + public)
        key.verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    except (InvalidSignature, ValueError):
        return False
    return True


def ecdsa_recovers(public: bytes, digest: bytes, signature: bytes) -> bool:
    try:
        return ecdsa_p256_recover(public, digest, signature) == signature[:32]
    except SignaturePoint:
        return False


def replaced(parts: list[bytes], index: int, value: bytes) -> list[bytes]:
    return [*parts[:index], value, *parts[index + 1 :]]


def multiply(scalar: int, point: Point) -> Point:
    total: Point | None = None
    for bit in reversed(range(scalar.bit_length())):
        total = None if total is None else _add_p256(total, total)
        if scalar >> bit & 1:
            total = point if total is None else _add_p256(total, point)
    assert total is not None
    return total


@settings(max_examples=60, deadline=None)
@given(d=st.integers(1, P256_N - 1), digest=st.binary(min_size=32, max_size=32))
def test_ecdsa_recovers_r_of_every_valid_signature(d: int, digest: bytes) -> None:
    key = ec.derive_private_key(d, CURVE)
    r, s = decode_dss_signature(key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()))))
    assert ecdsa_p256_recover(raw_key(key.public_key()), digest, octets(r, s)) == octets(r)
    # (r, n - s) is the same signature to ECDSA.
    assert ecdsa_p256_recover(raw_key(key.public_key()), digest, octets(r, P256_N - s)) == octets(r)


@pytest.mark.parametrize("part", range(3))
def test_ecdsa_no_single_bit_of_key_digest_or_signature_can_be_changed(part: int) -> None:
    whole = [PUBLIC, DIGEST, SIGNATURE]
    step = 5
    for bit in range(0, 8 * len(whole[part]), step):
        changed = bytearray(whole[part])
        changed[bit // 8] ^= 1 << bit % 8
        public, digest, signature = replaced(whole, part, bytes(changed))
        assert not ecdsa_recovers(public, digest, signature)
        assert not ecdsa_accepts(public, digest, signature)


@settings(max_examples=120, deadline=None)
@given(
    r=st.one_of(st.sampled_from([0, 1, P256_N - 1, P256_N, P256_P, 2**256 - 1]), st.integers(0, 2**256 - 1)),
    s=st.one_of(st.sampled_from([0, 1, P256_N - 1, P256_N, P256_P, 2**256 - 1]), st.integers(0, 2**256 - 1)),
    digest=st.sampled_from([bytes(32), b"\xff" * 32, octets(P256_N), octets(1), DIGEST]),
)
def test_ecdsa_agrees_with_openssl_on_edge_values(r: int, s: int, digest: bytes) -> None:
    signature = octets(r, s)
    assert ecdsa_recovers(PUBLIC, digest, signature) == ecdsa_accepts(PUBLIC, digest, signature)


@pytest.mark.parametrize("digest", [bytes(32), b"\xff" * 32, octets(P256_N), octets(P256_N - 1)])
def test_ecdsa_digests_at_the_edges_of_the_order_verify(digest: bytes) -> None:
    signature = sign(digest)
    assert ecdsa_accepts(PUBLIC, digest, signature)
    assert ecdsa_recovers(PUBLIC, digest, signature)


def test_ecdsa_a_digest_equal_modulo_the_order_is_the_same_digest() -> None:
    signature = sign(octets(5))
    assert ecdsa_accepts(PUBLIC, octets(P256_N + 5), signature)
    assert ecdsa_recovers(PUBLIC, octets(P256_N + 5), signature)


def test_ecdsa_both_points_of_the_sum_equal_is_a_doubling() -> None:
    k = 0xC0FFEE
    r = ec.derive_private_key(k, CURVE).public_key().public_numbers().x % P256_N
    e = D * r % P256_N
    signature = octets(r, 2 * r * D * pow(k, -1, P256_N) % P256_N)
    assert ecdsa_accepts(PUBLIC, octets(e), signature)
    assert ecdsa_recovers(PUBLIC, octets(e), signature)


def test_ecdsa_a_sum_at_infinity_fails() -> None:
    r, s = 0xABCDEF, 0x123456
    digest = octets(-D * r % P256_N)
    with pytest.raises(SignaturePoint):
        ecdsa_p256_recover(PUBLIC, digest, octets(r, s))
    assert not ecdsa_accepts(PUBLIC, digest, octets(r, s))


def test_ecdsa_an_x_coordinate_above_the_order_is_reduced() -> None:
    """R chosen with x >= n, and the key for which (x - n, 1) is a signature of zero."""
    x = next(
        x
        for x in range(P256_N, P256_P)
        if pow(x**3 - 3 * x + P256_B, (P256_P - 1) // 2, P256_P) == 1 and x > P256_N
    )
    y = pow(x**3 - 3 * x + P256_B, (P256_P + 1) // 4, P256_P)
    r = x - P256_N
    public = octets(*multiply(pow(r, -1, P256_N), (x, y)))
    signature = octets(r, 1)
    assert ecdsa_accepts(public, bytes(32), signature)
    assert ecdsa_recovers(public, bytes(32), signature)
    # Not reduced it would be another r, which nobody accepts.
    assert not ecdsa_recovers(public, bytes(32), octets(x, 1))


@pytest.mark.parametrize(
    "public",
    [
        bytes(64),
        octets(1, 1),
        octets(P256_P, 0),
        b"\xff" * 64,
        # The same x coordinate written with p added once is no canonical coordinate.
        PUBLIC[:32] + octets(P256_P - int.from_bytes(PUBLIC[32:], "big") + 1),
        octets(5 + P256_P, 0),
    ],
)
def test_ecdsa_a_key_that_is_no_point_fails(public: bytes) -> None:
    with pytest.raises(SignaturePoint):
        ecdsa_p256_recover(public, DIGEST, SIGNATURE)


def test_ecdsa_a_key_whose_coordinate_is_not_reduced_fails() -> None:
    square = next(x for x in range(5, 99) if pow(x**3 - 3 * x + P256_B, (P256_P - 1) // 2, P256_P) == 1)
    point = square, pow(square**3 - 3 * square + P256_B, (P256_P + 1) // 4, P256_P)
    # A signature for a key nobody has: with R = G + Q, (r, r) signs r.
    generator = ec.derive_private_key(1, CURVE).public_key().public_numbers()
    r = _add_p256((generator.x, generator.y), point)[0] % P256_N
    signature, digest = octets(r, r), octets(r)
    assert ecdsa_accepts(octets(*point), digest, signature)
    assert ecdsa_recovers(octets(*point), digest, signature)
    alias = octets(point[0] + P256_P, point[1])
    assert not ecdsa_accepts(alias, digest, signature)
    assert not ecdsa_recovers(alias, digest, signature)


ED_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ED_PUBLIC = ED_KEY.public_key().public_bytes_raw()


def ed25519_accepts(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def ed25519_recovers(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        return ed25519_recover(public, message, signature) == signature[:32]
    except SignaturePoint:
        return False


@settings(max_examples=60, deadline=None)
@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=300))
def test_ed25519_recovers_r_of_every_valid_signature(seed: bytes, message: bytes) -> None:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    signature = key.sign(message)
    assert ed25519_recover(key.public_key().public_bytes_raw(), message, signature) == signature[:32]


@pytest.mark.parametrize("part", range(3))
def test_ed25519_no_single_bit_of_key_message_or_signature_can_be_changed(part: int) -> None:
    whole = [ED_PUBLIC, b"message of the loader", ED_KEY.sign(b"message of the loader")]
    for bit in range(8 * len(whole[part])):
        changed = bytearray(whole[part])
        changed[bit // 8] ^= 1 << bit % 8
        public, message, signature = replaced(whole, part, bytes(changed))
        assert not ed25519_recovers(public, message, signature)
        assert not ed25519_accepts(public, message, signature)


@pytest.mark.parametrize("add", [ED25519_L, 2 * ED25519_L, 8 * ED25519_L])
def test_ed25519_an_s_that_is_not_reduced_fails(add: int) -> None:
    signature = ED_KEY.sign(b"m")
    s = int.from_bytes(signature[32:], "little") + add
    changed = signature[:32] + s.to_bytes(32, "little")
    with pytest.raises(SignaturePoint):
        ed25519_recover(ED_PUBLIC, b"m", changed)
    assert not ed25519_accepts(ED_PUBLIC, b"m", changed)


def test_ed25519_zero_as_s_is_computed_and_matches_nothing() -> None:
    signature = ED_KEY.sign(b"m")[:32] + bytes(32)
    assert ed25519_recover(ED_PUBLIC, b"m", signature) != signature[:32]
    assert not ed25519_accepts(ED_PUBLIC, b"m", signature)


@pytest.mark.parametrize(
    "public",
    [
        b"\x01" + bytes(31),  # the identity: with it, R = S B is a signature of everything
        bytes(32),  # order 4
        bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),  # order 2
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),  # order 8
        bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),  # 1, not reduced
        b"\x02" + bytes(31),  # no point
        b"\xff" * 32,
    ],
)
def test_ed25519_a_key_of_small_order_or_no_point_fails(public: bytes) -> None:
    forged = (
        bytes.fromhex("5866666666666666666666666666666666666666666666666666666666666666")
        + b"\x01"
        + bytes(31)
    )
    with pytest.raises(SignaturePoint):
        ed25519_recover(public, b"anything", forged)


def test_hkdf_is_that_of_rfc_5869() -> None:
    """RFC 5869 A.1."""
    prk = hkdf_extract(bytes.fromhex("000102030405060708090a0b0c"), b"\x0b" * 22)
    assert prk.hex() == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"
    okm = hkdf_expand(prk, bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"), 42)
    assert okm.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 64, 65, HKDF_MAX])
@pytest.mark.parametrize("salt", [b"", b"salt"])
def test_hkdf_agrees_with_cryptography_at_every_kind_of_length(length: int, salt: bytes) -> None:
    ours = hkdf_expand(hkdf_extract(salt, b"key"), b"info", length)
    assert len(ours) == length
    if length:
        assert ours == HKDF(hashes.SHA256(), length, salt or None, b"info").derive(b"key")


def test_hkdf_gives_no_more_than_it_can() -> None:
    with pytest.raises(RuntimeError):
        hkdf_expand(bytes(32), b"", HKDF_MAX + 1)


def test_aes_ctr_is_that_of_sp_800_38a() -> None:
    """SP 800-38A F.5.5, AES-256, first block."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    text = aes_ctr(key, counter, bytes.fromhex("6bc1bee22e409f96e93d7e117393172a"))
    assert text.hex() == "601ec313775789a5b7a7f504bbf3d228"


def test_aes_ctr_counts_over_the_whole_block() -> None:
    ecb = Cipher(algorithms.AES(bytes(16)), modes.ECB()).encryptor()
    assert aes_ctr(bytes(16), b"\xff" * 16, bytes(32)) == ecb.update(b"\xff" * 16 + bytes(16))
