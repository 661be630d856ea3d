"""A load generator for one small HTTP/1.1 GET, fast enough to stay ahead of the servers it measures.

It speaks to a Unix socket, to TCP, or to TLS 1.3 with a client certificate, and in one of two modes:

* ``keep``: N connections are opened first, then each keeps exactly one request in flight;
* ``handshake``: every request makes its own connection with a full TLS handshake (no resumption),
  N of them at a time.

Of an answer only the status line and ``Content-Length`` are read, so that the client is not what is measured;
``client_busy`` in the outcome says how close it came (near 1.0 the figure is the client's own limit).

It runs as a process of its own, pinned to one core::

    python -m benchmarks.loadgen --unix /tmp/s --path /health --mode keep --connections 16 --seconds 4 --json

Only loopback addresses are accepted, and time, connections and requests have upper bounds: this is an
instrument for one's own machine.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import math
import os
import re
import ssl
import sys
import time
from array import array
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, cast

import uvloop

from fuseline.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

MAX_SECONDS = 120.0
MAX_CONNECTIONS = 1_000
# Eight bytes are kept per request, so the record of a run stays below 32 MB.
MAX_REQUESTS = 4_000_000
# A server that is down answers with thousands of refusals a second; they prove nothing after the first few.
MAX_ERRORS = 1_000
# What a request in flight at the deadline gets before it counts as an error.
GRACE_SECONDS = 10.0

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"


class Mode(StrEnum):
    """How connections are used."""

    KEEP = "keep"
    HANDSHAKE = "handshake"


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Files of a TLS client: its PEM certificate (chain), its key, and the CA it trusts."""

    certificate: Path
    key: Path
    trust: Path
    server_name: str = "localhost"

    def context(self) -> ssl.SSLContext:
        """Return a context for TLS 1.3 only that presents the certificate and verifies the server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self.trust)
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send which request.

    Args:
        path: The request target, for example ``/DEFAULT/controller/v1/device-1``.
        unix: A Unix socket; without one, ``host`` and ``port`` are dialled.
        host: A literal loopback address.
        port: The TCP port.
        tls: The client's TLS files; plain HTTP without them.
        headers: Further header lines, each ``Name: value``.

    Raises:
        SetupError: ``host`` is not a literal loopback address, or a header is not one line.
    """

    path: str
    unix: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    tls: ClientTls | None = None
    headers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_loopback(self.host)
        if any(mark in text for text in (self.path, *self.headers) for mark in "\r\n"):
            raise SetupError("A path or header holds a line break", path=self.path)

    def request(self, method: str = "GET", *, path: str | None = None, body: bytes = b"") -> bytes:
        """Return the request's bytes, ready to be written to the socket again and again."""
        lines = [f"{method} {path or self.path} HTTP/1.1", "Host: localhost", *self.headers]
        if body or method != "GET":
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def arguments(self) -> list[str]:
        """Return this target as arguments of ``python -m benchmarks.loadgen``."""
        arguments = ["--path", self.path]
        if self.unix is not None:
            arguments += ["--unix", str(self.unix)]
        else:
            arguments += ["--host", self.host, "--port", str(self.port)]
        if self.tls is not None:
            arguments += ["--tls-cert", str(self.tls.certificate), "--tls-key", str(self.tls.key)]
            arguments += ["--tls-trust", str(self.tls.trust), "--tls-name", self.tls.server_name]
        return arguments + [part for header in self.headers for part in ("--header", header)]


