"""Attestation results: one signer, one profile, one way to write each."""

from __future__ import annotations

import base64
import hashlib
import string
from dataclasses import replace

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from fuseline.errors import ResultMalformed
from fuseline.formats import cose, ear

KEY = ec.generate_private_key(ec.SECP256R1())
RESULT = ear.AttestationResult(
    status=ear.Tier.AFFIRMING,
    vector={"instance-identity": ear.GENUINE, "executables": ear.GENUINE},
    nonce=b"n" * 32,
    issued_at=1_700_000_000,
    policy_id="tag:example,2026:policy#1",
    verifier_claims={"release": "1.0.0"},
)


def encoded(result: ear.AttestationResult = RESULT, key: ec.EllipticCurvePrivateKey = KEY) -> str:
    return ear.encode(result, cose.signer_for(key), developer="tag:example", build="1", key_id="k")


TOKEN = encoded()


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def part(number: int) -> dict[str, object]:
    text = TOKEN.split(".")[number]
    return msgspec.json.decode(base64.urlsafe_b64decode(text + "=="), type=dict[str, object])


def signed(header: object, claims: object) -> str:
    """Sign anything with the verifier's key."""
    head = f"{b64(msgspec.json.encode(header))}.{b64(msgspec.json.encode(claims))}"
    signature = cose.der_to_raw(cose.signer_for(KEY)(hashlib.sha256(head.encode()).digest()))
    return f"{head}.{b64(signature)}"


def refused(token: str) -> None:
    with pytest.raises(ResultMalformed):
        ear.verify(token, KEY.public_key())


@pytest.mark.parametrize("tier", list(ear.Tier))
def test_a_result_survives_the_way(tier: ear.Tier) -> None:
    result = replace(RESULT, status=tier)
    assert ear.verify(encoded(result), KEY.public_key()) == result


def test_a_result_is_a_jws_as_the_draft_names_its_parts() -> None:
    assert part(0) == {"alg": "ES256", "kid": "k", "typ": "eat+jwt"}
    claims = part(1)
    assert claims["eat_profile"] == ear.PROFILE
    assert set(claims) == {"eat_profile", "iat", "ear_verifier_id", "eat_nonce", "submods"}


def test_the_result_of_another_verifier_is_refused() -> None:
    refused(encoded(key=ec.generate_private_key(ec.SECP256R1())))


def test_no_character_of_a_result_can_be_changed() -> None:
    alphabet = string.ascii_letters + string.digits + "-_+/=. "
    for at, letter in enumerate(TOKEN):
        for other in {alphabet[(alphabet.index(letter) + step) % len(alphabet)] for step in (1, 2, 16, 32)}:
            refused(TOKEN[:at] + other + TOKEN[at + 1 :])
    assert ear.verify(TOKEN, KEY.public_key()) == RESULT


def test_a_result_is_written_in_one_way_only() -> None:
    # Spare bits, padding and the other alphabet would each give the same signature another spelling.
    head, _, signature = TOKEN.rpartition(".")
    last = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    spare = last[last.index(signature[-1]) ^ 1]
    for spelling in (signature[:-1] + spare, signature + "==", signature + "=", signature + "\n"):
        refused(f"{head}.{spelling}")
    for token in (TOKEN + ".", "." + TOKEN, TOKEN + " ", head, ""):
        refused(token)


@pytest.mark.parametrize("end", range(0, len(TOKEN), 7))
def test_a_cut_result_is_refused(end: int) -> None:
    refused(TOKEN[:end])


@pytest.mark.parametrize("alg", ["none", "HS256", "RS256", "ES384", "es256", "", None, 1, ["ES256"]])
def test_a_result_cannot_choose_its_algorithm(alg: object) -> None:
    refused(signed({"alg": alg}, part(1)))
    refused(f"{b64(msgspec.json.encode({'alg': alg}))}.{TOKEN.split('.')[1]}.")


def test_the_control_with_the_right_algorithm_is_accepted() -> None:
    assert ear.verify(signed({"alg": "ES256"}, part(1)), KEY.public_key()) == RESULT


@pytest.mark.parametrize("header", [[], "ES256", None, 1])
def test_a_header_that_is_no_object_is_refused(header: object) -> None:
    refused(signed(header, part(1)))


SUBMODULE = {
    "ear_status": "affirming",
    "ear_trustworthiness_vector": {},
    "ear_appraisal_policy_ids": ["p"],
}


@pytest.mark.parametrize(
    "change",
    [
        {"eat_profile": "tag:github.com,2023:veraison/ear"},
        {"eat_profile": None},
        {"eat_nonce": "!"},
        {"eat_nonce": 1},
        {"submods": {}},
        {"submods": []},
        {"submods": {"a": SUBMODULE, "b": SUBMODULE}},
        {"submods": {"a": []}},
        {"submods": {"a": {}}},
        {"submods": {"a": SUBMODULE | {"ear_status": "great"}}},
        {"submods": {"a": SUBMODULE | {"ear_status": None}}},
        {"submods": {"a": SUBMODULE | {"ear_appraisal_policy_ids": []}}},
        {"submods": {"a": SUBMODULE | {"ear_appraisal_policy_ids": None}}},
    ],
)
def test_signed_claims_of_another_shape_are_refused(change: dict[str, object]) -> None:
    refused(signed({"alg": "ES256"}, part(1) | change))


@pytest.mark.parametrize("claim", ["eat_profile", "iat", "eat_nonce", "submods"])
def test_a_missing_claim_is_refused(claim: str) -> None:
    refused(signed({"alg": "ES256"}, {key: value for key, value in part(1).items() if key != claim}))


@given(st.text(max_size=60) | st.text("AQgew.-_=", max_size=200))
def test_any_text_is_refused(text: str) -> None:
    refused(text)


def test_a_lone_surrogate_is_refused() -> None:
    header, _, signature = TOKEN.split(".")
    refused(f"{header}.\ud800.{signature}")
