"""Bytes that do not follow their format, and well-formed images that must not run."""

from __future__ import annotations

from fuseline.errors.base import FuselineError


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
