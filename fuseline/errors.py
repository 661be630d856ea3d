"""Every error that Fuseline raises on purpose: one tree, one code per check.

::

    FuselineError
    ├── FormatError        the bytes do not follow their format
    ├── ImageError         a well-formed firmware image that must not run
    ├── IdentityError      a peer that may not do this, or not under this name
    ├── EvidenceError      attestation evidence that proves nothing
    ├── ElementError       the secure element refused or is not there
    ├── DeviceError        something went wrong on the device
    ├── PlaneError         something asked of the plane cannot be done
    ├── SetupError         the installation or the state folder is not usable
    └── JourneyError       `fuseline up` did not reach its goal

Hostile or broken *input* raises from this tree. A wrong order of calls by our own code is a
programming error and raises `RuntimeError`; the two never mix.
"""

from __future__ import annotations

from typing import Any, ClassVar


class FuselineError(Exception):
    """Base of all errors.

    Args:
        message: What was found, in one sentence, without secrets.
        **evidence: The facts behind it as JSON-able data, for machines and for the console.
    """

    code: ClassVar[str] = "E_FUSELINE"
    hint: ClassVar[str] = "Run `fuseline doctor` and look at the evidence."

    def __init__(self, message: str, **evidence: Any) -> None:
        super().__init__(message)
        self.message = message
        self.evidence = evidence

    def diagnostics(self) -> str:
        """Return what happened and what to do next, for a person."""
        facts = "".join(f"\n  {key}: {value}" for key, value in self.evidence.items())
        return f"{self.code}: {self.message}{facts}\n  next: {self.hint}"

    def as_dict(self) -> dict[str, Any]:
        """Return the same facts for a machine."""
        return {
            "code": self.code,
            "message": self.message,
            "evidence": self.evidence,
            "hint": self.hint,
        }


class FormatError(FuselineError):
    """The bytes do not follow their format."""

    code = "E_FORMAT"
    hint = "The sender produced bytes that no conforming encoder makes; look at the sender."


class CborMalformed(FormatError):
    """Not one well-formed, definite-length, duplicate-free CBOR item."""

    code = "E_CBOR_MALFORMED"


class CoseMalformed(FormatError):
    """Not a COSE_Sign1 structure that this profile allows."""

    code = "E_COSE_MALFORMED"


class PsaClaims(FormatError):
    """A claim of the PSA token is missing, of the wrong type or out of range."""

    code = "E_PSA_CLAIMS"


class ResultMalformed(FormatError):
    """Not an attestation result (EAR) of the expected profile."""

    code = "E_RESULT_MALFORMED"


class ImageMalformed(FormatError):
    """Not a MCUboot image."""

    code = "E_IMAGE_MALFORMED"
    hint = "Sign the payload with `imgtool sign`; a truncated upload looks like this too."


class CertificateMalformed(FormatError):
    """Not a DER X.509 certificate."""

    code = "E_CERT_MALFORMED"


class CsrMalformed(FormatError):
    """Not a base64 DER PKCS#10 request."""

    code = "E_CSR_MALFORMED"
    hint = "RFC 7030 4.2.1: the body is the base64 of a DER PKCS#10 request."


class MessageMalformed(FormatError):
    """A request or response body does not have the shape of its message."""

    code = "E_MESSAGE_MALFORMED"


class ManifestMalformed(FormatError):
    """Not a manufacturing manifest."""

    code = "E_MANIFEST_MALFORMED"


class ManifestSignature(FormatError):
    """The manufacturing manifest is not signed by the factory."""

    code = "E_MANIFEST_SIGNATURE"
    hint = "Take the manifest from the factory again; never edit one."


# --- firmware images -------------------------------------------------------------------------


class ImageError(FuselineError):
    """A well-formed firmware image that must not run here."""

    code = "E_IMAGE"


class ImageDigest(ImageError):
    """The image's bytes do not have the digest that the image states."""

    code = "E_IMAGE_DIGEST"
    hint = "The image was changed or cut after signing; download it again."


class ImageSignature(ImageError):
    """The signature does not verify under the trusted key."""

    code = "E_IMAGE_SIGNATURE"
    hint = "Somebody changed the signed digest or its signature; do not ship this image."


