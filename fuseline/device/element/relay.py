"""TLS with the element's process as the client: for a Python that hides its OpenSSL.

Where `provider` cannot work, the element itself makes the TLS connection and hands the caller plaintext on
a Unix socket. The key still never leaves the element's process. The price: whoever may use the Unix socket
may speak as the device, so the element must check its peers before it calls `Relay.splice`.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from fuseline.errors import CertificateMalformed, TlsKeyMismatch, TlsRelayFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cryptography.hazmat.primitives.asymmetric import ec

# Seconds for the dial and the handshake together.
DIAL_TIMEOUT = 10.0
# Seconds for the server to take the last bytes after the application has gone.
LINGER = 1.0
# Chains change when a certificate is renewed, trust when a CA is; old ones are of no use.
MAX_CONTEXTS = 4

# OpenSSL's reason for an end of data without close_notify (sslerr.h, SSL_R_UNEXPECTED_EOF_WHILE_READING).
_CUT_OFF = "UNEXPECTED_EOF_WHILE_READING"
# Four TLS records of 2^14 bytes (RFC 8446 5.1) in one read.
_CHUNK = 4 * 2**14
# Bytes waiting for one side before the other side is no longer read.
_HIGH_WATER = 4 * _CHUNK


class Relay:
    """Makes TLS 1.3 connections with one key, for callers that bring their own certificate and trust.

    Safe to use from several threads, one connection in each.

    Args:
        key: The element's key. It is in this process's memory anyway; nothing here writes it to a disk.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._contexts: dict[tuple[bytes, bytes], ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def splice(
        self,
        conn: socket.socket,
        *,
        host: str,
        port: int,
        server_name: str,
        chain_pem: bytes,
        trust_pem: bytes,
        connected: Callable[[], None] = lambda: None,
    ) -> None:
        """Connect to a server and copy bytes both ways until both sides are done.

        Runs in the calling thread. An end of data on one side is passed to the other as its end of data
        (shutdown, close_notify) while the opposite direction goes on. `conn` stays open: closing it is the
        caller's part. An application cannot see on `conn` whether the server's data was cut off; its own
        protocol must say how long a message is.

        Args:
            conn: The application's connected Unix stream socket, plaintext.
            host: Name or address to dial.
            port: TCP port to dial.
            server_name: dNSName or IP address that the server's certificate must carry.
            chain_pem: The device's certificates, leaf first.
            trust_pem: The CAs that the server's certificate must chain to.
            connected: Called once the server is authenticated, before the first byte is copied.

        Raises:
            CertificateMalformed: A PEM holds no certificate.
            TlsKeyMismatch: The leaf is not for this relay's key.
            TlsRelayFailed: Dial, handshake, or the connection later. The evidence names the stage.
        """
        where = f"{host}:{port}"
        with _stage("context", where):
            context = self._context(chain_pem, trust_pem)
        deadline = time.monotonic() + DIAL_TIMEOUT
        with _stage("dial", where), socket.create_connection((host, port), timeout=DIAL_TIMEOUT) as server:
            with _stage("handshake", where):
                tunnel = _Tunnel(context, server_name)
                tunnel.handshake(server, deadline)
            connected()
            with _stage("transfer", where), _nonblocking(conn), _nonblocking(server):
                _Splice(conn, server, tunnel).run()

    def _context(self, chain_pem: bytes, trust_pem: bytes) -> ssl.SSLContext:
        with self._lock:
            context = self._contexts.get((chain_pem, trust_pem))
            if context is None:
                context = _client_context(self._key, chain_pem, trust_pem)
                while len(self._contexts) >= MAX_CONTEXTS:
                    del self._contexts[next(iter(self._contexts))]
                self._contexts[chain_pem, trust_pem] = context
            return context


@contextmanager
def _stage(stage: str, where: str) -> Iterator[None]:
    """Turn what the socket or TLS says into the element's error."""
    try:
        yield
    except (OSError, OverflowError, ValueError) as error:
        # ssl.SSLError is an OSError; the others are a host, port or server name that no socket takes.
        reason = str(error) or type(error).__name__
        raise TlsRelayFailed(f"TLS to the server, {stage}: {reason}", stage=stage, server=where) from error


@contextmanager
def _nonblocking(sock: socket.socket) -> Iterator[None]:
    timeout = sock.gettimeout()
    sock.setblocking(False)
    try:
        yield
    finally:
        sock.settimeout(timeout)


# --- context -----------------------------------------------------------------------------------------


def _client_context(key: ec.EllipticCurvePrivateKey, chain_pem: bytes, trust_pem: bytes) -> ssl.SSLContext:
    chain, trust = _certificates(chain_pem), _certificates(trust_pem)
    _require_certified(key, chain[0])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Set by Python up to 3.11.3, and then data that was cut off looks whole (RFC 8446 6.1).
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    der, pem = serialization.Encoding.DER, serialization.Encoding.PEM
    context.load_verify_locations(cadata=b"".join(anchor.public_bytes(der) for anchor in trust))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with _memory_file(private + b"".join(link.public_bytes(pem) for link in chain)) as path:
        context.load_cert_chain(path)
    return context


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise CertificateMalformed(f"not PEM certificates: {error}") from error


def _require_certified(key: ec.EllipticCurvePrivateKey, leaf: x509.Certificate) -> None:
    try:
        certified = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateMalformed(f"the certificate's key is not readable: {error}") from error
    if certified != key.public_key():
        raise TlsKeyMismatch("the certificate is not for this element's key")


@contextmanager
def _memory_file(content: bytes) -> Iterator[str]:
    """Give content a path for as long as the block runs, without a file system.

    `load_cert_chain` reads from paths only. The memfd has no name that another process could open, and a
    process that is not dumpable does not let others of its user through /proc either.
    """
    descriptor = os.memfd_create("", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        file.write(content)
        yield f"/proc/self/fd/{descriptor}"


# --- TLS over buffers --------------------------------------------------------------------------------


class _Tunnel:
    """The TLS client between two buffers.

    Not an `SSLSocket`: its `unwrap` sends close_notify and then wants the peer's, and fails on the data
    that may still come. Here close_notify goes out when everything received so far has been read.
    """

    def __init__(self, context: ssl.SSLContext, server_name: str) -> None:
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=server_name)
        self.close_sent = False

    def handshake(self, server: socket.socket, deadline: float) -> None:
        """Finish the handshake before a `time.monotonic()` deadline, or raise OSError."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send_now(server, deadline)
                received = server.recv(_CHUNK)
                self.feed(received)
            except ssl.SSLError:
                # RFC 8446 6.2: the alert tells the server why.
                self._send_now(server, deadline)
                raise
            else:
                self._send_now(server, deadline)
                return

    def _send_now(self, server: socket.socket, deadline: float) -> None:
        server.settimeout(max(deadline - time.monotonic(), 0.001))
        server.sendall(self.take())

    def feed(self, received: bytes) -> None:
        """Put in what the server sent; nothing means that it closed the TCP connection."""
        if received:
            self._received.write(received)
        else:
            self._received.write_eof()

    def take(self) -> bytes:
        """Take out what is to be sent to the server."""
        return self._to_send.read()

    def decrypt(self) -> tuple[bytes, bool]:
        """Return all plaintext so far, and whether the server's close_notify followed it."""
        plain = bytearray()
        while True:
            try:
                piece = self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                return bytes(plain), False
            except ssl.SSLZeroReturnError:
                # What `read` makes of a close_notify after our own, instead of no bytes.
                return bytes(plain), True
            except ssl.SSLError as error:
                if error.reason == _CUT_OFF and not isinstance(error, ssl.SSLEOFError):
                    raise ssl.SSLEOFError(*error.args) from error  # Python before 3.11.4
                raise
            if not piece:
                return bytes(plain), True
            plain += piece

    def encrypt(self, plain: bytes) -> None:
        """Put in plaintext for the server."""
        view = memoryview(plain)
        while view:
            # OpenSSL takes one record at a time (SSL_MODE_ENABLE_PARTIAL_WRITE).
            view = view[self._tls.write(view) :]

    def close(self) -> None:
        """Say that nothing more will be sent (RFC 8446 6.1); reading goes on."""
        self.close_sent = True
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            return


# --- copying -----------------------------------------------------------------------------------------


class _Splice:
    """One application socket and one tunnel, both non-blocking.

    Uses `poll` rather than `selectors`: only `poll` tells an application that has gone (POLLHUP) from one
    that has merely finished sending, and that is the moment to stop waiting for the server.
    """

    def __init__(self, conn: socket.socket, server: socket.socket, tunnel: _Tunnel) -> None:
        self._conn = conn
        self._server = server
        self._tunnel = tunnel
        self._to_conn = bytearray()
        self._to_server = bytearray()
        self._conn_done = False  # the application sends no more
        self._conn_gone = False  # the application does not listen any more
        self._server_done = False  # the server sends no more
        self._end_passed_on = False  # and the application knows
        self._cut: ssl.SSLEOFError | None = None  # the server's data ended without close_notify

    def run(self) -> None:
        """Copy until both directions are done, or nobody listens any more.

        Raises:
            OSError: The connection to the server broke, or it ended without close_notify.
        """
        # The handshake's last flight may have brought data along.
        self._from_tunnel()
        while not self._finished():
            events = self._wait()
            self._serve_conn(events.get(self._conn.fileno(), 0))
            self._serve_server(events.get(self._server.fileno(), 0))
        if self._cut is not None:
            raise self._cut
        if not self._server_done:
            self._part()

    def _finished(self) -> bool:
        if self._server_done and not self._to_conn and self._cut is not None:
            return True
        heard_all = self._conn_gone or (self._server_done and not self._to_conn)
        return heard_all and self._conn_done and not self._to_server

    def _wait(self) -> dict[int, int]:
        """Wait for whichever socket can make progress; return the poll events by descriptor."""
        poll = select.poll()
        conn_wants = select.POLLIN * (not self._conn_done and len(self._to_server) < _HIGH_WATER)
        conn_wants |= select.POLLOUT * bool(self._to_conn)
        # With nothing wanted, poll still reports POLLHUP: waited for after the application's end of data,
        # a busy loop at any other time.
        if conn_wants or (self._conn_done and not self._conn_gone):
            poll.register(self._conn, conn_wants)
        server_wants = select.POLLIN * (not self._server_done and len(self._to_conn) < _HIGH_WATER)
        server_wants |= select.POLLOUT * bool(self._to_server)
        if server_wants:
            poll.register(self._server, server_wants)
        return dict(poll.poll())

    def _serve_conn(self, events: int) -> None:
        if events and self._to_conn:
            self._to_application()
        if events & ~select.POLLOUT:
            if self._conn_done:
                self._abandon()
            else:
                self._from_application()

    def _to_application(self) -> None:
        try:
            _send(self._conn, self._to_conn)
        except (BrokenPipeError, ConnectionResetError):
            self._abandon()
        self._pass_on_end()

    def _abandon(self) -> None:
        """The application is gone: what the server still says is for nobody."""
        self._conn_gone = True
        self._to_conn.clear()

    def _from_application(self) -> None:
        try:
            plain = self._conn.recv(_CHUNK)
        except BlockingIOError:
            return
        except ConnectionResetError:
            # It closed without reading all that it had been given. What it sent came before this.
            plain = b""
        if plain:
            self._tunnel.encrypt(plain)
        else:
            self._conn_done = True
            self._tunnel.close()
        self._to_server += self._tunnel.take()

    def _serve_server(self, events: int) -> None:
        if events and self._to_server:
            _send(self._server, self._to_server)
        if events & ~select.POLLOUT and not self._server_done:
            self._from_server()

    def _from_server(self) -> None:
        try:
            received = self._server.recv(_CHUNK)
        except BlockingIOError:
            return
        self._tunnel.feed(received)
        self._from_tunnel()

    def _from_tunnel(self) -> None:
        try:
            plain, self._server_done = self._tunnel.decrypt()
        except ssl.SSLEOFError as error:
            # RFC 8446 6.1 wants close_notify first: without it the data may have been cut by anyone. Many
            # servers leave theirs out in answer to ours; then there was nothing left to cut.
            plain, self._server_done = b"", True
            self._cut = None if self._tunnel.close_sent else error
        if not self._conn_gone:
            self._to_conn += plain
        # A key update asks for an answer (RFC 8446 4.6.3).
        self._to_server += self._tunnel.take()
        self._pass_on_end()

    def _pass_on_end(self) -> None:
        if self._server_done and not self._to_conn and not self._end_passed_on and not self._conn_gone:
            self._end_passed_on = True
            self._conn.shutdown(socket.SHUT_WR)

    def _part(self) -> None:
        """Let the server read to the end: a close with data unread would reset the connection."""
        deadline = time.monotonic() + LINGER
        self._server.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while (left := deadline - time.monotonic()) > 0:
                self._server.settimeout(left)
                if not self._server.recv(_CHUNK):
                    return


def _send(sock: socket.socket, waiting: bytearray) -> None:
    """Send what the socket takes, and leave the rest."""
    try:
        sent = sock.send(waiting)
    except BlockingIOError:
        return
    del waiting[:sent]
