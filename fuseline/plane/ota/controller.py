"""The hawkBit DDI v1 conversation with one device ("controller" in DDI's words)."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as upsert

from fuseline.errors import MessageMalformed, NotFound
from fuseline.formats import ddi
from fuseline.plane.ota.releases import Release, Releases
from fuseline.plane.ota.rollouts import Rollouts
from fuseline.plane.ota.states import ActionState
from fuseline.plane.store.database import Database, Transaction
from fuseline.plane.store.schema import attributes
from fuseline.plane.store.statements import compiled

_HAS_ATTRIBUTES = compiled(
    sa.select(attributes.c.device_id).where(attributes.c.device_id == sa.bindparam("device_id")).limit(1)
)
_put = upsert(attributes).values(
    device_id=sa.bindparam("device_id"), name=sa.bindparam("name"), value=sa.bindparam("value")
)
_PUT = compiled(
    _put.on_conflict_do_update(
        index_elements=[attributes.c.device_id, attributes.c.name], set_={"value": _put.excluded.value}
    )
)
_DROP = compiled(sa.delete(attributes).where(attributes.c.device_id == sa.bindparam("device_id")))
_DROP_ONE = compiled(
    sa.delete(attributes)
    .where(attributes.c.device_id == sa.bindparam("device_id"))
    .where(attributes.c.name == sa.bindparam("name"))
)
# hawkBit's own limits for attributes: 100 of them, 128 characters a value.
_MAX_ATTRIBUTES, _MAX_VALUE = 100, 128

_FEEDBACK = msgspec.json.Decoder(ddi.Feedback)
_CONFIG = msgspec.json.Decoder(ddi.ConfigData)
_ENCODE = msgspec.json.Encoder().encode


class Controller(msgspec.Struct, frozen=True):
    """The device in the conversation, as the certificate names it."""

    device_id: int
    name: str
    base: str
    """URL prefix of this controller: scheme, host, tenant and name, as the device reached it."""


class ControllerService:
    """Answers DDI requests with JSON bytes."""

    def __init__(
        self, database: Database, releases: Releases, rollouts: Rollouts, *, poll_seconds: int
    ) -> None:
        self._database = database
        self._releases = releases
        self._rollouts = rollouts
        self._config = ddi.PollingConfig(ddi.PollingSleep(ddi.sleep_text(poll_seconds)))
        self._told: set[int] = set()  # devices known to have sent their attributes

    def poll(self, device: Controller) -> tuple[bytes, int | None]:
        """Answer a poll; the second value is an action that this poll offers for the first time."""
        action = self._rollouts.deployable(device.device_id)
        links = ddi.PollLinks(
            deployment_base=ddi.Href(f"{device.base}/deploymentBase/{action[0]}") if action else None,
            config_data=None if self._told_us(device.device_id) else ddi.Href(f"{device.base}/configData"),
        )
        fresh = action[0] if action and action[1] is ActionState.SCHEDULED else None
        return _ENCODE(ddi.Poll(self._config, links)), fresh

    async def offered(self, device: Controller, action_id: int, now: float) -> None:
        """Note that an action was offered."""
        await self._rollouts.offered(action_id, device.name, now)

    def _told_us(self, device_id: int) -> bool:
        if device_id in self._told:
            return True
        if self._database.one(_HAS_ATTRIBUTES, device_id=device_id) is None:
            return False
        self._told.add(device_id)
        return True

    def deployment(self, device: Controller, action_id: int) -> bytes:
        """Answer ``deploymentBase/{action}``.

        Raises:
            NotFound: Not this device's action.
        """
        action = self._rollouts.of_device(device.device_id, action_id)
        release = self._releases.get(action.release_id)
        link = ddi.Href(f"{device.base}/softwaremodules/{release.release_id}/artifacts/{release.filename}")
        artifact = ddi.Artifact(
            filename=release.filename,
            hashes=ddi.Hashes(sha1=release.sha1, md5=release.md5, sha256=release.sha256),
            size=release.size,
            links=ddi.ArtifactLinks(download=link, download_http=link),
        )
        chunk = ddi.Chunk(part="bApp", version=release.version, name=release.hardware, artifacts=[artifact])
        deployment = ddi.Deployment(download="forced", update="forced", chunks=[chunk])
        return _ENCODE(ddi.DeploymentBase(id=str(action_id), deployment=deployment))

    def artifact(self, device: Controller, release_id: int, filename: str) -> Release:
        """Return the release behind an artifact link.

        Raises:
            NotFound: No such artifact, or no rollout meant it for this device.
        """
        release = self._releases.get(release_id)
        if release.filename != filename or not self._rollouts.may_download(device.device_id, release_id):
            raise NotFound("no such artifact for this device", filename=filename[:80])
        return release

    async def feedback(self, device: Controller, action_id: int, body: bytes, now: float) -> None:
        """Take ``deploymentBase/{action}/feedback``.

        Raises:
            MessageMalformed: Not a feedback message, or about another action than the path's.
            NotFound: Not this device's action.
        """
        try:
            message = _FEEDBACK.decode(body)
        except msgspec.DecodeError as error:
            raise MessageMalformed(f"feedback: {error}") from error
        if message.id is not None and str(message.id) != str(action_id):
            raise MessageMalformed("the feedback is about another action", body=str(message.id)[:20])
        action = self._rollouts.of_device(device.device_id, action_id)
        await self._rollouts.feedback(action, device.name, message, now)

    async def config_data(self, device: Controller, body: bytes) -> None:
        """Take ``configData``: what the device says of itself.

        Raises:
            MessageMalformed: Not a configData message, or too much of it.
        """
        try:
            message = _CONFIG.decode(body)
        except msgspec.DecodeError as error:
            raise MessageMalformed(f"configData: {error}") from error
        if len(message.data) > _MAX_ATTRIBUTES or any(
            len(text) > _MAX_VALUE for pair in message.data.items() for text in pair
        ):
            raise MessageMalformed("more or longer attributes than hawkBit allows")
        rows: list[dict[str, int | str]] = [
            {"device_id": device.device_id, "name": name, "value": value}
            for name, value in message.data.items()
        ]
        match message.mode:
            case "merge":
                await self._database.write(lambda tx: tx.many(_PUT, rows))
            case "replace":
                await self._database.write(lambda tx: _replace(tx, device.device_id, rows))
            case "remove":
                keys = [{"device_id": device.device_id, "name": name} for name in message.data]
                await self._database.write(lambda tx: tx.many(_DROP_ONE, keys))


def _replace(tx: Transaction, device_id: int, rows: list[dict[str, int | str]]) -> None:
    tx.run(_DROP, device_id=device_id)
    tx.many(_PUT, rows)
