"""The device's line to its plane: HTTP/1.1 over mutual TLS 1.3, the key in the element.

Either the ctypes provider puts the element's key behind this process's own `ssl` (the default), or,
where Python hides its OpenSSL, the element's process makes the TLS connection (relay).
"""

from __future__ import annotations

import enum
import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.serialization import Encoding

from fuseline.device.agent.config import load_chain
from fuseline.device.element import provider, wire
from fuseline.device.element.interface import KeySlot, SecureElement
from fuseline.errors import (
    ElementError,
    PlaneRefused,
    PlaneUnreachable,
    PlaneUntrusted,
    TlsUnsupported,
)

_TIMEOUT = 15.0  # seconds for one request; a plane answers in milliseconds
# The plane closes a connection that was idle for 75 s; one that is closed here first is never found dead.
_IDLE_LIMIT = 60.0
_MAX_ANSWER = 1024 * 1024  # bytes of any answer but an artifact

# OpenSSL words a TLS alert as "[SSL: TLSV1_ALERT_...]" or "[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED]".
_ALERT = re.compile(r"(?:TLSV1\w*|SSLV3)_ALERT_(\w+)")


class TlsMode(enum.StrEnum):
    """How the element's key gets into TLS."""

    AUTO = "auto"
    PROVIDER = "provider"
    RELAY = "relay"

    def resolve(self) -> TlsMode:
        """Choose by what this Python offers."""
        if self is not TlsMode.AUTO:
            return self
        try:
            provider.available()
        except TlsUnsupported:
            return TlsMode.RELAY
        return TlsMode.PROVIDER


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and the element's key behind it."""

    slot: KeySlot
    chain_pem: bytes


@dataclass(frozen=True, slots=True)
class Line:
    """Everything a connection needs besides the identity.

    Attributes:
        host: Address of the plane.
        port: Its device port.
        plane_name: The name its certificate must carry.
        trust_pem: The anchor of that certificate.
        element: The secure element.
        relay_path: The element's TLS relay.
        mode: Provider or relay.
    """

    host: str
    port: int
    plane_name: str
    trust_pem: bytes
    element: SecureElement
    relay_path: Path
    mode: TlsMode


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the plane."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """Return the body's JSON value.

        Raises:
            PlaneRefused: It is not JSON.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise PlaneRefused("the plane's answer is not JSON") from error


class _ProviderConnection(http.client.HTTPConnection):
    """HTTP over this process's TLS; keeps a session, so that a reconnect costs no signature."""

    def __init__(self, line: Line, context: ssl.SSLContext, session: ssl.SSLSession | None) -> None:
        super().__init__(line.host, line.port, timeout=_TIMEOUT)
        self._line = line
        self._context = context
        self._session = session

    def connect(self) -> None:
        raw = socket.create_connection((self.host, self.port), timeout=_TIMEOUT)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._context.wrap_socket(
                raw, server_hostname=self._line.plane_name, session=self._session
            )
        except BaseException:
            raw.close()
            raise

    @property
    def session(self) -> ssl.SSLSession | None:
        return self.sock.session if isinstance(self.sock, ssl.SSLSocket) else None


class _RelayConnection(http.client.HTTPConnection):
    """HTTP over a TLS connection that the element makes."""

    def __init__(self, line: Line, identity: Identity) -> None:
        super().__init__(line.host, line.port, timeout=_TIMEOUT)
        self._line = line
        self._identity = identity

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(str(self._line.relay_path))
        request = wire.encode_request(
            "relay",
            slot=self._identity.slot.value,
            host=self._line.host,
            port=self._line.port,
            server_name=self._line.plane_name,
            chain=self._identity.chain_pem,
            trust=self._line.trust_pem,
        )
        self.sock.sendall(wire.frame(request))
        wire.decode_answer(wire.read_frame(self.sock))


class PlaneLink:
    """Requests to the plane under one identity, over one kept-alive connection."""

    def __init__(self, line: Line, identity: Identity) -> None:
        self._line = line
        self._identity = identity
        self._connection: http.client.HTTPConnection | None = None
        self._session: ssl.SSLSession | None = None
        self._context = self._client_context() if line.mode is TlsMode.PROVIDER else None
        self._used = 0.0

    def _client_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        # Set by Python up to 3.11.3, and then an answer that was cut off looks whole (RFC 8446 6.1).
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        context.load_verify_locations(cadata=self._line.trust_pem.decode())
        chain = [link.public_bytes(Encoding.DER) for link in load_chain(self._identity.chain_pem)]
        slot, element = self._identity.slot, self._line.element
        provider.use_element_key(context, chain, lambda digest: element.sign(slot, digest))
        return context

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            if isinstance(self._connection, _ProviderConnection):
                self._session = self._connection.session or self._session
            self._connection.close()
            self._connection = None

    def _open(self) -> http.client.HTTPConnection:
        now = time.monotonic()
        if now - self._used > _IDLE_LIMIT:
            self.close()
        self._used = now
        if self._connection is None:
            self._connection = (
                _ProviderConnection(self._line, self._context, self._session)
                if self._context is not None
                else _RelayConnection(self._line, self._identity)
            )
        return self._connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what sockets and TLS say into the device's errors; the connection is gone then."""
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise PlaneUntrusted(
                "the server's certificate is not our plane's", reason=error.verify_message
            ) from error
        except ssl.SSLError as error:
            self.close()
            alert = _ALERT.search(str(error))
            if alert is None:
                raise PlaneUnreachable(f"TLS: {error.reason or error}") from error
            raise PlaneRefused(
                "the plane refused the certificate in the TLS handshake", alert=alert[1].lower()
            ) from error
        except ElementError:
            self.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise PlaneUnreachable(f"{type(error).__name__}: {error}") from error

    def request(
        self, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask the plane.

        Raises:
            PlaneUnreachable: No answer.
            PlaneUntrusted: Another server's answer.
            PlaneRefused: An error answer; `evidence` carries its code.
        """
        with self._translated():
            connection = self._open()
            connection.request(method, path, body=body or None, headers=dict(headers or {}))
            response = connection.getresponse()
            content = _read_whole(response)
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, content)
            if response.will_close or not response.isclosed():
                self.close()
        if answer.status >= 400:
            raise _refused(answer, path)
        return answer

    @contextmanager
    def download(self, url: str, *, offset: int) -> Iterator[http.client.HTTPResponse]:
        """Open an artifact from byte `offset` on; the caller reads.

        Raises:
            PlaneUnreachable: No answer, or the line broke while the caller was reading.
            PlaneRefused: An error answer.
        """
        path = urlsplit(url).path
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            with self._translated():
                connection = self._open()
                connection.request("GET", path, headers=headers)
                response = connection.getresponse()
                if response.status >= 400:
                    raise _refused(Answer(response.status, {}, _read_whole(response)), path)
                yield response
        finally:
            self.close()  # what was not read would stand in the next answer's way


def _read_whole(response: http.client.HTTPResponse) -> bytes:
    """Read a body of bounded, announced length; a shorter one raises `http.client.IncompleteRead`."""
    if response.length is None or response.length > _MAX_ANSWER:
        raise PlaneRefused("the plane's answer has no or too great a length", length=response.length)
    # `read(amount)` would take a body that was cut off for a whole one.
    return response.read()


def _refused(answer: Answer, path: str) -> PlaneRefused:
    try:
        problem = json.loads(answer.body)
        code, detail = str(problem["code"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        code, detail = "", answer.body[:200].decode(errors="replace")
    return PlaneRefused(
        f"the plane refused: {detail}",
        status=answer.status,
        plane_code=code,
        path=path.split("?", maxsplit=1)[0],
    )
