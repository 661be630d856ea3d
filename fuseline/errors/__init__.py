"""Every error that Fuseline raises on purpose: one tree, one code per check.

::

    FuselineError
    ├── FormatError        the bytes do not follow their format
    ├── ImageError         a well-formed firmware image that must not run
    ├── IdentityError      a peer that may not do this, or not under this name
    ├── EvidenceError      attestation evidence that proves nothing
    ├── ElementError       the secure element refused or is not there
    ├── SiliconError       something asked of the emulated chip cannot be done
    ├── DeviceError        something went wrong on the device
    ├── PlaneError         something asked of the plane cannot be done
    ├── SetupError         the installation or the state folder is not usable
    └── JourneyError       `fuseline up` did not reach its goal

Hostile or broken *input* raises from this tree. A wrong order of calls by our own code is a
programming error and raises `RuntimeError`; the two never mix.
"""

from __future__ import annotations

from fuseline.errors.base import (
    FuselineError,
)
from fuseline.errors.device import (
    AppUnhealthy,
    BootNoImage,
    DeviceError,
    DownloadDigest,
    DownloadTruncated,
    ElementCounter,
    ElementError,
    ElementPeer,
    ElementPhase,
    ElementRequest,
    ElementUnavailable,
    PlaneRefused,
    PlaneUnreachable,
    PlaneUntrusted,
    SlotDamaged,
    TlsKeyMismatch,
    TlsRelayFailed,
    TlsUnsupported,
)
from fuseline.errors.formats import (
    CborMalformed,
    CertificateMalformed,
    CoseMalformed,
    CsrMalformed,
    FormatError,
    ImageDigest,
    ImageError,
    ImageHardware,
    ImageKeyUnknown,
    ImageMalformed,
    ImageRollback,
    ImageSignature,
    ImageSize,
    ImageTlv,
    ImageVersion,
    ManifestMalformed,
    ManifestSignature,
    MessageMalformed,
    PsaClaims,
    ResultMalformed,
)
from fuseline.errors.plane import (
    BodyTooLarge,
    MediaType,
    MethodNotAllowed,
    NotFound,
    OperatorToken,
    PlaneError,
    ReleaseConflict,
    ReleaseDowngrade,
    RolloutEmpty,
    ServerFault,
)
from fuseline.errors.setup import (
    BindRefused,
    JourneyError,
    JourneyProcess,
    JourneyTimeout,
    SchemaVersion,
    SetupError,
    StateBusy,
    StateMismatch,
    StateMissing,
    StatePermissions,
    ToolMissing,
)
from fuseline.errors.silicon import (
    SiliconError,
)
from fuseline.errors.trust import (
    CertExpired,
    CertKind,
    CertMissing,
    CertProfile,
    CertRevoked,
    CertUnknown,
    CsrKey,
    CsrName,
    CsrProof,
    DeviceMismatch,
    EvidenceError,
    EvidenceInstance,
    EvidenceNonce,
    EvidenceSignature,
    IdentityError,
    NonceInvalid,
    NonceSpent,
    NonceStale,
    NotOnManifest,
)

__all__ = [
    "AppUnhealthy",
    "BindRefused",
    "BodyTooLarge",
    "BootNoImage",
    "CborMalformed",
    "CertExpired",
    "CertKind",
    "CertMissing",
    "CertProfile",
    "CertRevoked",
    "CertUnknown",
    "CertificateMalformed",
    "CoseMalformed",
    "CsrKey",
    "CsrMalformed",
    "CsrName",
    "CsrProof",
    "DeviceError",
    "DeviceMismatch",
    "DownloadDigest",
    "DownloadTruncated",
    "ElementCounter",
    "ElementError",
    "ElementPeer",
    "ElementPhase",
    "ElementRequest",
    "ElementUnavailable",
    "EvidenceError",
    "EvidenceInstance",
    "EvidenceNonce",
    "EvidenceSignature",
    "FormatError",
    "FuselineError",
    "IdentityError",
    "ImageDigest",
    "ImageError",
    "ImageHardware",
    "ImageKeyUnknown",
    "ImageMalformed",
    "ImageRollback",
    "ImageSignature",
    "ImageSize",
    "ImageTlv",
    "ImageVersion",
    "JourneyError",
    "JourneyProcess",
    "JourneyTimeout",
    "ManifestMalformed",
    "ManifestSignature",
    "MediaType",
    "MessageMalformed",
    "MethodNotAllowed",
    "NonceInvalid",
    "NonceSpent",
    "NonceStale",
    "NotFound",
    "NotOnManifest",
    "OperatorToken",
    "PlaneError",
    "PlaneRefused",
    "PlaneUnreachable",
    "PlaneUntrusted",
    "PsaClaims",
    "ReleaseConflict",
    "ReleaseDowngrade",
    "ResultMalformed",
    "RolloutEmpty",
    "SchemaVersion",
    "ServerFault",
    "SetupError",
    "SiliconError",
    "SlotDamaged",
    "StateBusy",
    "StateMismatch",
    "StateMissing",
    "StatePermissions",
    "TlsKeyMismatch",
    "TlsRelayFailed",
    "TlsUnsupported",
    "ToolMissing",
]
