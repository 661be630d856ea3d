"""Updating: the client of hawkBit's DDI v1, and the install into the other slot."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from fuseline.device.agent.config import DeviceConfig
from fuseline.device.agent.link import PlaneLink
from fuseline.device.files import sync_folder, write_durably
from fuseline.device.firmware.loader import BootDecision
from fuseline.device.firmware.slots import SlotStore
from fuseline.errors import (
    DownloadDigest,
    DownloadTruncated,
    FuselineError,
    ImageSize,
    ImageVersion,
    PlaneRefused,
)
from fuseline.formats import ddi
from fuseline.formats.mcuboot import VerifiedImage, verify_image

T = TypeVar("T")

_MIN_SLEEP = 1  # seconds; a plane that says 00:00:00 must not make a fleet hammer it
_CHUNK = 64 * 1024
_JSON = {"Content-Type": "application/json", "Accept": ddi.MEDIA_TYPE}

# RFC 3986 3.3: a path that starts with one slash, in printable ASCII.
_PATH = re.compile(r"/(?!/)[!-~]*")
_ACTION = re.compile(r"[0-9A-Za-z_-]{1,64}")  # hawkBit's are numbers; it becomes a part of a path here

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes to do."""


class PendingUpdate(msgspec.Struct, frozen=True):
    """An update whose end the plane has not been told yet; it survives the restart into the new image.

    Attributes:
        action: The plane's action id.
        version: The version that was installed.
        digest: The image digest that was installed, hex.
        installed: The slot was complete; if not, a power cut came before it and nothing was tried.
    """

    action: str
    version: str
    digest: str
    installed: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """What a poll found."""

    sleep: int
    deployment: str | None
    config_data: str | None


@dataclass(frozen=True, slots=True)
class Task:
    """A deployment to carry out."""

    action: str
    version: str
    artifact: ddi.Artifact


