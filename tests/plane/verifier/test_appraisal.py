"""The decision: authentic evidence, held against reference values in both directions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fuseline.errors import (
    EvidenceError,
    EvidenceInstance,
    EvidenceNonce,
    EvidenceSignature,
    FormatError,
    PsaClaims,
)
from fuseline.formats import cose, ear, psa
from fuseline.plane.verifier.appraisal import (
    Appraisal,
    Reason,
    ReferenceSet,
    TrustAnchor,
    VerifiedEvidence,
    appraise,
    component_key,
    verify_evidence,
)

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
IMPLEMENTATION = b"i" * 32
ANCHOR = TrustAnchor(KEY.public_key(), IMPLEMENTATION)
NONCE = b"n" * 32


def component(
    role: str, letter: bytes, version: str = "1.0.0", signer: bytes = b"k"
) -> psa.SoftwareComponent:
    return psa.SoftwareComponent(role, letter * 32, signer * 32, version)


LOADER, FIRMWARE = component("BL", b"b"), component("FW", b"f")
TOKEN = psa.PsaToken(
    nonce=NONCE,
    instance_id=psa.instance_id_of(KEY.public_key()),
    implementation_id=IMPLEMENTATION,
    client_id=-1,
    lifecycle=psa.LIFECYCLE_SECURED,
    boot_seed=b"s" * 32,
    components=(LOADER, FIRMWARE),
)


def reference(number: int, version: str, counter: int, *components: psa.SoftwareComponent) -> ReferenceSet:
    return ReferenceSet(number, version, counter, frozenset(component_key(one) for one in components))


RELEASE = reference(1, "1.0.0", 5, LOADER, FIRMWARE)
NEXT = reference(2, "2.0.0", 6, LOADER, component("FW", b"g", "2.0.0"))


def evidence(token: psa.PsaToken = TOKEN, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    return cose.sign1(psa.encode_claims(token), cose.signer_for(key))


def verified(token: psa.PsaToken = TOKEN) -> VerifiedEvidence:
    return verify_evidence(evidence(token), nonce=NONCE, anchor=ANCHOR)


def verdict(
    *components: psa.SoftwareComponent, floor: int = 0, references: tuple[ReferenceSet, ...] = (NEXT, RELEASE)
) -> Appraisal:
    return appraise(verified(replace(TOKEN, components=components)), references, floor=floor)


def assert_refused(
    appraisal: Appraisal, reason: Reason, *, measured: psa.SoftwareComponent = FIRMWARE
) -> None:
    """Refused for a reason; and still says what runs, and that the instance itself is genuine."""
    assert appraisal.reason is reason
    assert appraisal.status is not ear.Tier.AFFIRMING
    assert appraisal.matched is None
    assert appraisal.measured == measured.measurement_value
    assert appraisal.measured_version == measured.version
    assert appraisal.vector["instance-identity"] == ear.GENUINE


def test_evidence_equal_to_a_release_is_affirmed() -> None:
    appraisal = appraise(verified(), [NEXT, RELEASE], floor=5)
    assert appraisal.status is ear.Tier.AFFIRMING
    assert appraisal.reason is None
    assert appraisal.matched is RELEASE
    assert appraisal.measured == FIRMWARE.measurement_value
    assert appraisal.vector == {"instance-identity": ear.GENUINE, "executables": ear.GENUINE}


def test_the_order_of_components_does_not_matter() -> None:
    assert verdict(FIRMWARE, LOADER).matched is RELEASE


def test_a_missing_component_is_named() -> None:
    appraisal = verdict(FIRMWARE)
    assert_refused(appraisal, Reason.MISSING)
    assert "BL" in appraisal.explanation
    assert appraisal.status is ear.Tier.CONTRAINDICATED


def test_an_extra_component_beside_a_whole_release_is_refused() -> None:
    implant = component("APP", b"x", "6.6.6")
    appraisal = verdict(LOADER, FIRMWARE, implant)
    assert_refused(appraisal, Reason.UNKNOWN, measured=implant)
    assert "APP 6.6.6" in appraisal.explanation


def test_the_same_component_twice_is_refused() -> None:
    appraisal = verdict(LOADER, FIRMWARE, FIRMWARE)
    assert_refused(appraisal, Reason.UNKNOWN)
    assert "twice" in appraisal.explanation


def test_a_component_twice_does_not_stand_for_a_missing_one() -> None:
    assert_refused(verdict(FIRMWARE, FIRMWARE), Reason.MISSING)


@pytest.mark.parametrize(
    "changed",
    [
        component("FW", b"f", "1.0.1"),
        component("FW", b"f", "1.0.0", b"K"),
        component("FW", b"F"),
        component("APP", b"f"),
        replace(FIRMWARE, measurement_value=b"f" * 48),
    ],
    ids=["version", "signer", "digest", "role", "digest length"],
)
def test_a_component_is_equal_in_all_its_parts(changed: psa.SoftwareComponent) -> None:
    assert_refused(verdict(LOADER, changed), Reason.UNKNOWN, measured=changed)


def test_components_of_two_releases_do_not_make_one() -> None:
    other_loader = component("BL", b"c", "2.0.0")
    second = reference(2, "2.0.0", 6, other_loader, component("FW", b"g", "2.0.0"))
    appraisal = verdict(other_loader, FIRMWARE, references=(RELEASE, second))
    assert_refused(appraisal, Reason.UNKNOWN)


def test_without_reference_values_nothing_is_affirmed() -> None:
    assert_refused(verdict(LOADER, FIRMWARE, references=()), Reason.UNKNOWN)
    assert_refused(verdict(LOADER, FIRMWARE, references=(reference(3, "0", 9),)), Reason.UNKNOWN)


@pytest.mark.parametrize("floor", [6, 7, 2**32 - 1])
def test_rollback_below_the_device_s_floor_is_refused(floor: int) -> None:
    appraisal = verdict(LOADER, FIRMWARE, floor=floor)
    assert_refused(appraisal, Reason.ROLLBACK)
    assert appraisal.status is ear.Tier.CONTRAINDICATED
    assert str(floor) in appraisal.explanation
    assert verdict(LOADER, FIRMWARE, floor=5).status is ear.Tier.AFFIRMING


@pytest.mark.parametrize(
    "lifecycle", [0x0000, 0x1000, 0x2000, 0x2FFF, 0x3100, 0x4000, 0x5000, 0x6000, 0xFFFF]
)
def test_a_lifecycle_that_is_not_secured_is_refused(lifecycle: int) -> None:
    appraisal = appraise(verified(replace(TOKEN, lifecycle=lifecycle)), [RELEASE], floor=0)
    assert_refused(appraisal, Reason.LIFECYCLE)
    assert appraisal.status is ear.Tier.WARNING
    assert f"{lifecycle:#06x}" in appraisal.explanation


@pytest.mark.parametrize("lifecycle", [0x3000, 0x3001, 0x30FF])
def test_the_whole_secured_range_is_secured(lifecycle: int) -> None:
    token = replace(TOKEN, lifecycle=lifecycle)
    assert appraise(verified(token), [RELEASE], floor=0).status is ear.Tier.AFFIRMING


def test_replay_of_another_session_s_evidence_is_refused() -> None:
    with pytest.raises(EvidenceNonce):
        verify_evidence(evidence(), nonce=b"m" * 32, anchor=ANCHOR)
    with pytest.raises(EvidenceNonce):
        verify_evidence(evidence(replace(TOKEN, nonce=NONCE + b"n" * 16)), nonce=NONCE, anchor=ANCHOR)


def test_relay_of_a_healthy_device_s_evidence_is_refused() -> None:
    healthy = replace(TOKEN, instance_id=psa.instance_id_of(OTHER_KEY.public_key()))
    with pytest.raises(EvidenceSignature):
        verify_evidence(evidence(healthy, OTHER_KEY), nonce=NONCE, anchor=ANCHOR)


def test_an_instance_that_is_not_bound_to_its_key_is_refused() -> None:
    claimed = replace(TOKEN, instance_id=psa.instance_id_of(OTHER_KEY.public_key()))
    with pytest.raises(EvidenceInstance):
        verify_evidence(evidence(claimed), nonce=NONCE, anchor=ANCHOR)


def test_another_hardware_class_is_refused() -> None:
    with pytest.raises(EvidenceInstance):
        verify_evidence(evidence(replace(TOKEN, implementation_id=b"j" * 32)), nonce=NONCE, anchor=ANCHOR)


def test_a_device_that_swaps_its_key_is_refused() -> None:
    with pytest.raises(EvidenceSignature):
        verify_evidence(evidence(TOKEN, OTHER_KEY), nonce=NONCE, anchor=ANCHOR)


def test_claims_are_read_after_the_signature_only() -> None:
    nonsense = cose.sign1(b"\xff", cose.signer_for(OTHER_KEY))
    with pytest.raises(EvidenceSignature):
        verify_evidence(nonsense, nonce=NONCE, anchor=ANCHOR)
    with pytest.raises(PsaClaims):
        verify_evidence(cose.sign1(b"\x80", cose.signer_for(KEY)), nonce=NONCE, anchor=ANCHOR)


def test_every_bit_flip_of_evidence_is_refused() -> None:
    raw = evidence()
    for position in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises((FormatError, EvidenceError)):
            verify_evidence(bytes(flipped), nonce=NONCE, anchor=ANCHOR)
    assert verify_evidence(raw, nonce=NONCE, anchor=ANCHOR).token == TOKEN
