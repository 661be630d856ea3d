"""The secure element and the device."""

from __future__ import annotations

from fuseline.errors.base import FuselineError


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
