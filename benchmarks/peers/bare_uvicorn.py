"""The limit beside which the device plane is measured: uvicorn with an application that only answers.

The application sends given bytes as JSON and does nothing else, on the same server, event loop and parser as
the plane (httptools, uvloop, no access log), over a Unix socket or over mutual TLS 1.3. What the plane needs
beyond it is the price of being an update server.

It is its own process::

    python -m benchmarks.peers.bare_uvicorn --body answer.json --unix /tmp/s
    python -m benchmarks.peers.bare_uvicorn --body answer.json --port 8443 --tls-cert s.pem --tls-key s.key \
        --tls-client-ca ca.pem
"""

from __future__ import annotations

import argparse
import socket
import ssl
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from benchmarks.loadgen import ClientTls, Target
from benchmarks.measure import free_port, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
    from typing import Any

    from benchmarks.measure import Running

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Message, Receive, Send], Awaitable[None]]

# The plane's own value: a fleet that comes back after an outage dials all at once.
BACKLOG = 4096
# OpenSSL's default (SSL_CTX_set_num_tickets(3)). Against no tickets, a full handshake with two took
# the server 15 to 47 % more CPU in four rounds of this harness, so both sides must send equally many.
TICKETS = 2


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files of a server that demands client certificates."""

    certificate: Path
    key: Path
    client_ca: Path

    def context(self, tickets: int = TICKETS) -> ssl.SSLContext:
        """Return a context for TLS 1.3 only that refuses clients without a certificate of the CA.

        Args:
            tickets: Session tickets sent after each full handshake.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.client_ca)
        context.load_cert_chain(self.certificate, self.key)
        context.num_tickets = tickets
        return context


def application(body: bytes) -> Application:
    """Return the ASGI application that answers everything with these bytes as JSON."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    start: Message = {"type": "http.response.start", "status": 200, "headers": headers}
    end: Message = {"type": "http.response.body", "body": body}

    async def answer(_scope: Message, _receive: Receive, send: Send) -> None:
        await send(start)
        await send(end)

    return answer


@contextmanager
def serving_unix(folder: Path, body: bytes, path: str) -> Iterator[Running]:
    """Run it on a Unix socket in ``folder``.

    Args:
        folder: An existing folder for socket, body and log; its name must be short (unix(7): 108 bytes).
        body: What it answers.
        path: The request target to ask for, so that requests are as long as those to the other side.

    Raises:
        SetupError: It does not start.
    """
    target = Target(path=path, unix=folder / "bare.sock")
    command = [*_command(folder, body), "--unix", str(target.unix)]
    with serving(command, target, log=folder / "bare-unix.log", note=_NOTE, expect=body) as running:
        yield running


@contextmanager
def serving_tls(
    folder: Path, body: bytes, path: str, *, server: ServerTls, client: ClientTls, tickets: int = TICKETS
) -> Iterator[Running]:
    """Run it with mutual TLS 1.3 on a free port of 127.0.0.1.

    Args:
        folder: An existing folder for body and log.
        body: What it answers.
        path: The request target to ask for.
        server: The server's files; give both sides of a comparison chains of the same length.
        client: The client's files.
        tickets: Session tickets per full handshake.

    Raises:
        SetupError: It does not start.
    """
    target = Target(path=path, port=free_port(), tls=client)
    command = [*_command(folder, body), "--port", str(target.port), "--tickets", str(tickets)]
    command += ["--tls-cert", str(server.certificate), "--tls-key", str(server.key)]
    command += ["--tls-client-ca", str(server.client_ca)]
    with serving(command, target, log=folder / "bare-tls.log", note=_NOTE, expect=body) as running:
        yield running


_NOTE = f"uvicorn {uvicorn.__version__}, httptools, uvloop, no access log"


def _command(folder: Path, body: bytes) -> list[str]:
    file = folder / "body.json"
    file.write_bytes(body)
    return [sys.executable, "-m", "benchmarks.peers.bare_uvicorn", "--body", str(file)]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.bare_uvicorn")
    parser.add_argument("--body", type=Path, required=True)
    parser.add_argument("--unix", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--tls-client-ca", type=Path)
    parser.add_argument("--tickets", type=int, default=TICKETS)
    arguments = parser.parse_args(argv)
    by_tls = (arguments.port, arguments.tls_cert, arguments.tls_key, arguments.tls_client_ca)
    if (arguments.unix is None) != all(by_tls):
        parser.error("give either --unix, or --port with all --tls files")
    body = arguments.body.read_bytes()
    if arguments.unix is not None:
        uvicorn.Server(_config(body, None)).run([_listen_unix(arguments.unix)])
    else:
        tls = ServerTls(arguments.tls_cert, arguments.tls_key, arguments.tls_client_ca)
        config = _config(body, tls.context(arguments.tickets))
        uvicorn.Server(config).run([_listen_tcp(arguments.port)])
    return 0


def _config(body: bytes, context: ssl.SSLContext | None) -> uvicorn.Config:
    def given(_config: uvicorn.Config, _default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        assert context is not None
        return context

    return uvicorn.Config(
        application(body),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
        backlog=BACKLOG,
        ssl_context_factory=given if context else None,
    )


def _listen_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    return listener


def _listen_tcp(port: int) -> socket.socket:
    # With protocol 0 asyncio does not recognise TCP and leaves Nagle's algorithm on (40 ms answers).
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener


if __name__ == "__main__":
    sys.exit(main())
