"""Getting and keeping an operational certificate: the client of EST (RFC 7030)."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fuseline.device.agent.config import DeviceConfig, load_chain
from fuseline.device.agent.link import Identity, Line, PlaneLink
from fuseline.device.element.client import ElementKey
from fuseline.device.element.interface import KeySlot
from fuseline.device.files import write_durably
from fuseline.errors import CertificateMalformed, CertProfile, PlaneRefused, StateMissing
from fuseline.formats import est, x509profile

# Codes of the plane that only a fresh enrolment with the IDevID can cure.
_CURED_BY_ENROLLING = frozenset({"E_CERT_EXPIRED", "E_CERT_UNKNOWN", "E_CERT_PROFILE"})


@dataclass(frozen=True, slots=True)
class Ldevid:
    """The operational certificate the device has."""

    pem: bytes
    serial: str
    not_before: float
    not_after: float

    def usable(self, now: float) -> bool:
        """Say whether it is valid now."""
        return self.not_before <= now < self.not_after

    def due(self, now: float) -> bool:
        """Say whether half its life is over: time to renew while there is time to retry."""
        return now >= (self.not_before + self.not_after) / 2

    @classmethod
    def parse(cls, pem: bytes) -> Ldevid:
        """Read a certificate.

        Raises:
            StateMissing: Not a certificate.
        """
        leaf = load_chain(pem)[0]
        return cls(
            pem=pem,
            serial=x509profile.serial_text(leaf.serial_number),
            not_before=leaf.not_valid_before_utc.timestamp(),
            not_after=leaf.not_valid_after_utc.timestamp(),
        )


def idevid(config: DeviceConfig) -> Identity:
    """Return the identity from the factory."""
    return Identity(KeySlot.IDEVID, config.idevid_pem())


def stored(config: DeviceConfig) -> Ldevid | None:
    """Return the operational certificate on the device, if there is one that can be read."""
    try:
        return Ldevid.parse(config.ldevid_path.read_bytes())
    except (OSError, StateMissing):
        return None


def enrol(config: DeviceConfig, line: Line) -> Ldevid:
    """Get a first or a fresh operational certificate with the IDevID (RFC 7030 4.1 and 4.2.1).

    Raises:
        DeviceError: The plane is away, not ours, or refuses.
        CertificateMalformed: It answered with another certificate than was asked for.
    """
    link = PlaneLink(line, idevid(config))
    try:
        anchors = est.decode_certificates(link.request("GET", est.PREFIX + est.CACERTS).body)
        return _issue(config, line, link, est.SIMPLE_ENROLL, anchors)
    finally:
        link.close()


def renew(config: DeviceConfig, line: Line, link: PlaneLink, current: Ldevid) -> Ldevid:
    """Turn the current operational certificate into the next one (RFC 7030 4.2.2).

    Raises:
        DeviceError: The plane is away or refuses; the current certificate stays in use.
    """
    return _issue(config, line, link, est.SIMPLE_REENROLL, load_chain(current.pem)[1:])


def _issue(
    config: DeviceConfig, line: Line, link: PlaneLink, operation: str, anchors: list[x509.Certificate]
) -> Ldevid:
    key = ElementKey(line.element, KeySlot.LDEVID)
    request = x509profile.build_request(config.settings.name, key)
    answer = link.request(
        "POST",
        est.PREFIX + operation,
        body=est.encode_request(request),
        headers={"Content-Type": est.CSR_MEDIA_TYPE, "Content-Transfer-Encoding": "base64"},
    )
    leaf = est.decode_certificates(answer.body)[0]
    try:
        certificate = x509profile.parse_device_certificate(leaf.public_bytes(Encoding.DER))
    except CertProfile as error:
        raise CertificateMalformed(f"the plane's certificate is none of a device: {error.message}") from error
    if certificate.key_sha256 != hashlib.sha256(x509profile.spki(key.public_key())).digest():
        raise CertificateMalformed("the plane certified another key than ours")
    if certificate.name != config.settings.name:
        raise CertificateMalformed("the plane certified another name than ours", name=certificate.name)
    issuers = [anchor for anchor in anchors if anchor.subject == leaf.issuer]
    pem = b"".join(link_.public_bytes(Encoding.PEM) for link_ in [leaf, *issuers])
    write_durably(config.ldevid_path, pem)
    return Ldevid.parse(pem)


def must_enrol_again(error: PlaneRefused, current: Ldevid) -> bool:
    """Say whether a refusal means that the operational certificate is of no use any more."""
    code = error.evidence.get("plane_code")
    if code in _CURED_BY_ENROLLING:
        return True
    return "alert" in error.evidence and not current.usable(time.time())
