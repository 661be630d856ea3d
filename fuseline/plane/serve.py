"""Sockets, TLS and workers of the plane.

The parent binds the sockets and makes the TLS contexts, then forks: workers that share a context share
its session-ticket keys, so a session resumes in whichever worker accepts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import json
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

import structlog
import uvicorn

from fuseline.errors import BindRefused, StateBusy, StateMissing
from fuseline.plane.api.device_port import DevicePort
from fuseline.plane.api.operator_port import operator_port
from fuseline.plane.api.peer_certificate import PeerCertificateProtocol
from fuseline.plane.config import PlaneConfig, PlaneKeys, read_secret
from fuseline.plane.services import Services
from fuseline.plane.store import migrate

_BACKLOG = 4096
_KEEP_ALIVE = 75  # seconds; longer than the shortest poll interval anybody uses in production
_GRACE = 3  # seconds that open requests get when the plane stops
_SEEN_PERIOD = 0.5  # seconds that presence is written behind
_RESTART_PAUSE = 0.5  # seconds before a worker that died is replaced

log = structlog.get_logger("plane")


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen; port 0 takes any free one.

    Attributes:
        device_host: Address of the device port.
        device_port: Mutual TLS.
        operator_host: Address of the operator port; loopback unless it has TLS.
        operator_port: The API and the console.
        operator_tls: Certificate chain and key (PEM paths) for the operator port.
        proxy_socket: A Unix socket for a TLS-terminating proxy that sets `Client-Cert` (RFC 9440).
        workers: Processes that serve.
    """

    device_host: str = "127.0.0.1"
    device_port: int = 8443
    operator_host: str = "127.0.0.1"
    operator_port: int = 8080
    operator_tls: tuple[Path, Path] | None = None
    proxy_socket: Path | None = None
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Running:
    """A plane that serves."""

    pid: int
    device_url: str
    operator_url: str

    @classmethod
    def of(cls, config: PlaneConfig) -> Running:
        """Return the plane that runs on this folder.

        Raises:
            StateMissing: None does.
        """
        try:
            facts = json.loads(_run_file(config).read_text())
            return cls(facts["pid"], facts["device_url"], facts["operator_url"])
        except (OSError, ValueError, KeyError) as error:
            raise StateMissing("no plane is running on this folder", path=str(config.folder)) from error


def _run_file(config: PlaneConfig) -> Path:
    return config.folder / "run.json"


def device_tls(config: PlaneConfig) -> ssl.SSLContext:
    """Return the device port's context: TLS 1.3, and no connection without a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.num_tickets = 1  # a device keeps one session; the second ticket costs a tenth of a handshake
    read_secret(config.folder / "server.key")  # refuses one that others can read
    try:
        context.load_cert_chain(config.folder / "server.pem", config.folder / "server.key")
        # Chains end in the root; the CAs between are here so that devices may send the leaf alone.
        for name in ("root.pem", "factory-ca.pem", "operational-ca.pem"):
            context.load_verify_locations(config.folder / name)
    except (OSError, ssl.SSLError) as error:
        raise StateMissing(f"the plane's TLS files cannot be used: {error}") from error
    return context


def _operator_tls(files: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(*files)
    except (OSError, ssl.SSLError) as error:
        raise StateMissing(f"the operator port's TLS files cannot be used: {error}") from error
    return context


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio sets TCP_NODELAY only on sockets that say they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise BindRefused(f"cannot listen there: {error.strerror}", host=host, port=port) from error
    listener.listen(_BACKLOG)
    return listener


def _bind_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)
    try:
        listener.bind(str(path))
    except OSError as error:
        raise BindRefused(f"cannot listen there: {error.strerror}", path=str(path)) from error
    path.chmod(0o600)  # whoever can connect can say who it is
    listener.listen(_BACKLOG)
    return listener


def _require_safe(listen: Listen) -> None:
    try:
        loopback = ipaddress.ip_address(listen.operator_host).is_loopback
    except ValueError as error:
        raise BindRefused("an address is a number here, not a name", host=listen.operator_host) from error
    if not loopback and listen.operator_tls is None:
        raise BindRefused(
            "the operator port leaves this machine only with TLS (--operator-cert, --operator-key)",
            host=listen.operator_host,
        )


class _Server(uvicorn.Server):
    """A server whose worker handles the signals."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()


def _uvicorn_config(
    application: object, context: ssl.SSLContext | None = None, **extra: object
) -> uvicorn.Config:
    return uvicorn.Config(
        application,  # type: ignore[arg-type]
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody may claim another address or scheme by a header
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_GRACE,
        ssl_context_factory=(lambda *_: context) if context else None,
        **extra,  # type: ignore[arg-type]
    )


