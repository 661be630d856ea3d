"""The device port: EST, challenge-response and hawkBit DDI over mutual TLS, as a plain ASGI application.

Every request is identified by its certificate and by nothing else; a name in a path only has to agree.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

import msgspec
import structlog
from starlette.responses import FileResponse

from fuseline.errors import (
    BodyTooLarge,
    CertExpired,
    CertMissing,
    CertProfile,
    CertRevoked,
    CertUnknown,
    DeviceMismatch,
    FuselineError,
    MediaType,
    MethodNotAllowed,
    NotFound,
    NotOnManifest,
)
from fuseline.formats import ddi, est, psa, rats
from fuseline.plane.api.peer_certificate import peer_certificate
from fuseline.plane.api.problem import MEDIA_TYPE, defect, problem, status_of
from fuseline.plane.ota.controller import Controller
from fuseline.plane.registry.identity import CertificateKind, Peer
from fuseline.plane.services import Services
from fuseline.plane.verifier.service import Attester

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = structlog.get_logger("device-port")

_MAX_BODY = 64 * 1024  # the largest message here is a PSA token, a few hundred bytes
# An identity that is not good, or no longer, ends its connection too.
_ENDS_CONNECTION = (CertMissing, CertExpired, CertRevoked, CertUnknown, CertProfile, NotOnManifest)
_JSON = (b"content-type", ddi.MEDIA_TYPE.encode())


# Structs and not dataclasses: three of these are made for each poll, and a frozen dataclass takes ten times
# as long to make.
class Answer(msgspec.Struct, frozen=True):
    """A response in memory."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]


class Request(msgspec.Struct, frozen=True):
    """One request of an identified device."""

    scope: Scope
    receive: Receive
    send: Send
    peer: Peer
    method: str
    path: list[str]
    now: float

    def header(self, name: bytes) -> bytes:
        """Return a header's value; empty if absent."""
        headers: list[tuple[bytes, bytes]] = self.scope["headers"]
        for key, value in headers:
            if key == name:
                return value
        return b""

    async def body(self) -> bytes:
        """Read the whole body.

        Raises:
            BodyTooLarge: It is longer than any message here.
        """
        data = b""
        while True:
            message = await self.receive()
            part: bytes = message.get("body", b"")
            data += part
            if len(data) > _MAX_BODY:
                raise BodyTooLarge("the body is too large", limit=_MAX_BODY)
            if not message.get("more_body"):
                return data

    def allow(self, *methods: str) -> None:
        """Let only these methods through.

        Raises:
            MethodNotAllowed: Another one.
        """
        if self.method not in methods:
            raise MethodNotAllowed("not with this method", method=self.method, allowed=list(methods))


