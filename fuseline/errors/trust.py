"""Peers that may not do this, and evidence that proves nothing."""

from __future__ import annotations

from fuseline.errors.base import FuselineError


class IdentityError(FuselineError):
    """A peer that may not do this, or not under this name."""

    code = "E_IDENTITY"


class CertMissing(IdentityError):
    """The connection carries no client certificate."""

    code = "E_CERT_MISSING"
    hint = "Connect with mutual TLS; there are no unauthenticated devices."


class CertProfile(IdentityError):
    """The certificate breaks the device certificate profile."""

    code = "E_CERT_PROFILE"
    hint = "A device certificate is a P-256 end entity with exactly one SAN, a dNSName."


class CertExpired(IdentityError):
    """The certificate is outside its validity period."""

    code = "E_CERT_EXPIRED"
    hint = "Enrol again with the IDevID; an open or resumed connection does not extend a certificate."


class CertRevoked(IdentityError):
    """The certificate, or its device, was revoked."""

    code = "E_CERT_REVOKED"
    hint = "Ask the operator why the device was revoked."


class CertUnknown(IdentityError):
    """The registry never issued or imported this certificate."""

    code = "E_CERT_UNKNOWN"
    hint = "A certificate from our CA that the registry does not know is an alarm; look at the CA."


class CertKind(IdentityError):
    """The right device with the wrong certificate for this route."""

    code = "E_CERT_KIND"
    hint = "IDevID enrols; LDevID does everything else."


class DeviceMismatch(IdentityError):
    """The path names another device than the certificate."""

    code = "E_DEVICE_MISMATCH"
    hint = "A device speaks for itself only."


class NotOnManifest(IdentityError):
    """No manufacturing manifest lists this device with this key."""

    code = "E_NOT_ON_MANIFEST"
    hint = "Import the signed manifest of the batch first; devices are never self-created."


class CsrProof(IdentityError):
    """The request is not signed by the key it asks a certificate for."""

    code = "E_CSR_PROOF"


class CsrName(IdentityError):
    """The request asks for a name that is not the device's own."""

    code = "E_CSR_NAME"
    hint = "Ask for exactly one dNSName: the name in the certificate you connect with."


class CsrKey(IdentityError):
    """The request's key is of a kind that is not issued, or belongs to another device."""

    code = "E_CSR_KEY"
    hint = "Use a P-256 key of this device's own element."


class EvidenceError(FuselineError):
    """Attestation evidence that proves nothing."""

    code = "E_EVIDENCE"


class NonceInvalid(EvidenceError):
    """The nonce was not minted here for this device."""

    code = "E_NONCE_INVALID"
    hint = "Open a new challenge-response session and answer that one."


class NonceStale(EvidenceError):
    """The nonce was minted here for this device, too long ago."""

    code = "E_NONCE_STALE"
    hint = "Open a new challenge-response session and answer it at once."


class NonceSpent(EvidenceError):
    """The nonce was answered before: a replay."""

    code = "E_NONCE_SPENT"
    hint = "Each nonce is good for one answer; open a new session."


class EvidenceNonce(EvidenceError):
    """The token carries another nonce than the session's."""

    code = "E_EVIDENCE_NONCE"
    hint = "This is old evidence, or evidence made for somebody else."


class EvidenceSignature(EvidenceError):
    """The token is not signed by the attestation key on the manifest."""

    code = "E_EVIDENCE_SIGNATURE"


class EvidenceInstance(EvidenceError):
    """The token names another instance than the device that sent it."""

    code = "E_EVIDENCE_INSTANCE"
    hint = "A healthy device may be answering for a sick one (relay)."
