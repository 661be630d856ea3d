"""The operator port: the API that people and their programs use, and the console."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import sqlalchemy as sa
from litestar import Litestar, Request, Response, get, post
from litestar.config.response_cache import ResponseCacheConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.response import Redirect, ServerSentEvent, ServerSentEventMessage

import fuseline
from fuseline.errors import (
    BodyTooLarge,
    FuselineError,
    MessageMalformed,
    MethodNotAllowed,
    NotFound,
    OperatorToken,
)
from fuseline.plane.api import operator_auth
from fuseline.plane.api.problem import MEDIA_TYPE, defect, problem, status_of
from fuseline.plane.api.reports import DeviceReport, Overview, Reporter
from fuseline.plane.console import pages
from fuseline.plane.ota.rollouts import Candidate
from fuseline.plane.registry.directory import decode_signature_header
from fuseline.plane.services import Services
from fuseline.plane.store.schema import events
from fuseline.plane.store.statements import compiled

# A manifest of 100,000 devices has 40 MB; larger ones come in batches.
_MAX_BODY = 64 * 1024 * 1024
_EVENT_PERIOD = 0.2  # seconds between looks at the outbox
_KEEPALIVE = 15.0  # seconds; proxies cut silent streams after 30 to 60

_RECENT = 12  # events that a new listener gets for a start

_EVENTS_AFTER = compiled(
    sa.select(events).where(events.c.id > sa.bindparam("after")).order_by(events.c.id).limit(500)
)
_LAST_EVENT = compiled(sa.select(sa.func.max(events.c.id)))


class RolloutRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which release should run on all devices of which hardware."""

    vendor: str
    hardware: str
    version: str


class RolloutReport(msgspec.Struct, frozen=True):
    """A rollout that was started, and the devices it left out and why."""

    rollout: int
    devices: list[str]
    skipped: dict[str, str]


class ReleaseReport(msgspec.Struct, frozen=True):
    """A published release; digests in hex."""

    vendor: str
    hardware: str
    version: str
    security_counter: int
    digest: str
    signer_id: str
    sha256: str
    size: int
    published_at: float


class RevocationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a device is revoked."""

    reason: str


@get("/healthz", opt={"public": True}, sync_to_thread=False)
def healthz() -> dict[str, str]:
    """Say that this worker serves."""
    return {"status": "ok", "version": fuseline.__version__}


@get("/api/v1/overview", sync_to_thread=False)
def overview(services: Services) -> Overview:
    """Return the fleet and the live state of each layer."""
    return Reporter(services).overview()


@get("/api/v1/devices", sync_to_thread=False)
def list_devices(services: Services) -> dict[str, list[DeviceReport]]:
    """Return all devices with their stages and evidence."""
    return {"devices": Reporter(services).devices()}


@get("/api/v1/devices/{name:str}", sync_to_thread=False)
def show_device(services: Services, name: str) -> DeviceReport:
    """Return one device."""
    for report in Reporter(services).devices():
        if report.name == name:
            return report
    raise NotFound("no such device", device=name[:253])


@post("/api/v1/devices/{name:str}/revoke")
async def revoke_device(services: Services, name: str, data: RevocationRequest) -> dict[str, str]:
    """Revoke a device: its next request is refused, on open connections too."""
    await services.directory.revoke(name, data.reason, time.time())
    return {"revoked": name}


@post("/api/v1/manifests")
async def import_manifest(services: Services, request: Request) -> dict[str, int]:  # type: ignore[type-arg]
    """Import a manufacturing manifest; its signature comes in `Fuseline-Manifest-Signature`, base64."""
    signature = decode_signature_header(request.headers.get("fuseline-manifest-signature", ""))
    count = await services.directory.import_manifest(await request.body(), signature, time.time())
    return {"registered": count}


@get("/api/v1/releases", sync_to_thread=False)
def list_releases(services: Services) -> dict[str, list[ReleaseReport]]:
    """Return all releases."""
    return {
        "releases": [
            ReleaseReport(
                vendor=release.vendor,
                hardware=release.hardware,
                version=release.version,
                security_counter=release.security_counter,
                digest=release.image_digest.hex(),
                signer_id=release.signer_id.hex(),
                sha256=release.sha256,
                size=release.size,
                published_at=release.published_at,
            )
            for release in services.releases.all()
        ]
    }


@post("/api/v1/releases")
async def publish_release(
    services: Services,
    request: Request,  # type: ignore[type-arg]
    vendor: str,
    hardware: str,
) -> dict[str, str | int]:
    """Publish a signed MCUboot image (the body) for a hardware class."""
    image = await request.body()
    release = await services.releases.publish(image, vendor=vendor, hardware=hardware, now=time.time())
    return {"version": release.version, "digest": release.image_digest.hex(), "size": release.size}


@post("/api/v1/rollouts")
async def start_rollout(services: Services, data: RolloutRequest) -> RolloutReport:
    """Roll a release out to all devices of its hardware."""
    release = services.releases.find(vendor=data.vendor, hardware=data.hardware, version=data.version)
    latest = services.verifier.latest()
    candidates = [
        Candidate(
            device_id=member.device_id,
            name=member.name,
            running=latest[member.device_id].release_id if member.device_id in latest else None,
            floor=services.verifier.floor(member.device_id),
        )
        for member in services.directory.cohort(data.vendor, data.hardware)
    ]
    started = await services.rollouts.start(release, candidates, time.time())
    return RolloutReport(started.rollout_id, started.devices, started.skipped)


@get("/api/v1/events", sync_to_thread=False)
def stream_events(services: Services, request: Request) -> ServerSentEvent:  # type: ignore[type-arg]
    """Stream what happens: the last few events, or those after `Last-Event-ID`, then what comes."""
    resume = request.headers.get("last-event-id", "")
    if resume.isdigit() and len(resume) <= 18:
        after = int(resume)
    else:
        last = services.database.one(_LAST_EVENT)
        after = max(0, ((last and last[0]) or 0) - _RECENT)
    return ServerSentEvent(_events(services, request.app.state, after))


async def _events(services: Services, state: State, after: int) -> AsyncIterator[ServerSentEventMessage]:
    quiet_since = time.monotonic()
    yield ServerSentEventMessage(data=None, comment="open", retry=1000)
    while not state.closing:
        for row in services.database.all(_EVENTS_AFTER, after=after):
            after = row["id"]
            quiet_since = time.monotonic()
            body = {
                "kind": row["kind"],
                "device": row["device"],
                "at": row["at"],
                "data": json.loads(row["data"]),
            }
            yield ServerSentEventMessage(id=after, event="change", data=json.dumps(body))
        if time.monotonic() - quiet_since > _KEEPALIVE:
            quiet_since = time.monotonic()
            yield ServerSentEventMessage(data=None, comment="still here")
        await asyncio.sleep(_EVENT_PERIOD)


def _on_error(request: Request, error: FuselineError) -> Response[bytes]:  # type: ignore[type-arg]
    if isinstance(error, OperatorToken) and request.url.path == "/":
        return Redirect("/console/login")
    return Response(problem(error), media_type=MEDIA_TYPE, status_code=status_of(error))


def _on_http_error(request: Request, error: HTTPException) -> Response[bytes]:  # type: ignore[type-arg]
    """Give the framework's own refusals the same shape and a code."""
    path = request.url.path[:120]
    match error.status_code:
        case 404:
            ours: FuselineError = NotFound("no such route", path=path)
        case 405:
            ours = MethodNotAllowed("not with this method", path=path)
        case 413:
            ours = BodyTooLarge("the body is too large", limit=_MAX_BODY)
        case _:
            details: Any = error.extra or error.detail
            ours = MessageMalformed(error.detail, path=path, details=details)
    return Response(problem(ours), media_type=MEDIA_TYPE, status_code=status_of(ours))


def _on_defect(request: Request, error: Exception) -> Response[bytes]:  # type: ignore[type-arg]
    return _on_error(request, defect(request.url.path, error))


def operator_port(services: Services, token: str) -> Litestar:
    """Build the operator's application."""
    return Litestar(
        route_handlers=[
            healthz,
            overview,
            list_devices,
            show_device,
            revoke_device,
            import_manifest,
            list_releases,
            publish_release,
            start_rollout,
            stream_events,
            pages.index,
            pages.login_page,
            pages.static,
            pages.favicon,
            operator_auth.login,
            operator_auth.logout,
        ],
        guards=[operator_auth.guard(token)],
        dependencies={"services": Provide(lambda: services, sync_to_thread=False)},
        state=State({"operator_token": token, "closing": False}),
        exception_handlers={
            FuselineError: _on_error,
            HTTPException: _on_http_error,
            Exception: _on_defect,
        },
        openapi_config=OpenAPIConfig(
            title="Fuseline operator API",
            version=fuseline.__version__,
            path="/api/schema",
            render_plugins=[JsonRenderPlugin()],
        ),
        response_headers=pages.SECURITY_HEADERS,
        request_max_body_size=_MAX_BODY,
        response_cache_config=ResponseCacheConfig(default_expiration=None),
        logging_config=None,
        signature_types=[Services],
    )
