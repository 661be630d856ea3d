"""The register of devices: manifests in, lists and revocations out."""

from __future__ import annotations

import base64
import binascii
import hashlib
import sqlite3
from dataclasses import dataclass

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.dialects.sqlite import insert as upsert

from fuseline.errors import ManifestMalformed, NotFound
from fuseline.formats import manifest, x509profile
from fuseline.plane.store.database import Database, Row, Transaction
from fuseline.plane.store.schema import certificates, devices, presence
from fuseline.plane.store.statements import compiled, insertion

_INSERT = insertion(
    devices,
    "name",
    "vendor",
    "hardware",
    "implementation_id",
    "idevid_serial",
    "idevid_key_sha256",
    "attestation_key",
    "manufactured_at",
)
_BY_NAME = compiled(sa.select(devices).where(devices.c.name == sa.bindparam("name")))
_LIST = compiled(
    sa.select(devices, presence.c.last_seen)
    .join(presence, presence.c.device_id == devices.c.id, isouter=True)
    .order_by(devices.c.name)
)
_COHORT = compiled(
    sa.select(devices.c.id, devices.c.name)
    .where(devices.c.vendor == sa.bindparam("vendor"))
    .where(devices.c.hardware == sa.bindparam("hardware"))
    .where(devices.c.revoked_at.is_(None))
    .order_by(devices.c.id)
)
_HARDWARE = compiled(
    sa.select(devices.c.implementation_id)
    .where(devices.c.vendor == sa.bindparam("vendor"))
    .where(devices.c.hardware == sa.bindparam("hardware"))
    .distinct()
)
_REVOKE = compiled(
    sa.update(devices)
    .where(devices.c.name == sa.bindparam("device_name"))
    .where(devices.c.revoked_at.is_(None))
    .values(revoked_at=sa.bindparam("at"), revoked_reason=sa.bindparam("reason"))
)
_CERTIFICATES = compiled(
    sa.select(
        certificates.c.serial, certificates.c.issued_at, certificates.c.not_after, certificates.c.device_id
    )
    .where(certificates.c.device_id == sa.bindparam("device_id"))
    .order_by(certificates.c.issued_at)
)
_seen = upsert(presence).values(device_id=sa.bindparam("device_id"), last_seen=sa.bindparam("last_seen"))
_SEEN = compiled(
    _seen.on_conflict_do_update(
        index_elements=[presence.c.device_id], set_={"last_seen": _seen.excluded.last_seen}
    )
)


@dataclass(frozen=True, slots=True)
class Device:
    """A registered device as the operator sees it; times in seconds since the epoch."""

    device_id: int
    name: str
    vendor: str
    hardware: str
    idevid_serial: str
    manufactured_at: float
    revoked_at: float | None
    revoked_reason: str | None
    last_seen: float | None


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """An LDevID that was issued; times in seconds since the epoch."""

    serial: str
    issued_at: float
    not_after: float


@dataclass(frozen=True, slots=True)
class Member:
    """A device of a cohort."""

    device_id: int
    name: str


class Directory:
    """Reads and changes the register."""

    def __init__(self, database: Database, factory_ca: x509.Certificate) -> None:
        self._database = database
        key = factory_ca.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        self._factory_key = key

    async def import_manifest(self, body: bytes, signature: bytes, now: float) -> int:
        """Register the devices of a manifest that the factory signed; returns how many are new.

        A manifest that was imported before changes nothing.

        Raises:
            ManifestSignature: Not the factory's.
            ManifestMalformed: A device in it is already registered with other keys; nothing is imported.
        """
        verified = manifest.verify(hashlib.sha256(body).digest(), signature, self._factory_key)
        entries = list(manifest.decode_entries(body.splitlines(), verified))
        return await self._database.write(lambda tx: sum(_register(tx, entry, now) for entry in entries))

    def devices(self) -> list[Device]:
        """List all devices by name."""
        return [_device(row) for row in self._database.all(_LIST)]

    def cohort(self, vendor: str, hardware: str) -> list[Member]:
        """List the devices of a hardware class that are not revoked."""
        return [Member(*row) for row in self._database.all(_COHORT, vendor=vendor, hardware=hardware)]

    def implementation_id(self, vendor: str, hardware: str) -> bytes:
        """Return the implementation id of a hardware class.

        Raises:
            NotFound: No device of this class is registered.
        """
        row = self._database.one(_HARDWARE, vendor=vendor, hardware=hardware)
        if row is None:
            raise NotFound("no device of this hardware is registered", vendor=vendor, hardware=hardware)
        return bytes(row[0])

    def certificates(self, device_id: int) -> list[IssuedCertificate]:
        """List a device's LDevIDs, oldest first."""
        rows = self._database.all(_CERTIFICATES, device_id=device_id)
        return [IssuedCertificate(row["serial"], row["issued_at"], row["not_after"]) for row in rows]

    async def revoke(self, name: str, reason: str, now: float) -> None:
        """Revoke a device with all its certificates, from its next request on.

        Raises:
            NotFound: No such device.
        """

        def work(tx: Transaction) -> None:
            if tx.one(_BY_NAME, name=name) is None:
                raise NotFound("no such device", device=name)
            if tx.changed(_REVOKE, device_name=name, reason=reason, at=now):
                tx.emit("device.revoked", now, name, reason=reason)

        await self._database.write(work)

    async def seen(self, moments: dict[int, float]) -> None:
        """Write down when devices were last heard of."""
        rows = [{"device_id": key, "last_seen": value} for key, value in moments.items()]
        await self._database.write(lambda tx: tx.many(_SEEN, rows))


def _register(tx: Transaction, entry: manifest.ManifestEntry, now: float) -> int:
    if not x509profile.is_device_name(entry.name):
        raise ManifestMalformed("not a device name", name=entry.name[:80])
    try:
        values = {
            "name": entry.name,
            "vendor": entry.vendor,
            "hardware": entry.hardware,
            "implementation_id": bytes.fromhex(entry.implementation_id),
            "idevid_serial": entry.idevid_serial,
            "idevid_key_sha256": bytes.fromhex(entry.idevid_key_sha256),
            "attestation_key": bytes(entry.attestation_key),
        }
    except (ValueError, binascii.Error) as error:
        raise ManifestMalformed("a key or identifier is not hex", device=entry.name) from error
    known = tx.one(_BY_NAME, name=entry.name)
    if known is not None:
        if any(known[column] != value for column, value in values.items()):
            raise ManifestMalformed("the device is registered with other keys", device=entry.name)
        return 0
    try:
        tx.run(_INSERT, **values, manufactured_at=now)
    except sqlite3.IntegrityError as error:
        raise ManifestMalformed("another device has one of these keys", device=entry.name) from error
    tx.emit("device.manufactured", now, entry.name, idevid_serial=entry.idevid_serial)
    return 1


def _device(row: Row) -> Device:
    return Device(
        device_id=row["id"],
        name=row["name"],
        vendor=row["vendor"],
        hardware=row["hardware"],
        idevid_serial=row["idevid_serial"],
        manufactured_at=row["manufactured_at"],
        revoked_at=row["revoked_at"],
        revoked_reason=row["revoked_reason"],
        last_seen=row["last_seen"],
    )


def decode_signature_header(value: str) -> bytes:
    """Decode the manifest signature as an HTTP header carries it (base64).

    Raises:
        ManifestMalformed: Not base64.
    """
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ManifestMalformed("the manifest's signature is not base64") from error
