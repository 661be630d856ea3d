"""Releases: images that the release keys signed, kept by content.

The plane authors nothing. Everything it says of a release, it reads from the signed image.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
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
        # Hashing and writing a large image would keep polling devices waiting.
        artifact = await asyncio.to_thread(self._take, image, HardwareId.of(vendor, hardware))
        verified = artifact.image

        def work(tx: Transaction) -> Release:
            known = tx.one(_BY_VERSION, vendor=vendor, hardware=hardware, version=str(verified.version))
            if known is not None:
                return _unchanged(_release(known), artifact.sha256)
            release_id = _insert(tx, artifact, vendor, hardware, now)
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

    def _take(self, raw: bytes, hardware: HardwareId) -> _Artifact:
        """Verify an image and put it into the store: whole on the disk before anything refers to it."""
        artifact = _Artifact(
            image=verify_image(raw, keys=self._keys, hardware=hardware, counter_floor=0),
            size=len(raw),
            sha256=hashlib.sha256(raw).hexdigest(),
            # hawkBit clients read these two; nothing here relies on them.
            sha1=hashlib.sha1(raw, usedforsecurity=False).hexdigest(),
            md5=hashlib.md5(raw, usedforsecurity=False).hexdigest(),
        )
        self._artifacts.mkdir(mode=0o700, exist_ok=True)
        target = self._artifacts / artifact.sha256
        with tempfile.NamedTemporaryFile(dir=self._artifacts, delete=False) as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(target)
        return artifact

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


@dataclass(frozen=True, slots=True)
class _Artifact:
    """A verified image and the digests of its file."""

    image: VerifiedImage
    size: int
    sha256: str
    sha1: str
    md5: str


def _insert(tx: Transaction, artifact: _Artifact, vendor: str, hardware: str, now: float) -> int:
    image = artifact.image
    row = tx.one(
        _INSERT,
        vendor=vendor,
        hardware=hardware,
        version=str(image.version),
        security_counter=image.security_counter,
        image_digest=image.digest,
        signer_id=image.signer_id,
        size=artifact.size,
        sha256=artifact.sha256,
        sha1=artifact.sha1,
        md5=artifact.md5,
        published_at=now,
    )
    assert row is not None
    tx.emit(
        "release.published",
        now,
        version=str(image.version),
        hardware=hardware,
        security_counter=image.security_counter,
        digest=image.digest.hex(),
    )
    return int(row[0])


def _unchanged(release: Release, sha256: str) -> Release:
    if release.sha256 != sha256:
        raise ReleaseConflict("this version is published with other bytes", version=release.version)
    return release


def _release(row: Row) -> Release:
    return Release(row["id"], *(row[name] for name in _COLUMNS))