class DevicePort:
    """ASGI application of the device port."""

    def __init__(self, services: Services, *, trust_proxy: bool = False) -> None:
        """Serve; with `trust_proxy` the certificate comes in RFC 9440's `Client-Cert` instead of by TLS.

        Only a Unix socket that a TLS-terminating proxy alone can reach may be served that way.
        """
        self._services = services
        self._trust_proxy = trust_proxy
        self._seen: dict[int, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        try:
            now = time.time()
            der = peer_certificate(scope, trust_proxy=self._trust_proxy)
            peer = self._services.identifier.identify(der, now)
            self._seen[peer.device_id] = now
            path = scope["path"].split("/")
            answer = await self._route(Request(scope, receive, send, peer, scope["method"], path, now))
        except FuselineError as error:
            answer = _refusal(error)
        except Exception as error:  # noqa: BLE001 - the boundary: no defect of ours may take the worker down
            answer = _refusal(defect(scope["path"], error))
        if answer is not None:
            length = (b"content-length", b"%d" % len(answer.body))
            head = {
                "type": "http.response.start",
                "status": answer.status,
                "headers": (length, *answer.headers),
            }
            await send(head)
            await send({"type": "http.response.body", "body": answer.body})

    async def flush_seen(self) -> None:
        """Write down which devices were heard of since the last time."""
        if not self._seen:
            return
        moments, self._seen = self._seen, {}
        try:
            await self._services.directory.seen(moments)
        except sqlite3.OperationalError as error:  # a full disk, or another writer that takes its time
            log.warning("presence not written", reason=str(error), devices=len(moments))
            self._seen = moments | self._seen

    def _route(self, request: Request) -> Coroutine[Any, Any, Answer | None]:
        match request.path:
            case ("", _, "controller", "v1", name, *rest):
                return self._controller(request, name, rest)
            case ("", ".well-known", "est", operation):
                return self._est(request, operation)
            case ("", "challenge-response", "v1", "newSession"):
                return self._new_session(request)
            case ("", "challenge-response", "v1", "session", session_id):
                return self._answer_session(request, session_id)
        raise NotFound("no such route", path=request.scope["path"][:120])

    # --- EST, RFC 7030 ------------------------------------------------------------------------------

    async def _est(self, request: Request, operation: str) -> Answer:
        enrolment = self._services.enrolment
        match operation:
            case est.CACERTS:
                request.allow("GET")
                return _certificates(enrolment.ca_certificates())
            case est.SIMPLE_ENROLL:
                issue = enrolment.enroll
            case est.SIMPLE_REENROLL:
                issue = enrolment.reenroll
            case _:
                raise NotFound("no such EST operation", operation=operation[:40])
        request.allow("POST")
        if request.header(b"content-type").split(b";")[0].strip().lower() != est.CSR_MEDIA_TYPE.encode():
            raise MediaType("EST takes application/pkcs10")
        return _certificates(await issue(request.peer, await request.body(), request.now))

    # --- challenge-response -------------------------------------------------------------------------

    async def _new_session(self, request: Request) -> Answer:
        request.allow("POST")
        request.peer.require(CertificateKind.LDEVID)
        session_id, session = self._services.verifier.new_session(request.peer.name, request.now)
        location = (rats.SESSION + session_id).encode()
        return _json(session, 201, rats.SESSION_MEDIA_TYPE, (b"location", location))

    async def _answer_session(self, request: Request, session_id: str) -> Answer:
        request.allow("POST")
        peer = request.peer
        peer.require(CertificateKind.LDEVID)
        if request.header(b"content-type").split(b";")[0].strip().lower() != b"application/eat+cwt":
            raise MediaType("this verifier takes PSA tokens", accept=psa.MEDIA_TYPE)
        attester = Attester(peer.device_id, peer.name, peer.implementation_id, peer.attestation_key)
        evidence = await request.body()
        session = await self._services.verifier.answer(attester, session_id, evidence, request.now)
        return _json(session, 200, rats.SESSION_MEDIA_TYPE)

    # --- hawkBit DDI v1 -----------------------------------------------------------------------------

    async def _controller(self, request: Request, name: str, rest: list[str]) -> Answer | None:
        peer = request.peer
        peer.require(CertificateKind.LDEVID)
        if name != peer.name:
            raise DeviceMismatch("the path names another device", path=name[:253], certificate=peer.name)
        device = Controller(peer.device_id, peer.name, _base(request, name))
        service = self._services.controller
        match rest:
            case ():
                request.allow("GET")
                body, fresh = service.poll(device)
                if fresh is not None:
                    await service.offered(device, fresh, request.now)
                return Answer(200, body, (_JSON,))
            case ("deploymentBase", action):
                request.allow("GET")
                return Answer(200, service.deployment(device, _number(action)), (_JSON,))
            case ("deploymentBase", action, "feedback"):
                request.allow("POST")
                await service.feedback(device, _number(action), await request.body(), request.now)
                return Answer(200, b"", ())
            case ("configData",):
                request.allow("PUT")
                await service.config_data(device, await request.body())
                return Answer(200, b"", ())
            case ("softwaremodules", module, "artifacts", filename):
                request.allow("GET", "HEAD")
                await self._download(request, device, _number(module), filename)
                return None
        raise NotFound("no such DDI resource", path="/".join(rest)[:120])

    async def _download(self, request: Request, device: Controller, module: int, filename: str) -> None:
        release = self._services.controller.artifact(device, module, filename)
        path = self._services.releases.artifact(release)
        # Ranges, If-Range and HEAD are Starlette's; the tag is the content's own digest.
        response = FileResponse(
            path, media_type="application/octet-stream", headers={"etag": f'"{release.sha256}"'}
        )
        await response(request.scope, request.receive, request.send)


def _base(request: Request, name: str) -> str:
    host = request.header(b"host").decode("latin-1")
    return f"https://{host}/{request.path[1]}/controller/v1/{name}"


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise NotFound("not a number", text=text[:20])
    return int(text)


def _json(value: msgspec.Struct, status: int, media_type: str, *headers: tuple[bytes, bytes]) -> Answer:
    return Answer(status, msgspec.json.encode(value), ((b"content-type", media_type.encode()), *headers))


def _certificates(body: bytes) -> Answer:
    # RFC 7030 4.1.3 asks for the transfer encoding header although HTTP has no such thing.
    return Answer(
        200,
        body,
        (
            (b"content-type", est.CERTS_MEDIA_TYPE.encode()),
            (b"content-transfer-encoding", b"base64"),
        ),
    )


def _refusal(error: FuselineError) -> Answer:
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", MEDIA_TYPE.encode()),)
    if isinstance(error, _ENDS_CONNECTION):
        headers += ((b"connection", b"close"),)
    return Answer(status_of(error), problem(error), headers)