class UpdateClient:
    """Talks DDI for one device."""

    def __init__(self, config: DeviceConfig, link: PlaneLink) -> None:
        self._config = config
        self._link = link
        settings = config.settings
        self._base = f"/{settings.tenant}/controller/v1/{settings.name}"

    def poll(self) -> Offer:
        """Ask what there is to do.

        Raises:
            DeviceError: No answer, an error answer, or links that lead nowhere.
            MessageMalformed: A poll interval that is none.
        """
        message = self._decode(
            self._link.request("GET", self._base, headers={"Accept": ddi.MEDIA_TYPE}).body, ddi.Poll
        )
        links = message.links
        return Offer(
            sleep=max(_MIN_SLEEP, ddi.sleep_seconds(message.config.polling.sleep)),
            deployment=_path(links.deployment_base) if links.deployment_base else None,
            config_data=_path(links.config_data) if links.config_data else None,
        )

    def tell_attributes(self, path: str, attributes: dict[str, str]) -> None:
        """Send configData."""
        body = msgspec.json.encode(ddi.ConfigData(data=attributes))
        self._link.request("PUT", path, body=body, headers=_JSON)

    def task(self, path: str) -> Task:
        """Read a deployment.

        Raises:
            PlaneRefused: Not one chunk with one artifact, which is all this device takes, or an action id
                that cannot stand in a path.
        """
        message = self._decode(self._link.request("GET", path).body, ddi.DeploymentBase)
        chunks = message.deployment.chunks
        if len(chunks) != 1 or len(chunks[0].artifacts) != 1:
            raise PlaneRefused("the deployment is not one artifact", chunks=len(chunks))
        if _ACTION.fullmatch(message.id) is None:
            raise PlaneRefused("the deployment has no usable action id", action=message.id[:80])
        return Task(message.id, chunks[0].version, chunks[0].artifacts[0])

    def report(
        self,
        action: str,
        execution: ddi.Execution,
        finished: ddi.Finished = ddi.Finished.NONE,
        *details: str,
    ) -> None:
        """Send feedback."""
        status = ddi.Status(execution=execution, result=ddi.Result(finished), details=list(details))
        body = msgspec.json.encode(ddi.Feedback(id=action, status=status))
        self._link.request("POST", f"{self._base}/deploymentBase/{action}/feedback", body=body, headers=_JSON)

    @staticmethod
    def _decode(body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            raise PlaneRefused(f"the plane's answer is not DDI: {error}") from error


class Installer:
    """Downloads, checks and writes images; keeps what a restart must not lose."""

    def __init__(self, config: DeviceConfig, store: SlotStore) -> None:
        self._config = config
        self._store = store
        self._folder = config.folder / "agent"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._pending = self._folder / "pending.json"

    @property
    def pending(self) -> PendingUpdate | None:
        """The update whose end is still to be told."""
        try:
            return msgspec.json.decode(self._pending.read_bytes(), type=PendingUpdate)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            self._pending.unlink()  # written by something else; nothing can be told of it
            return None

    def told(self) -> None:
        """Forget the pending update: the plane knows how it ended."""
        self._pending.unlink(missing_ok=True)
        sync_folder(self._folder)

    def download(self, link: PlaneLink, task: Task, progress: Progress) -> Path:
        """Fetch a task's artifact, going on where an earlier attempt stopped; returns the whole file.

        `progress` is told first where this attempt starts.

        Raises:
            DownloadTruncated: The line broke; what came is kept for the next attempt.
            DownloadDigest: The whole file is not the announced one; it is thrown away.
            ImageSize: It would not fit the slot; nothing is fetched.
            PlaneRefused: The plane does not give it.
        """
        artifact = task.artifact
        if not 0 < artifact.size <= self._config.settings.slot_size:
            raise ImageSize("the artifact is empty or larger than a slot", size=artifact.size)
        # Named by content, so that a part of one artifact is never taken for a part of another.
        announced = _hex_digest(artifact)
        part = self._folder / f"{announced}.part"
        for stale in self._folder.glob("*.part"):
            if stale != part:
                stale.unlink()
        self._fetch(link, artifact, part, progress)
        digest = hashlib.sha256(part.read_bytes()).hexdigest()
        if digest != announced:
            part.unlink()
            raise DownloadDigest("the artifact is not the announced one", got=digest)
        return part

    def _fetch(self, link: PlaneLink, artifact: ddi.Artifact, part: Path, progress: Progress) -> None:
        have = part.stat().st_size if part.exists() else 0
        if have == artifact.size:
            return
        if have > artifact.size:
            part.unlink()  # the plane announced another size before; resuming would never end
            have = 0
        progress(have, artifact.size)
        with link.download(_path(artifact.links.download), offset=have) as response, part.open("ab") as file:
            if have and response.status != http.client.PARTIAL_CONTENT:
                file.truncate(0)  # the plane sent the whole file again
                have = 0
            while True:
                try:
                    chunk = response.read1(_CHUNK)
                except http.client.IncompleteRead:
                    break
                if not chunk:
                    break
                have += len(chunk)
                if have > artifact.size:
                    part.unlink()
                    raise DownloadDigest("the artifact is longer than announced", announced=artifact.size)
                file.write(chunk)
                progress(have, artifact.size)
            file.flush()
            os.fsync(file.fileno())
        if have < artifact.size:
            raise DownloadTruncated("the download ended early", have=have, size=artifact.size)

    def install(self, path: Path, task: Task, *, running: BootDecision, counter: int) -> VerifiedImage:
        """Check an image and write it into the slot that does not run.

        Besides what the loader asks of an image, its version must be above the running one's: the loader
        runs the highest version, so anything else would cost a restart and change nothing.

        The caller MUST NOT call this while the running image is on trial: the other slot is its way back.

        Raises:
            ImageError: It must not run here; the running image and both slots stay as they are.
            FormatError: It is not an image.
        """
        raw = path.read_bytes()
        try:
            image = verify_image(
                raw,
                keys=self._config.release_keys,
                hardware=self._config.hardware_id,
                counter_floor=counter,
                slot_size=self._config.settings.slot_size,
            )
            if image.version <= running.image.version:
                raise ImageVersion(
                    "the image would not be chosen by the loader",
                    version=str(image.version),
                    running=str(running.image.version),
                )
        except FuselineError:
            path.unlink()
            raise
        pending = PendingUpdate(task.action, str(image.version), image.digest.hex())
        with self._store.begin_write(1 - running.slot) as writer:
            for start in range(0, len(raw), _CHUNK):
                writer.write(raw[start : start + _CHUNK])
            # Before the slot becomes bootable: after the restart somebody must know what this was.
            write_durably(self._pending, msgspec.json.encode(pending))
            writer.finish("test")
        installed = msgspec.structs.replace(pending, installed=True)
        write_durably(self._pending, msgspec.json.encode(installed))
        path.unlink()
        return image


def _hex_digest(artifact: ddi.Artifact) -> str:
    digest = artifact.hashes.sha256.lower()
    if len(digest) != 64 or any(letter not in "0123456789abcdef" for letter in digest):
        raise PlaneRefused("the deployment has no SHA-256", sha256=digest[:80])
    return digest


def _path(link: ddi.Href) -> str:
    """Return a link's path: the host is the one the device is configured for, whatever a link says."""
    try:
        path = urlsplit(link.href).path
    except ValueError as error:
        raise PlaneRefused("a link of the plane is not a URL", href=link.href[:80]) from error
    if _PATH.fullmatch(path) is None:
        raise PlaneRefused("a link of the plane has no usable path", href=link.href[:80])
    return path