class Plane:
    """The parent process of a plane."""

    def __init__(self, config: PlaneConfig, listen: Listen) -> None:
        self._config = config
        self._listen = listen
        self._children: set[int] = set()
        self._stopping = False

    def run(self, ready: Callable[[Running], None]) -> None:
        """Serve until SIGINT or SIGTERM; `ready` is called once, when the sockets are open.

        Raises:
            SetupError: The folder, the sockets or the database cannot be used.
        """
        _require_safe(self._listen)
        with _lock(self._config), contextlib.ExitStack() as stack:
            keys = self._config.load_keys()
            token = self._config.operator_token
            migrate.upgrade(self._config.database)
            device = stack.enter_context(_bind(self._listen.device_host, self._listen.device_port))
            operator = stack.enter_context(_bind(self._listen.operator_host, self._listen.operator_port))
            proxy = self._listen.proxy_socket and stack.enter_context(_bind_unix(self._listen.proxy_socket))
            tls = device_tls(self._config)
            operator_tls = self._listen.operator_tls and _operator_tls(self._listen.operator_tls)
            worker = _Worker(
                os.getpid(), self._config, keys, token, device, operator, proxy or None, tls, operator_tls
            )
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._on_signal)
            for _ in range(self._listen.workers):
                self._fork(worker)
            running = Running(
                os.getpid(),
                _url("https", device, self._listen.device_host),
                _url("https" if operator_tls else "http", operator, self._listen.operator_host),
            )
            stack.enter_context(_announced(self._config, running))
            ready(running)
            self._supervise(worker)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        log.info("stopping", signal=signal.Signals(number).name)
        self._stop_children()

    def _stop_children(self) -> None:
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)

    def _fork(self, worker: _Worker) -> None:
        child = os.fork()
        if child == 0:
            # Until its loop has handlers, a stop simply ends the worker.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            os._exit(worker.main())
        self._children.add(child)

    def _supervise(self, worker: _Worker) -> None:
        if self._stopping:
            self._stop_children()  # the signal came between two forks
        while self._children:
            try:
                child, status = os.wait()
            except ChildProcessError:
                break
            self._children.discard(child)
            if not self._stopping:
                log.error("a worker ended and is replaced", pid=child, status=status)
                time.sleep(_RESTART_PAUSE)
                if not self._stopping:
                    self._fork(worker)


@dataclass(frozen=True, slots=True)
class _Worker:
    """What a worker inherits over the fork."""

    parent: int
    config: PlaneConfig
    keys: PlaneKeys
    token: str
    device: socket.socket
    operator: socket.socket
    proxy: socket.socket | None
    tls: ssl.SSLContext
    operator_tls: ssl.SSLContext | None

    def main(self) -> int:
        """Serve in the forked process; returns its exit status."""
        try:
            import uvloop  # noqa: PLC0415 - after the fork: libuv does not survive one

            uvloop.run(self._serve())
        except BaseException:
            log.exception("worker failed")
            sys.stderr.flush()
            return 1
        return 0

    async def _serve(self) -> None:
        services = Services.wire(self.config, self.keys)
        ports = [DevicePort(services)]
        operator = operator_port(services, self.token)
        servers = [
            (_Server(self._device_config(ports[0], self.tls)), self.device),
            (_Server(_uvicorn_config(operator, self.operator_tls, http="httptools")), self.operator),
        ]
        if self.proxy is not None:
            ports.append(DevicePort(services, trust_proxy=True))
            servers.append((_Server(self._device_config(ports[1], None)), self.proxy))

        def stop() -> None:
            operator.state.closing = True
            for server, _ in servers:
                server.should_exit = True

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        presence = asyncio.create_task(_write_presence(ports))
        watch = asyncio.create_task(_stop_with_parent(self.parent, stop))
        try:
            await asyncio.gather(*(server.serve(sockets=[sock]) for server, sock in servers))
        finally:
            for task in (presence, watch):
                task.cancel()
            for port in ports:
                await port.flush_seen()
            services.database.close()

    @staticmethod
    def _device_config(port: DevicePort, context: ssl.SSLContext | None) -> uvicorn.Config:
        return _uvicorn_config(port, context, http=PeerCertificateProtocol, lifespan="off", ws="none")


async def _write_presence(ports: list[DevicePort]) -> None:
    while True:
        await asyncio.sleep(_SEEN_PERIOD)
        for port in ports:
            await port.flush_seen()


async def _stop_with_parent(parent: int, stop: Callable[[], None]) -> None:
    """Stop a worker whose parent was killed; its sockets would go on taking requests."""
    while os.getppid() == parent:  # noqa: ASYNC110 - the kernel has no event for it that a loop can wait on
        await asyncio.sleep(_SEEN_PERIOD)
    stop()


def _url(scheme: str, listener: socket.socket, host: str) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{listener.getsockname()[1]}"


@contextlib.contextmanager
def _lock(config: PlaneConfig) -> Iterator[None]:
    """Let one plane run on a folder."""
    file: IO[str]
    with (config.folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StateBusy("a plane runs on this folder already", path=str(config.folder)) from error
        yield


@contextlib.contextmanager
def _announced(config: PlaneConfig, running: Running) -> Iterator[None]:
    """Say in the folder where the plane is, while it is there."""
    facts = {"pid": running.pid, "device_url": running.device_url, "operator_url": running.operator_url}
    path = _run_file(config)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(facts))
    fresh.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
