"""The PSA token's claims: each one missing, mistyped, out of range."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st

from fuseline.errors import CborMalformed, EvidenceSignature, PsaClaims
from fuseline.formats import cbor, cose, psa

VECTORS = Path(__file__).parents[3] / "shared/vectors/rfc9783"
COMPONENT = psa.SoftwareComponent("FW", b"m" * 32, b"s" * 48, "1.0.0")
TOKEN = psa.PsaToken(
    nonce=b"n" * 32,
    instance_id=b"\x01" + b"u" * 32,
    implementation_id=b"i" * 32,
    client_id=-1,
    lifecycle=psa.LIFECYCLE_SECURED,
    boot_seed=b"b" * 32,
    components=(COMPONENT,),
)
CLAIMS: dict[object, object] = dict(cbor.decode(psa.encode_claims(TOKEN)))
COMPONENT_CLAIMS: dict[object, object] = dict(COMPONENT.as_cbor().items())
REQUIRED = [
    psa.NONCE,
    psa.INSTANCE_ID,
    psa.PROFILE_CLAIM,
    psa.BOOT_SEED,
    psa.CLIENT_ID,
    psa.LIFECYCLE,
    psa.IMPLEMENTATION_ID,
    psa.SOFTWARE_COMPONENTS,
]


def refused(claims: object) -> None:
    with pytest.raises(PsaClaims):
        psa.decode_claims(cbor.encode(claims))


def test_claims_survive_the_way() -> None:
    assert psa.decode_claims(psa.encode_claims(TOKEN)) == TOKEN


@pytest.mark.parametrize("size", [32, 48, 64])
def test_all_digest_sizes_are_read(size: int) -> None:
    component = replace(COMPONENT, measurement_value=b"m" * size, signer_id=b"s" * size)
    token = replace(TOKEN, nonce=b"n" * size, components=(component,))
    assert psa.decode_claims(psa.encode_claims(token)) == token


@pytest.mark.parametrize("claim", REQUIRED)
def test_a_missing_claim_is_refused(claim: int) -> None:
    refused({key: value for key, value in CLAIMS.items() if key != claim})


@pytest.mark.parametrize("claim", REQUIRED)
@pytest.mark.parametrize(
    "value", [None, True, False, 1.5, "text", [], {}, b"", cbor2.CBORTag(99, 1), -(2**40)]
)
def test_a_mistyped_claim_is_refused(claim: int, value: object) -> None:
    refused(CLAIMS | {claim: value})


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        (psa.NONCE, b"n" * 31),
        (psa.NONCE, b"n" * 33),
        (psa.NONCE, b"n" * 65),
        (psa.NONCE, [b"n" * 32, b"m" * 32]),  # EAT allows several nonces, RFC 9783 4.1.1 does not
        (psa.INSTANCE_ID, b"\x01" + b"u" * 31),
        (psa.INSTANCE_ID, b"\x01" + b"u" * 33),
        (psa.PROFILE_CLAIM, "http://arm.com/psa/2.0.0"),
        (psa.PROFILE_CLAIM, psa.PROFILE + " "),
        (psa.PROFILE_CLAIM, psa.PROFILE.encode()),
        (psa.BOOT_SEED, b"b" * 7),
        (psa.BOOT_SEED, b"b" * 33),
        (psa.CLIENT_ID, -(2**31) - 1),
        (psa.CLIENT_ID, 2**31),
        (psa.LIFECYCLE, -1),
        (psa.LIFECYCLE, 0x10000),
        (psa.LIFECYCLE, 12288.0),
        (psa.IMPLEMENTATION_ID, b"i" * 31),
        (psa.IMPLEMENTATION_ID, b"i" * 33),
        (psa.SOFTWARE_COMPONENTS, [COMPONENT_CLAIMS] * 33),
        (psa.SOFTWARE_COMPONENTS, COMPONENT_CLAIMS),
        (psa.SOFTWARE_COMPONENTS, [1]),
    ],
)
def test_a_claim_out_of_range_is_refused(claim: int, value: object) -> None:
    refused(CLAIMS | {claim: value})


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        (psa.CLIENT_ID, -(2**31)),
        (psa.CLIENT_ID, 2**31 - 1),
        (psa.LIFECYCLE, 0),
        (psa.LIFECYCLE, 0xFFFF),
        (psa.BOOT_SEED, b"b" * 8),
        (psa.SOFTWARE_COMPONENTS, [COMPONENT_CLAIMS] * 32),
    ],
)
def test_a_claim_at_its_limit_is_read(claim: int, value: object) -> None:
    psa.decode_claims(cbor.encode(CLAIMS | {claim: value}))


@pytest.mark.parametrize(
    "change",
    [
        {1: 1},
        {1: "r" * 129},
        {2: None},
        {2: b"m" * 31},
        {2: "m" * 32},
        {4: 1},
        {4: "v" * 129},
        {5: None},
        {5: b"s" * 33},
        {6: b"sha-256"},
    ],
)
def test_a_bad_member_of_a_component_is_refused(change: dict[object, object]) -> None:
    refused(CLAIMS | {psa.SOFTWARE_COMPONENTS: [COMPONENT_CLAIMS, COMPONENT_CLAIMS | change]})


@pytest.mark.parametrize("member", [2, 5])
def test_a_component_has_a_value_and_a_signer(member: int) -> None:
    bare = {key: value for key, value in COMPONENT_CLAIMS.items() if key != member}
    refused(CLAIMS | {psa.SOFTWARE_COMPONENTS: [bare]})


def test_a_component_needs_no_more_than_that() -> None:
    bare = {2: b"m" * 32, 5: b"s" * 32}
    [component] = psa.decode_claims(cbor.encode(CLAIMS | {psa.SOFTWARE_COMPONENTS: [bare]})).components
    assert (component.measurement_type, component.version) == ("", "")


def test_unknown_claims_are_passed_over() -> None:
    more: dict[object, object] = {2400: "https://verifier.example", -75000: [1, {2: 3}], "vendor": b"x"}
    unknown_member = COMPONENT_CLAIMS | {7: "unknown"}
    claims = CLAIMS | more | {psa.SOFTWARE_COMPONENTS: [unknown_member]}
    assert psa.decode_claims(cbor.encode(claims)) == TOKEN


@pytest.mark.parametrize("claims", [[], 1, "x", None, b"", cbor2.CBORTag(601, CLAIMS)])
def test_claims_that_are_no_map_are_refused(claims: object) -> None:
    refused(claims)


def test_a_claim_given_twice_is_malformed() -> None:
    raw = psa.encode_claims(TOKEN)
    assert raw[0] == 0xA8
    twice = b"\xa9" + raw[1:] + b"\x0a\x58\x20" + b"m" * 32
    with pytest.raises(CborMalformed):
        psa.decode_claims(twice)


@given(st.binary(max_size=300))
def test_any_bytes_are_claims_or_refused(raw: bytes) -> None:
    with pytest.raises((PsaClaims, CborMalformed)):
        psa.decode_claims(raw)


def test_the_instance_is_bound_to_its_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert psa.instance_id_of(key) == b"\x01" + hashlib.sha256(point).digest()


@pytest.mark.interop
@pytest.mark.skipif(not VECTORS.is_dir(), reason="the example tokens of RFC 9783 are not here")
def test_the_claims_of_rfc_9783_are_read() -> None:
    key = load_pem_public_key((VECTORS / "tfm-es-iak-pub.pem").read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    raw = (VECTORS / "psa-sign1.cbor").read_bytes()
    token = psa.decode_claims(cose.verify_sign1(raw, key, refused=EvidenceSignature).payload)
    assert token == psa.PsaToken(
        nonce=b"\x01" * 32,
        instance_id=b"\x01" + b"\x02" * 32,
        implementation_id=b"\x00" * 32,
        client_id=2**31 - 1,
        lifecycle=0x3000,
        boot_seed=b"\x00" * 8,
        components=(psa.SoftwareComponent("PRoT", b"\x03" * 32, b"\x04" * 32),),
    )