@dataclass(frozen=True, slots=True)
class Load:
    """How hard to ask, and for how long.

    Raises:
        SetupError: A value is outside the bounds of this module.
    """

    mode: Mode = Mode.KEEP
    connections: int = 16
    seconds: float = 4.0
    requests: int = MAX_REQUESTS

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= MAX_SECONDS:
            raise SetupError(f"A run lasts up to {MAX_SECONDS:.0f} seconds", seconds=self.seconds)
        if not 0 < self.connections <= MAX_CONNECTIONS:
            raise SetupError(f"A run has 1 to {MAX_CONNECTIONS} connections", connections=self.connections)
        if not 0 < self.requests <= MAX_REQUESTS:
            raise SetupError(f"A run makes 1 to {MAX_REQUESTS} requests", requests=self.requests)

    def arguments(self) -> list[str]:
        """Return this load as arguments of ``python -m benchmarks.loadgen``."""
        return [
            *("--mode", self.mode.value, "--connections", str(self.connections)),
            *("--seconds", str(self.seconds), "--requests", str(self.requests)),
        ]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did.

    Args:
        requests: Complete answers, of any status.
        errors: Failed dials, broken connections, answers that could not be framed, resumed sessions where a
            full handshake was asked for, and requests without an answer when the run ended.
        non_2xx: Answers outside 200 to 299.
        p50_ms: Median time of a request in milliseconds; in ``handshake`` mode it begins with the dial.
        p99_ms: The 99th percentile in milliseconds.
        wall_seconds: From the first request to the last answer, or to the end when there was none.
        client_busy: CPU seconds of this process divided by ``wall_seconds``.
    """

    requests: int
    errors: int
    non_2xx: int
    p50_ms: float
    p99_ms: float
    wall_seconds: float
    client_busy: float


@dataclass(slots=True)
class _Tally:
    """The running count of one run, shared by its connections."""

    stop_at: float
    budget: int
    latencies: array[float] = field(default_factory=lambda: array("d"))
    errors: int = 0
    non_2xx: int = 0
    last_answer_at: float = 0.0

    def answer(self, status: int, now: float, seconds: float) -> None:
        self.latencies.append(seconds)
        self.last_answer_at = now
        if not 200 <= status < 300:
            self.non_2xx += 1

    def take(self, now: float) -> bool:
        """Take one request from the budget, if time, budget and errors allow another."""
        if now >= self.stop_at or self.budget <= 0 or self.errors >= MAX_ERRORS:
            return False
        self.budget -= 1
        return True


class _Poller(asyncio.Protocol):
    """One connection with at most one request in flight."""

    __slots__ = ("_in_flight", "_once", "_request", "_rest", "_sent_at", "_tally", "_transport", "closed")

    def __init__(self, tally: _Tally, request: bytes, *, once: bool) -> None:
        self._tally = tally
        self._request = request
        self._once = once
        self._rest = b""
        self._in_flight = False
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def resumed(self) -> bool:
        """Say whether TLS took up an earlier session instead of doing a full handshake."""
        assert self._transport is not None
        tls = self._transport.get_extra_info("ssl_object")
        return tls is not None and bool(tls.session_reused)

    def ask(self, begun: float) -> None:
        """Send the request; its time counts from ``begun``."""
        assert self._transport is not None
        self._sent_at = begun
        self._in_flight = True
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        end = data.find(_END_OF_HEAD)
        if end < 0:
            self._rest = data
            return
        length = _CONTENT_LENGTH.search(data, 0, end)
        missing = end + 4 + int(length[1]) - len(data) if length else -1
        if missing > 0:
            self._rest = data
        elif missing < 0 or not self._in_flight or not data[9:12].isdigit():
            self.abort()
        else:
            self._rest = b""
            self._answered(int(data[9:12]))

    def _answered(self, status: int) -> None:
        assert self._transport is not None
        now = time.perf_counter()
        self._in_flight = False
        self._tally.answer(status, now, now - self._sent_at)
        if self._once or not self._tally.take(now):
            self._transport.close()
        else:
            self.ask(now)

    def abort(self) -> None:
        """Drop the connection; a request in flight counts as an error."""
        assert self._transport is not None
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio names it)
        if self._in_flight:
            self._tally.errors += 1
            self._in_flight = False
        if not self.closed.done():
            self.closed.set_result(None)


async def run(target: Target, load: Load) -> Outcome:
    """Put the load on the target and return what came of it.

    Args:
        target: The request and where it goes.
        load: Mode, connections, seconds and the bound on requests.
    """
    tally = _Tally(stop_at=math.inf, budget=load.requests)
    dial = _dialler(target, tally, once=load.mode is Mode.HANDSHAKE)
    drive = _drive_handshakes if load.mode is Mode.HANDSHAKE else _drive_keep_alive
    cpu = time.process_time()
    begun = await drive(dial, tally, load)
    cpu = time.process_time() - cpu
    wall = (tally.last_answer_at or time.perf_counter()) - begun
    latencies = sorted(tally.latencies)
    return Outcome(
        requests=len(latencies),
        errors=tally.errors,
        non_2xx=tally.non_2xx,
        p50_ms=_percentile_ms(latencies, 0.50),
        p99_ms=_percentile_ms(latencies, 0.99),
        wall_seconds=wall,
        client_busy=cpu / wall,
    )


async def _drive_keep_alive(dial: Callable[[], Awaitable[_Poller]], tally: _Tally, load: Load) -> float:
    """Open all connections, then let them ask until time or budget is over; return when asking began."""
    pollers: list[_Poller] = []
    for _ in range(load.connections):
        try:
            pollers.append(await dial())
        except OSError:
            tally.errors += 1
    begun = time.perf_counter()
    tally.stop_at = begun + load.seconds
    for poller in pollers:
        if tally.take(now := time.perf_counter()):
            poller.ask(now)
        else:
            poller.abort()
    if pollers:
        _, waiting = await asyncio.wait([p.closed for p in pollers], timeout=load.seconds + GRACE_SECONDS)
        for poller in (p for p in pollers if p.closed in waiting):
            poller.abort()
        await asyncio.sleep(0)
    return begun


async def _drive_handshakes(dial: Callable[[], Awaitable[_Poller]], tally: _Tally, load: Load) -> float:
    """Make one connection per request, ``load.connections`` at a time; return when the first dial began."""
    begun = time.perf_counter()
    tally.stop_at = begun + load.seconds
    workers = [asyncio.create_task(_visit(dial, tally)) for _ in range(load.connections)]
    _, stuck = await asyncio.wait(workers, timeout=load.seconds + GRACE_SECONDS)
    tally.errors += len(stuck)
    for worker in stuck:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    for worker in set(workers) - stuck:
        worker.result()
    return begun


async def _visit(dial: Callable[[], Awaitable[_Poller]], tally: _Tally) -> None:
    while tally.take(begun := time.perf_counter()):
        try:
            poller = await dial()
        except OSError:
            tally.errors += 1
            continue
        if poller.resumed():
            tally.errors += 1
            poller.abort()
        else:
            poller.ask(begun)
        # Shielded: a cancelled worker must not cancel the future that the connection will still set.
        await asyncio.shield(poller.closed)


def _dialler(target: Target, tally: _Tally, *, once: bool) -> Callable[[], Awaitable[_Poller]]:
    request = target.request()
    context = target.tls.context() if target.tls else None
    server_name = target.tls.server_name if target.tls else None

    def poller() -> _Poller:
        return _Poller(tally, request, once=once)

    async def dial() -> _Poller:
        loop = asyncio.get_running_loop()
        if target.unix is not None:
            name = str(target.unix)
            _, made = await loop.create_unix_connection(
                poller, name, ssl=context, server_hostname=server_name
            )
        else:
            _, made = await loop.create_connection(
                poller, target.host, target.port, ssl=context, server_hostname=server_name
            )
        return made

    return dial


def _percentile_ms(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of sorted seconds, in milliseconds; 0 of nothing."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1000


def _require_loopback(host: str) -> None:
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise SetupError("The load generator talks to literal loopback addresses only", host=host)


def pin(core: int) -> None:
    """Bind this process to one core.

    Raises:
        SetupError: This process may not use that core.
    """
    allowed = os.sched_getaffinity(0)
    if core not in allowed:
        raise SetupError("This machine does not give us that core", core=core, allowed=sorted(allowed))
    os.sched_setaffinity(0, {core})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loadgen", description="One GET, very often.")
    parser.add_argument("--path", required=True)
    parser.add_argument("--unix", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--tls-trust", type=Path)
    parser.add_argument("--tls-name", default="localhost")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--mode", type=Mode, choices=list(Mode), default=Mode.KEEP)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--requests", type=int, default=MAX_REQUESTS)
    parser.add_argument("--core", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser


def _tls(arguments: argparse.Namespace) -> ClientTls | None:
    files = (arguments.tls_cert, arguments.tls_key, arguments.tls_trust)
    if not any(files):
        return None
    if not all(files):
        raise SetupError("TLS takes --tls-cert, --tls-key and --tls-trust together")
    return ClientTls(*files, server_name=arguments.tls_name)


def _asked(arguments: argparse.Namespace) -> tuple[Target, Load]:
    target = Target(
        path=arguments.path,
        unix=arguments.unix,
        host=arguments.host,
        port=arguments.port,
        tls=_tls(arguments),
        headers=tuple(arguments.header),
    )
    load = Load(arguments.mode, arguments.connections, arguments.seconds, arguments.requests)
    if load.mode is Mode.HANDSHAKE and target.tls is None:
        raise SetupError("Mode handshake measures TLS; give the TLS files")
    return target, load


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; return 0 when every answer was a 2xx, 1 when not, 2 when nothing ran."""
    arguments = _parser().parse_args(argv)
    try:
        target, load = _asked(arguments)
        pin(arguments.core)
    except SetupError as error:
        print(error.diagnostics(), file=sys.stderr)
        return 2
    outcome = uvloop.run(run(target, load))
    if arguments.json:
        print(json.dumps(asdict(outcome)))
    else:
        print(f"{outcome.requests / outcome.wall_seconds:.0f} requests/s {outcome}")
    return 0 if outcome.requests and not outcome.errors and not outcome.non_2xx else 1


if __name__ == "__main__":
    sys.exit(main())
