"""Releases: images that the release keys signed, kept by content.

The plane authors nothing. Everything it says of a release, it reads from the signed image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from fuseline.errors import NotFound, ReleaseConflict
from fuseline.formats.mcuboot import HardwareId, TrustedKey, VerifiedImage, verify_image
from fuseline.formats.measurement import measure_image
from fuseline.formats.psa import SoftwareComponent
from fuseline.plane.store.database import Database, Row, Transaction
from fuseline.plane.store.schema import releases
from fuseline.plane.store.statements import compiled, insertion

_COLUMNS = (
    "vendor",
    "hardware",
    "version",
    "security_counter",
    "image_digest",
    "signer_id",
    "size",
    "sha256",
    "sha1",
    "md5",
    "published_at",
)
_INSERT = insertion(releases, *_COLUMNS, returning="id")
_BY_VERSION = compiled(
    sa.select(releases)
    .where(releases.c.vendor == sa.bindparam("vendor"))
    .where(releases.c.hardware == sa.bindparam("hardware"))
    .where(releases.c.version == sa.bindparam("version"))
)
_BY_ID = compiled(sa.select(releases).where(releases.c.id == sa.bindparam("id")))
_LIST = compiled(sa.select(releases).order_by(releases.c.id))


@dataclass(frozen=True, slots=True)
class Release:
    """A published release; `published_at` in seconds since the epoch, `size` in bytes."""

    release_id: int
    vendor: str
    hardware: str
    version: str
    security_counter: int
    image_digest: bytes
    signer_id: bytes
    size: int
    sha256: str
    sha1: str
    md5: str
    published_at: float

    @property
    def filename(self) -> str:
        """The artifact's name towards clients."""
        return f"{self.hardware}-{self.version}.bin"


class ReferencePublisher(Protocol):
    """The verifier, as a release needs it."""

    def publish_references(
        self,
        tx: Transaction,
        *,
        release_id: int,
        release_version: str,
        security_counter: int,
        implementation_id: bytes,
        components: list[SoftwareComponent],
    ) -> None:
        """Take a release's reference values."""


class HardwareRegister(Protocol):
    """The registry, as a release needs it."""

    def implementation_id(self, vendor: str, hardware: str) -> bytes:
        """Return a hardware class's implementation id, or raise `NotFound`."""


class Releases:
    """The releases of one fleet."""

    def __init__(
        self,
        database: Database,
        artifacts: Path,
        *,
        release_keys: Sequence[bytes],
        references: ReferencePublisher,
        hardware: HardwareRegister,
    ) -> None:
        """Work on a database; `release_keys` are SubjectPublicKeyInfo DER."""
        self._database = database
        self._artifacts = artifacts
        self._keys = [TrustedKey(key) for key in release_keys]
        self._references = references
        self._hardware = hardware

    async def publish(self, image: bytes, *, vendor: str, hardware: str, now: float) -> Release:
        """Verify and publish a MCUboot image for a hardware class.

        Publishing the same bytes again changes nothing.

        Raises:
            ImageError: Not signed by a release key, or not for this hardware.
            FormatError: Not a MCUboot image.
            ReleaseConflict: This version exists with other bytes.
            NotFound: No device of this hardware is registered.
        """
        implementation_id = self._hardware.implementation_id(vendor, hardware)
        verified = verify_image(
            image, keys=self._keys, hardware=HardwareId.of(vendor, hardware), counter_floor=0
        )
        sha256 = hashlib.sha256(image).hexdigest()
        self._keep(sha256, image)

        def work(tx: Transaction) -> Release:
            known = tx.one(_BY_VERSION, vendor=vendor, hardware=hardware, version=str(verified.version))
            if known is not None:
                return _unchanged(_release(known), sha256)
            release_id = self._insert(tx, image, verified, vendor, hardware, now)
            self._references.publish_references(
                tx,
                release_id=release_id,
                release_version=str(verified.version),
                security_counter=verified.security_counter,
                implementation_id=implementation_id,
                components=[measure_image(verified)],
            )
            row = tx.one(_BY_ID, id=release_id)
            assert row is not None
            return _release(row)

        return await self._database.write(work)

    def _insert(
        self, tx: Transaction, image: bytes, verified: VerifiedImage, vendor: str, hardware: str, now: float
    ) -> int:
        row = tx.one(
            _INSERT,
            vendor=vendor,
            hardware=hardware,
            version=str(verified.version),
            security_counter=verified.security_counter,
            image_digest=verified.digest,
            signer_id=verified.signer_id,
            size=len(image),
            sha256=hashlib.sha256(image).hexdigest(),
            # hawkBit clients read these two; nothing here relies on them.
            sha1=hashlib.sha1(image, usedforsecurity=False).hexdigest(),
            md5=hashlib.md5(image, usedforsecurity=False).hexdigest(),
            published_at=now,
        )
        assert row is not None
        tx.emit(
            "release.published",
            now,
            version=str(verified.version),
            hardware=hardware,
            security_counter=verified.security_counter,
            digest=verified.digest.hex(),
        )
        return int(row[0])

    def _keep(self, sha256: str, image: bytes) -> None:
        """Put an artifact into the store: whole on the disk before anything refers to it."""
        self._artifacts.mkdir(mode=0o700, exist_ok=True)
        target = self._artifacts / sha256
        if target.exists():
            return
        fresh = target.with_suffix(f".{os.getpid()}.new")
        with fresh.open("wb") as file:
            file.write(image)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)

    def artifact(self, release: Release) -> Path:
        """Return the path of a release's bytes."""
        return self._artifacts / release.sha256

    def get(self, release_id: int) -> Release:
        """Return a release.

        Raises:
            NotFound: No such release.
        """
        row = self._database.one(_BY_ID, id=release_id)
        if row is None:
            raise NotFound("no such release", release=release_id)
        return _release(row)

    def find(self, *, vendor: str, hardware: str, version: str) -> Release:
        """Return a release by its version.

        Raises:
            NotFound: No such release.
        """
        row = self._database.one(_BY_VERSION, vendor=vendor, hardware=hardware, version=version)
        if row is None:
            raise NotFound("no such release", version=version, hardware=hardware)
        return _release(row)

    def all(self) -> list[Release]:
        """List all releases, oldest first."""
        return [_release(row) for row in self._database.all(_LIST)]


def _unchanged(release: Release, sha256: str) -> Release:
    if release.sha256 != sha256:
        raise ReleaseConflict("this version is published with other bytes", version=release.version)
    return release


def _release(row: Row) -> Release:
    return Release(row["id"], *(row[name] for name in _COLUMNS))