class ImageKeyUnknown(ImageError):
    """The image is signed by a key that is not trusted here, or not at all."""

    code = "E_IMAGE_KEY"
    hint = "Sign with the release key whose public half the device carries."


class ImageTlv(ImageError):
    """The image carries a TLV that is not allowed where it stands."""

    code = "E_IMAGE_TLV"
    hint = "Facts the device acts on must be protected TLVs; see docs/adr/0005-releases-are-images.md."


class ImageHardware(ImageError):
    """The image is for other hardware."""

    code = "E_IMAGE_HARDWARE"
    hint = "Choose a release for this device's hardware class."


class ImageRollback(ImageError):
    """The image's security counter is below the device's."""

    code = "E_IMAGE_ROLLBACK"
    hint = "Release again with a security counter at or above the device's."


class ImageVersion(ImageError):
    """The image's version is not above the running one, so the loader would never choose it."""

    code = "E_IMAGE_VERSION"
    hint = "Release the older state again under a higher version."


class ImageSize(ImageError):
    """The image does not fit the slot."""

    code = "E_IMAGE_SIZE"
    hint = "Make the payload smaller or the slots larger."


# --- identity --------------------------------------------------------------------------------


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


# --- attestation -----------------------------------------------------------------------------


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


# --- secure element --------------------------------------------------------------------------


class ElementError(FuselineError):
    """The secure element refused, or is not there."""

    code = "E_ELEMENT"


class ElementUnavailable(ElementError):
    """The element's process does not answer."""

    code = "E_ELEMENT_UNAVAILABLE"
    hint = "The device must be powered on; look at its log."


class ElementPeer(ElementError):
    """The caller is not a process of this element's device."""

    code = "E_ELEMENT_PEER"
    hint = "An element serves its own device only."


class ElementPhase(ElementError):
    """The operation belongs to another boot phase."""

    code = "E_ELEMENT_PHASE"
    hint = "Measurements are recorded before the boot phase is closed, attestation comes after."


class ElementRequest(ElementError):
    """The request is not one that the element serves."""

    code = "E_ELEMENT_REQUEST"


class ElementCounter(ElementError):
    """The monotonic counter is gone or was edited."""

    code = "E_ELEMENT_COUNTER"
    hint = "There is no safe default for a counter; the device needs recovery at the factory."


class TlsUnsupported(ElementError):
    """This Python hides the OpenSSL that the key provider needs."""

    code = "E_TLS_UNSUPPORTED"
    hint = "Use `--tls relay`: the element's process is then the TLS client."


class TlsKeyMismatch(ElementError):
    """The element does not hold the private key of the certificate."""

    code = "E_TLS_KEY_MISMATCH"
    hint = "The certificate is another device's, or of an older key; enrol again with the IDevID."


class TlsRelayFailed(ElementError):
    """The element's TLS client got no TLS connection, or lost it."""

    code = "E_TLS_RELAY"
    hint = "Check the address, the server's name and the trusted CA; the evidence says which step failed."


# --- device ----------------------------------------------------------------------------------


class DeviceError(FuselineError):
    """Something went wrong on the device."""

    code = "E_DEVICE"


class BootNoImage(DeviceError):
    """No slot holds an image that may run."""

    code = "E_BOOT_NO_IMAGE"
    hint = "The device needs recovery; both slots were refused for the reasons listed."


class SlotDamaged(DeviceError):
    """A slot is not as this program leaves it: of another size, or with a spoilt flag."""

    code = "E_SLOT_DAMAGED"
    hint = "Something else wrote to the slot; erase it and install the image again."


class PlaneUnreachable(DeviceError):
    """The plane does not answer."""

    code = "E_PLANE_UNREACHABLE"
    hint = "The device keeps running its image and tries again."


class PlaneRefused(DeviceError):
    """The plane answered with an error."""

    code = "E_PLANE_REFUSED"


class PlaneUntrusted(DeviceError):
    """The server that answers is not this device's plane."""

    code = "E_PLANE_UNTRUSTED"
    hint = "Somebody is in the middle, or the device was given another fleet's trust anchor."


