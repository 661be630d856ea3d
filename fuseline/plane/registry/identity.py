"""Who is calling: from the verified peer certificate to a registered device, on every request.

TLS checks a chain once, in the full handshake. A resumed session skips that, and an open connection
outlives anything, so validity and revocation are looked at here for each request.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable

import msgspec
import sqlalchemy as sa
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from fuseline.errors import (
    CertExpired,
    CertKind,
    CertMissing,
    CertProfile,
    CertRevoked,
    CertUnknown,
    NotOnManifest,
)
from fuseline.formats.x509profile import DeviceCertificate, parse_device_certificate, subject_key_id
from fuseline.plane.store.database import Database, Row
from fuseline.plane.store.schema import certificates, devices
from fuseline.plane.store.statements import compiled

_DEVICE_COLUMNS = (
    devices.c.id,
    devices.c.name,
    devices.c.vendor,
    devices.c.hardware,
    devices.c.implementation_id,
    devices.c.attestation_key,
    devices.c.idevid_serial,
    devices.c.idevid_key_sha256,
)
_BY_LDEVID = compiled(
    sa.select(*_DEVICE_COLUMNS)
    .join(certificates, certificates.c.device_id == devices.c.id)
    .where(certificates.c.fingerprint == sa.bindparam("fingerprint"))
)
_BY_NAME = compiled(sa.select(*_DEVICE_COLUMNS).where(devices.c.name == sa.bindparam("name")))
# What can change about a device, read for every request.
_STANDING = compiled(
    sa.select(devices.c.revoked_at, devices.c.revoked_reason).where(devices.c.id == sa.bindparam("id"))
)

# Certificates kept per worker: each is parsed, its signature checked and its device looked up once. Neither
# changes: what a manifest says of a device stays, and an issued certificate is never taken off the record.
_CACHE_SIZE = 65_536


class CertificateKind(enum.StrEnum):
    """Which of a device's two certificates this is (IEEE 802.1AR)."""

    IDEVID = "idevid"
    LDEVID = "ldevid"


class Peer(msgspec.Struct, frozen=True):
    """A device that proved its identity in this connection and is in good standing now."""

    device_id: int
    name: str
    vendor: str
    hardware: str
    implementation_id: bytes
    attestation_key: bytes
    kind: CertificateKind
    certificate: DeviceCertificate

    def require(self, kind: CertificateKind) -> None:
        """Let only one kind of certificate through.

        Raises:
            CertKind: The other kind.
        """
        if self.kind is not kind:
            raise CertKind(f"this route takes the {kind.value}", presented=self.kind.value)


class Identifier:
    """Turns a peer certificate into a `Peer`, or raises."""

    def __init__(
        self, database: Database, *, factory_ca: x509.Certificate, operational_ca: x509.Certificate
    ) -> None:
        self._database = database
        self._issuers = {
            subject_key_id(factory_ca).digest: (CertificateKind.IDEVID, factory_ca),
            subject_key_id(operational_ca).digest: (CertificateKind.LDEVID, operational_ca),
        }
        self._parse: Callable[[bytes], tuple[DeviceCertificate, CertificateKind]] = functools.lru_cache(
            _CACHE_SIZE
        )(self._parse_uncached)
        self._known: Callable[[bytes], Peer] = functools.lru_cache(_CACHE_SIZE)(self._known_uncached)

    def identify(self, der: bytes | None, now: float) -> Peer:
        """Identify the device behind a connection.

        1. There is a certificate.
        2. It follows the device profile and one of our two CAs signed it.
        3. It is valid now (RFC 5280 4.1.2.5).
        4. The registry knows it: an LDevID that we issued, or the IDevID on the manifest.
        5. The device is not revoked.

        Args:
            der: The peer certificate, as TLS verified it; None when there was none.
            now: Seconds since the epoch.

        Raises:
            IdentityError: The step that failed, by its code.
        """
        # 1.
        if der is None:
            raise CertMissing("the connection carries no client certificate")
        # 2.
        certificate, _ = self._parse(der)
        # 3.
        if not certificate.not_before <= now <= certificate.not_after:
            raise CertExpired(
                "the certificate is not valid now", serial=certificate.serial, not_after=certificate.not_after
            )
        # 4.
        peer = self._known(der)
        # 5.
        standing = self._database.one(_STANDING, id=peer.device_id)
        if standing is None:
            raise CertUnknown("the registry has no such device any more", device=peer.name)
        if standing[0] is not None:
            raise CertRevoked("the device was revoked", device=peer.name, reason=standing[1])
        return peer

    def _parse_uncached(self, der: bytes) -> tuple[DeviceCertificate, CertificateKind]:
        certificate = parse_device_certificate(der)
        kind, issuer = self._issuers.get(certificate.issuer_key_id, (None, None))
        if kind is None or issuer is None:
            raise CertProfile("the certificate is not from this fleet's CAs", serial=certificate.serial)
        try:
            x509.load_der_x509_certificate(der).verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise CertProfile("the certificate is not signed by its CA", serial=certificate.serial) from error
        return certificate, kind

    def _known_uncached(self, der: bytes) -> Peer:
        certificate, kind = self._parse(der)
        row = self._ldevid(certificate) if kind is CertificateKind.LDEVID else self._idevid(certificate)
        return Peer(row[0], row[1], row[2], row[3], row[4], row[5], kind, certificate)

    def _ldevid(self, certificate: DeviceCertificate) -> Row:
        row = self._database.one(_BY_LDEVID, fingerprint=certificate.fingerprint)
        if row is None:
            raise CertUnknown("the registry never issued this certificate", serial=certificate.serial)
        return row

    def _idevid(self, certificate: DeviceCertificate) -> Row:
        row = self._database.one(_BY_NAME, name=certificate.name)
        if row is None:
            raise NotOnManifest("no manifest lists this device", device=certificate.name)
        if row[7] != certificate.key_sha256 or row[6] != certificate.serial:
            raise NotOnManifest("the manifest lists another key for this device", device=certificate.name)
        return row
