"""The manufacturing manifest: signed by the factory, whole, and meaning nothing else."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fuseline.errors import FormatError, ManifestMalformed, ManifestSignature
from fuseline.formats import cbor, cose, manifest

KEY = ec.generate_private_key(ec.SECP256R1())
CONTEXT = b"fuseline manufacturing manifest 1"
ENTRIES = [
    manifest.ManifestEntry(
        name=f"dev-{number}.acme.example",
        idevid_serial=f"0{number}",
        idevid_key_sha256="ab" * 32,
        attestation_key=b"a key",
        implementation_id="cd" * 32,
        vendor="acme.example",
        hardware="lock-v1",
    )
    for number in range(3)
]
BODY = manifest.encode_entries(ENTRIES)
SIGNATURE = manifest.sign(BODY, cose.signer_for(KEY))


def verify(body: bytes, signature: bytes = SIGNATURE) -> manifest.VerifiedManifest:
    return manifest.verify(hashlib.sha256(body).digest(), signature, KEY.public_key())


def statement(content: object) -> bytes:
    return cose.sign1(cbor.encode(content), cose.signer_for(KEY), external_aad=CONTEXT)


def test_a_signed_manifest_gives_its_devices() -> None:
    verified = verify(BODY)
    assert verified == manifest.VerifiedManifest(hashlib.sha256(BODY).digest(), 3)
    assert list(manifest.decode_entries(BODY.splitlines(), verified)) == ENTRIES


def test_a_changed_manifest_is_refused() -> None:
    for at in range(0, len(BODY), 17):
        with pytest.raises(ManifestSignature):
            verify(BODY[:at] + bytes([BODY[at] ^ 1]) + BODY[at + 1 :])
    for body in (BODY + BODY.splitlines(keepends=True)[0], BODY[:-1], b""):
        with pytest.raises(ManifestSignature):
            verify(body)


def test_every_changed_signature_is_refused() -> None:
    for position in range(len(SIGNATURE) * 8):
        flipped = bytearray(SIGNATURE)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(FormatError):
            verify(BODY, bytes(flipped))


def test_the_manifest_of_another_factory_is_refused() -> None:
    other = manifest.sign(BODY, cose.signer_for(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(ManifestSignature):
        verify(BODY, other)


def test_what_the_factory_signed_elsewhere_is_no_manifest() -> None:
    content = cbor.encode({"sha256": hashlib.sha256(BODY).digest(), "devices": 3})
    with pytest.raises(ManifestSignature):
        verify(BODY, cose.sign1(content, cose.signer_for(KEY)))


@pytest.mark.parametrize("devices", [None, -1, 1.0, True, "3", []])
def test_a_statement_without_a_number_of_devices_is_refused(devices: object) -> None:
    with pytest.raises(ManifestMalformed):
        verify(BODY, statement({"sha256": hashlib.sha256(BODY).digest(), "devices": devices}))


@pytest.mark.parametrize("content", [[], 1, {}, {"devices": 3}, {"sha256": "text", "devices": 3}])
def test_a_statement_of_another_shape_is_refused(content: object) -> None:
    with pytest.raises(ManifestSignature):
        verify(BODY, statement(content))


def test_missing_and_extra_lines_are_noticed() -> None:
    lines = BODY.splitlines()
    for changed in (lines[:-1], [], [*lines, lines[0]]):
        with pytest.raises(ManifestMalformed) as caught:
            list(manifest.decode_entries(changed, verify(BODY)))
        assert caught.value.evidence == {"lines": len(changed), "signed": 3}


GOOD = msgspec.json.decode(BODY.splitlines()[0], type=dict[str, object])


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        BODY.splitlines()[0] + BODY.splitlines()[1],
        msgspec.json.encode(GOOD | {"admin": True}),
        *(msgspec.json.encode(GOOD | {field: 1}) for field in GOOD),
        *(msgspec.json.encode({key: GOOD[key] for key in GOOD if key != field}) for field in GOOD),
    ],
)
def test_a_line_that_is_no_device_is_refused_by_its_number(line: bytes) -> None:
    lines = [*BODY.splitlines()[:1], line]
    with pytest.raises(ManifestMalformed) as caught:
        list(manifest.decode_entries(lines, verify(BODY)))
    assert caught.value.evidence == {"line": 2}


def test_a_device_a_line() -> None:
    assert BODY.count(b"\n") == len(ENTRIES)
    assert all(one != two for one, two in pairwise(BODY.splitlines()))
    assert manifest.encode_entries([]) == b""