class DownloadTruncated(DeviceError):
    """The download ended before the announced length."""

    code = "E_DOWNLOAD_TRUNCATED"
    hint = "The next attempt resumes where this one stopped."


class DownloadDigest(DeviceError):
    """The artifact does not have the announced digest."""

    code = "E_DOWNLOAD_DIGEST"
    hint = "The partial file was thrown away; the next attempt starts anew."


class AppUnhealthy(DeviceError):
    """The application did not report itself healthy in time."""

    code = "E_APP_UNHEALTHY"
    hint = "The image is not confirmed; the next boot reverts to the one before."


class PlaneError(FuselineError):
    """Something asked of the plane cannot be done."""

    code = "E_PLANE"


class NotFound(PlaneError):
    """No such thing."""

    code = "E_NOT_FOUND"


class MethodNotAllowed(PlaneError):
    """The route exists, but not for this method."""

    code = "E_METHOD"


class MediaType(PlaneError):
    """The body's media type is not the one this route takes."""

    code = "E_MEDIA_TYPE"


class BodyTooLarge(PlaneError):
    """The request body is larger than this route allows."""

    code = "E_BODY_SIZE"


class OperatorToken(PlaneError):
    """The operator token is missing or wrong."""

    code = "E_OPERATOR_TOKEN"
    hint = "The token is printed at start and kept in `plane/operator.token` of the state folder."


class ReleaseConflict(PlaneError):
    """A release of this version exists with other bytes."""

    code = "E_RELEASE_CONFLICT"
    hint = "Releases are immutable; publish a new version."


class ReleaseDowngrade(PlaneError):
    """The release is below the security counter that the device is known to have."""

    code = "E_RELEASE_DOWNGRADE"
    hint = "Release again with a security counter at or above the device's."


class RolloutEmpty(PlaneError):
    """No device fits the rollout."""

    code = "E_ROLLOUT_EMPTY"
    hint = "Check the release's hardware against the devices'."


class ServerFault(PlaneError):
    """A defect of the plane itself; the log has the details under the same reference."""

    code = "E_INTERNAL"
    hint = "Report it with the reference."


class SetupError(FuselineError):
    """The installation or the state folder is not usable."""

    code = "E_SETUP"


class StateMissing(SetupError):
    """The state folder lacks something that this command reads."""

    code = "E_STATE_MISSING"
    hint = "`fuseline up` or `fuseline factory init` makes a development fleet."


class StateMismatch(SetupError):
    """The state folder was made with other settings than are asked for now."""

    code = "E_STATE_MISMATCH"
    hint = "Leave the option away to go on with this fleet, or use another --state folder."


class StatePermissions(SetupError):
    """A secret is readable by others."""

    code = "E_STATE_PERMISSIONS"
    hint = "chmod 600 the file; treat the key as leaked."


class StateBusy(SetupError):
    """Another process is running on this state folder."""

    code = "E_STATE_BUSY"
    hint = "Stop the other one, or use another --state folder."


class SchemaVersion(SetupError):
    """The database is of another version than this program."""

    code = "E_SCHEMA_VERSION"
    hint = "Run the version of Fuseline that wrote it, or a newer one."


class BindRefused(SetupError):
    """The address cannot be bound, or must not be."""

    code = "E_BIND"
    hint = "Choose a free port; anything but loopback needs TLS on the operator port."


class ToolMissing(SetupError):
    """An external tool that this command needs is not installed."""

    code = "E_TOOL_MISSING"
    hint = "`make install` installs everything that `make run` needs."


class JourneyError(FuselineError):
    """`fuseline up` did not reach its goal."""

    code = "E_JOURNEY"


class JourneyTimeout(JourneyError):
    """A stage did not finish in time."""

    code = "E_JOURNEY_TIMEOUT"
    hint = "The stage and the device's last events are in the evidence; its log has the rest."


class JourneyProcess(JourneyError):
    """A process of the fleet ended on its own."""

    code = "E_JOURNEY_PROCESS"
    hint = "Its log under the state folder says why."
