"""Issuing operational certificates: what EST's `simpleenroll` and `simplereenroll` do."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fuseline.errors import CsrKey
from fuseline.formats import est, x509profile
from fuseline.plane.registry.identity import CertificateKind, Peer
from fuseline.plane.store.database import Database, Transaction
from fuseline.plane.store.schema import certificates, devices
from fuseline.plane.store.statements import compiled, insertion

# Clocks of devices run slow; a certificate that starts in their future locks them out.
_BACKDATE = dt.timedelta(minutes=5)

_KEY_OWNER = compiled(
    sa.select(certificates.c.device_id).where(certificates.c.key_sha256 == sa.bindparam("key")).limit(1)
)
_IDEVID_OWNER = compiled(sa.select(devices.c.id).where(devices.c.idevid_key_sha256 == sa.bindparam("key")))
_INSERT = insertion(
    certificates,
    "fingerprint",
    "device_id",
    "serial",
    "key_sha256",
    "not_before",
    "not_after",
    "issued_at",
    "der",
)


class Enrolment:
    """The operational CA of one fleet."""

    def __init__(
        self,
        database: Database,
        *,
        root: x509.Certificate,
        ca: x509.Certificate,
        ca_key: ec.EllipticCurvePrivateKey,
        lifetime: int,
    ) -> None:
        """Work on a database; `lifetime` of certificates in seconds."""
        self._database = database
        self._chain = [ca, root]
        self._ca = ca
        self._ca_key = ca_key
        self._lifetime = dt.timedelta(seconds=lifetime)

    def ca_certificates(self) -> bytes:
        """Answer `cacerts`: the operational CA and the root (RFC 7030 4.1)."""
        return est.encode_certificates(self._chain)

    async def enroll(self, peer: Peer, body: bytes, now: float) -> bytes:
        """Answer `simpleenroll`: the IDevID turns into a first or a fresh LDevID (RFC 7030 4.2.1)."""
        peer.require(CertificateKind.IDEVID)
        return await self._issue(peer, body, now, "device.enrolled")

    async def reenroll(self, peer: Peer, body: bytes, now: float) -> bytes:
        """Answer `simplereenroll`: the current LDevID turns into the next one (RFC 7030 4.2.2)."""
        peer.require(CertificateKind.LDEVID)
        return await self._issue(peer, body, now, "device.renewed")

    async def _issue(self, peer: Peer, body: bytes, now: float, event: str) -> bytes:
        request = x509profile.verify_request(est.decode_request(body), name=peer.name)
        moment = dt.datetime.fromtimestamp(now, dt.UTC)
        certificate = x509profile.issue_device_certificate(
            name=request.name,
            key=request.key,
            issuer=self._ca,
            issuer_key=self._ca_key,
            serial=x509.random_serial_number(),
            not_before=moment - _BACKDATE,
            not_after=min(moment + self._lifetime, self._ca.not_valid_after_utc),
        )
        try:
            # Nobody sees a certificate before the registry has it on the disk.
            await self._database.write(lambda tx: _store(tx, peer, request, certificate, now, event))
        except CsrKey:
            key = request.key_sha256.hex()
            await self._database.write(
                lambda tx: tx.emit("registry.duplicate_key", now, peer.name, key_sha256=key)
            )
            raise
        return est.encode_certificates([certificate])


def _store(
    tx: Transaction,
    peer: Peer,
    request: x509profile.VerifiedRequest,
    certificate: x509.Certificate,
    now: float,
    event: str,
) -> None:
    for statement in (_KEY_OWNER, _IDEVID_OWNER):
        owner = tx.one(statement, key=request.key_sha256)
        if owner is not None and owner[0] != peer.device_id:
            raise CsrKey("another device has this key", device=peer.name)
    der = certificate.public_bytes(Encoding.DER)
    issued = x509profile.parse_device_certificate(der)
    tx.run(
        _INSERT,
        fingerprint=issued.fingerprint,
        device_id=peer.device_id,
        serial=issued.serial,
        key_sha256=request.key_sha256,
        not_before=issued.not_before,
        not_after=issued.not_after,
        issued_at=now,
        der=der,
    )
    tx.emit(event, now, peer.name, serial=issued.serial, not_after=issued.not_after)
