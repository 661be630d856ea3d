"""The decision: what a piece of evidence says about a device. No I/O, no clock.

Terms are RFC 9334's: evidence, reference value, appraisal, attestation result.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from fuseline.errors import EvidenceInstance, EvidenceNonce, EvidenceSignature
from fuseline.formats import cose, ear, psa

# RFC 9783 4.3.1: the only lifecycle range in which a device may be trusted.
_SECURED = range(0x3000, 0x3100)

POLICY_ID = "urn:fuseline:policy:boot-measurements:1"


class Reason(enum.StrEnum):
    """Why an appraisal is not affirming."""

    LIFECYCLE = "lifecycle_not_secured"
    MISSING = "component_missing"
    UNKNOWN = "component_unknown"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """What the manufacturing manifest says of a device's attestation.

    Attributes:
        key: Attestation public key.
        implementation_id: 32 bytes, the hardware class.
    """

    key: ec.EllipticCurvePublicKey
    implementation_id: bytes


@dataclass(frozen=True, slots=True)
class ReferenceSet:
    """All components that a device on one release must measure, and no others."""

    release_id: int
    release_version: str
    security_counter: int
    components: frozenset[tuple[str, bytes, str, bytes]]


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """Evidence that is authentic, fresh and this device's own; made by `verify_evidence` only."""

    token: psa.PsaToken
    raw: bytes


@dataclass(frozen=True, slots=True)
class Appraisal:
    """The verdict on verified evidence.

    Attributes:
        status: AR4SI tier.
        reason: Why it is not affirming.
        explanation: The same for a person.
        matched: The release whose reference values the evidence equals.
        measured: Digest of the last component in the boot chain: the running image.
        measured_version: The version that component states.
        vector: AR4SI trustworthiness claims.
    """

    status: ear.Tier
    reason: Reason | None
    explanation: str
    matched: ReferenceSet | None
    measured: bytes
    measured_version: str
    vector: dict[str, int]


def component_key(component: psa.SoftwareComponent) -> tuple[str, bytes, str, bytes]:
    """Return what makes a component equal to a reference value (RFC 9783 4.4.1)."""
    return (
        component.measurement_type,
        component.measurement_value,
        component.version,
        component.signer_id,
    )


def verify_evidence(raw: bytes, *, nonce: bytes, anchor: TrustAnchor) -> VerifiedEvidence:
    """Authenticate a PSA token.

    1. The COSE signature verifies under the device's attestation key.
    2. The claims are those of the profile.
    3. The nonce is the session's. The caller MUST have checked that the nonce is fresh and unspent.
    4. The instance is the device's: its UEID is bound to the attestation key.
    5. The hardware is the device's.

    Raises:
        FormatError: Not a token of this profile.
        EvidenceError: The check that failed, by its code.
    """
    # 1. RFC 9783 6: the verifier MUST check the signature with the trust anchor.
    verified = cose.verify_sign1(raw, anchor.key, refused=EvidenceSignature)
    # 2. RFC 9783 4
    token = psa.decode_claims(verified.payload)
    # 3. RFC 9783 4.1.1
    if token.nonce != nonce:
        raise EvidenceNonce("the token answers another challenge")
    # 4. RFC 9783 4.2.1
    if token.instance_id != psa.instance_id_of(anchor.key):
        raise EvidenceInstance("the token names another instance", instance=token.instance_id.hex())
    # 5. RFC 9783 4.2.2
    if token.implementation_id != anchor.implementation_id:
        raise EvidenceInstance(
            "the token names another hardware class", implementation=token.implementation_id.hex()
        )
    return VerifiedEvidence(token, raw)


def appraise(evidence: VerifiedEvidence, references: Sequence[ReferenceSet], *, floor: int) -> Appraisal:
    """Appraise verified evidence against reference values.

    1. The life cycle is secured.
    2. Both ways: one release's components are all measured, and nothing else is.
    3. The release's security counter is not below what this device ran before.

    Args:
        evidence: Authentic evidence.
        references: The reference sets of all releases for the device's hardware.
        floor: The highest security counter this device was seen to run; 0 for a new one.
    """
    token = evidence.token
    # 1.
    if token.lifecycle not in _SECURED:
        return _refused(
            token,
            Reason.LIFECYCLE,
            f"the life cycle is {token.lifecycle:#06x}, not secured",
            ear.Tier.WARNING,
        )
    # 2.
    measured = [component_key(component) for component in token.components]
    matched = next(
        (
            reference
            for reference in references
            if len(measured) == len(reference.components) and reference.components == set(measured)
        ),
        None,
    )
    if matched is None:
        return _mismatch(token, frozenset(measured), references)
    # 3.
    if matched.security_counter < floor:
        return _refused(
            token,
            Reason.ROLLBACK,
            f"runs {matched.release_version} with security counter {matched.security_counter}, "
            f"below the {floor} it ran before",
            ear.Tier.CONTRAINDICATED,
        )
    return Appraisal(
        status=ear.Tier.AFFIRMING,
        reason=None,
        explanation=f"measures as release {matched.release_version}",
        matched=matched,
        measured=token.components[-1].measurement_value,
        measured_version=token.components[-1].version,
        vector={"instance-identity": ear.GENUINE, "executables": ear.GENUINE},
    )


def _mismatch(
    token: psa.PsaToken,
    measured: frozenset[tuple[str, bytes, str, bytes]],
    references: Sequence[ReferenceSet],
) -> Appraisal:
    """Explain a mismatch by the release that comes nearest."""
    nearest = max(references, key=lambda reference: len(reference.components & measured), default=None)
    if nearest is not None and measured < nearest.components:
        names = ", ".join(sorted(key[0] for key in nearest.components - measured))
        text = f"release {nearest.release_version} also has {names}, which was not measured"
        return _refused(token, Reason.MISSING, text, ear.Tier.CONTRAINDICATED)
    known = nearest.components if nearest else frozenset()
    names = ", ".join(f"{key[0]} {key[2]} {key[1].hex()[:16]}" for key in sorted(measured - known))
    text = f"no release has what was measured: {names or 'the same component twice'}"
    return _refused(token, Reason.UNKNOWN, text, ear.Tier.CONTRAINDICATED)


def _refused(token: psa.PsaToken, reason: Reason, explanation: str, status: ear.Tier) -> Appraisal:
    executables = ear.GENUINE if reason is Reason.LIFECYCLE else ear.CONTRAINDICATED_EXECUTABLES
    return Appraisal(
        status=status,
        reason=reason,
        explanation=explanation,
        matched=None,
        measured=token.components[-1].measurement_value,
        measured_version=token.components[-1].version,
        vector={"instance-identity": ear.GENUINE, "executables": executables},
    )
