"""COSE_Sign1: every way to change a token, its key or its context."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fuseline.errors import CborMalformed, CoseMalformed, EvidenceSignature, FuselineError
from fuseline.formats import cbor, cose, psa

VECTORS = Path(__file__).parents[3] / "shared/vectors/rfc9783"
KEY = ec.generate_private_key(ec.SECP256R1())
PAYLOAD = b"a claims set"
AAD = b"a context"
TOKEN = cose.sign1(PAYLOAD, cose.signer_for(KEY), external_aad=AAD)
REFUSALS = (CborMalformed, CoseMalformed, EvidenceSignature)

# SEC 2 2.4.2: the order of P-256's group.
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def verify(token: bytes, *, key: ec.EllipticCurvePrivateKey = KEY, aad: bytes = AAD) -> cose.VerifiedSign1:
    return cose.verify_sign1(token, key.public_key(), refused=EvidenceSignature, external_aad=aad)


def refusal(token: bytes) -> FuselineError:
    with pytest.raises(REFUSALS) as caught:
        verify(token)
    return caught.value


def signed(protected: bytes, unprotected: object, *, tag: int = cose.TAG_SIGN1) -> bytes:
    """Sign with the right key whatever stands in the headers."""
    structure = cbor.encode(["Signature1", protected, AAD, PAYLOAD])
    signature = cose.der_to_raw(cose.signer_for(KEY)(hashlib.sha256(structure).digest()))
    return cbor.encode(cbor2.CBORTag(tag, [protected, unprotected, PAYLOAD, signature]))


def with_signature(signature: bytes) -> bytes:
    protected, unprotected, payload, _ = cbor.decode(TOKEN).value
    return cbor.encode(cbor2.CBORTag(cose.TAG_SIGN1, [protected, unprotected, payload, signature]))


def test_a_good_token_verifies_to_its_payload() -> None:
    assert verify(TOKEN) == cose.VerifiedSign1(PAYLOAD)
    assert verify(signed(cbor.encode({cose.HEADER_ALG: cose.ES256}), {})).payload == PAYLOAD


def test_every_single_bit_flip_is_refused() -> None:
    for position in range(len(TOKEN) * 8):
        flipped = bytearray(TOKEN)
        flipped[position // 8] ^= 1 << position % 8
        assert refusal(bytes(flipped)).code.startswith("E_"), position
    assert verify(TOKEN).payload == PAYLOAD


def test_a_token_cut_or_lengthened_anywhere_is_malformed() -> None:
    for end in range(len(TOKEN)):
        assert isinstance(refusal(TOKEN[:end]), CborMalformed)
    assert isinstance(refusal(TOKEN + b"\x00"), CborMalformed)


def test_another_key_is_refused() -> None:
    with pytest.raises(EvidenceSignature):
        verify(TOKEN, key=ec.generate_private_key(ec.SECP256R1()))


@pytest.mark.parametrize("aad", [b"", AAD[:-1], AAD + b"\0", b"another context"])
def test_a_signature_means_nothing_in_another_context(aad: bytes) -> None:
    with pytest.raises(EvidenceSignature):
        verify(TOKEN, aad=aad)


@pytest.mark.parametrize("alg", [-35, -36, -8, -257, 5, 0, 7, "ES256", None, b"\xf9"])
def test_a_token_cannot_choose_its_algorithm(alg: object) -> None:
    assert isinstance(refusal(signed(cbor.encode({cose.HEADER_ALG: alg}), {})), CoseMalformed)


@pytest.mark.parametrize("critical", [[1], [], [4], None])
def test_critical_headers_are_refused(critical: object) -> None:
    protected = cbor.encode({cose.HEADER_ALG: cose.ES256, cose.HEADER_CRIT: critical})
    assert isinstance(refusal(signed(protected, {})), CoseMalformed)


@pytest.mark.parametrize("unprotected", [{1: -7}, {4: b"kid"}, {2: [1]}, {"x": 1}, {33: b"chain"}])
def test_nothing_may_stand_outside_the_signature(unprotected: object) -> None:
    token = signed(cbor.encode({cose.HEADER_ALG: cose.ES256}), unprotected)
    assert isinstance(refusal(token), CoseMalformed)


@pytest.mark.parametrize("unprotected", [[], None, 0, "", b""])
def test_the_unprotected_header_is_a_map(unprotected: object) -> None:
    token = signed(cbor.encode({cose.HEADER_ALG: cose.ES256}), unprotected)
    assert isinstance(refusal(token), CoseMalformed)


@pytest.mark.parametrize("protected", [b"\x80", b"\x01", b"\xa1\x01", b"\xa2\x01\x26\x01\x26", b"\xa0\x00"])
def test_the_protected_header_is_one_strict_map(protected: bytes) -> None:
    assert isinstance(refusal(signed(protected, {})), CoseMalformed)


def test_an_empty_protected_header_leaves_the_anchor_s_algorithm() -> None:
    assert verify(signed(b"", {})).payload == PAYLOAD


@pytest.mark.parametrize("tag", [17, 96, 97, 98, 61])
def test_another_structure_s_tag_is_refused(tag: int) -> None:
    assert isinstance(refusal(signed(cbor.encode({1: -7}), {}, tag=tag)), CoseMalformed)


def test_an_untagged_or_misshapen_body_is_refused() -> None:
    body = list(cbor.decode(TOKEN).value)
    shapes: list[object] = [body, body[:3], {}, 1, None]
    shapes += [cbor2.CBORTag(18, body[:3]), cbor2.CBORTag(18, [*body, 0]), cbor2.CBORTag(18, 0)]
    # RFC 9052 4.2: a detached payload is nil; nothing here detaches one.
    shapes += [cbor2.CBORTag(18, [body[0], {}, None, body[3]]), cbor2.CBORTag(18, [{}, {}, body[2], body[3]])]
    for shape in shapes:
        assert isinstance(refusal(cbor.encode(shape)), CoseMalformed)


@pytest.mark.parametrize("length", [0, 1, 63, 65, 96, 128])
def test_a_signature_of_another_length_is_malformed(length: int) -> None:
    assert isinstance(refusal(with_signature(b"\x01" * length)), CoseMalformed)


@pytest.mark.parametrize("r", [0, 1, ORDER - 1, ORDER, 2**256 - 1])
@pytest.mark.parametrize("s", [0, 1, ORDER - 1, ORDER, 2**256 - 1])
def test_degenerate_signatures_are_refused(r: int, s: int) -> None:
    # CVE-2022-21449: r = s = 0 verified for every message.
    assert isinstance(refusal(with_signature(r.to_bytes(32) + s.to_bytes(32))), EvidenceSignature)


def test_the_mirrored_signature_is_the_same_statement() -> None:
    # ECDSA cannot tell (r, s) from (r, n - s). So a token's bytes are no identity: replays are stopped by
    # the spent nonce, and the mirrored token says nothing that the first did not.
    signature = cbor.decode(TOKEN).value[3]
    s = int.from_bytes(signature[32:])
    assert verify(with_signature(signature[:32] + (ORDER - s).to_bytes(32))).payload == PAYLOAD


def test_raw_and_der_signatures_are_one() -> None:
    der = cose.signer_for(KEY)(hashlib.sha256(b"x").digest())
    assert cose.raw_to_der(cose.der_to_raw(der)) == der
    assert cose.der_to_raw(cose.raw_to_der(b"\0" * 31 + b"\1" + b"\0" * 31 + b"\2"))[31::32] == b"\1\2"


@pytest.mark.interop
@pytest.mark.skipif(not VECTORS.is_dir(), reason="the example tokens of RFC 9783 are not here")
def test_the_token_of_rfc_9783_verifies_and_its_flips_do_not() -> None:
    key = load_pem_public_key((VECTORS / "tfm-es-iak-pub.pem").read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    raw = (VECTORS / "psa-sign1.cbor").read_bytes()
    claims = psa.decode_claims(cose.verify_sign1(raw, key, refused=EvidenceSignature).payload)
    assert claims.nonce == b"\x01" * 32
    for position in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(REFUSALS):
            cose.verify_sign1(bytes(flipped), key, refused=EvidenceSignature)


@pytest.mark.interop
@pytest.mark.skipif(not VECTORS.is_dir(), reason="the example tokens of RFC 9783 are not here")
def test_the_mac0_token_of_rfc_9783_is_not_a_signature() -> None:
    assert isinstance(refusal((VECTORS / "psa-mac0.cbor").read_bytes()), CoseMalformed)
