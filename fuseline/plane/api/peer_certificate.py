"""From the connection to the peer's certificate: by our own TLS, or from a proxy in front of us."""

from __future__ import annotations

import base64
import binascii
from asyncio import BaseTransport
from collections.abc import MutableMapping
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fuseline.errors import CertificateMalformed

# Where the DER stands in the ASGI scope. The ASGI TLS extension has PEM in `client_cert_chain`; a
# conversion a request is what this key saves.
_EXTENSION, _KEY = "tls", "client_cert_der"


class PeerCertificateProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol that puts the verified peer certificate into each request's scope."""

    def connection_made(self, transport: BaseTransport) -> None:
        """Take the certificate once for the connection."""
        super().connection_made(cast("Any", transport))
        session = transport.get_extra_info("ssl_object")
        der = session.getpeercert(binary_form=True) if session is not None else None
        self._tls = {_EXTENSION: {_KEY: der}}

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the keep-alive timer too, which would hold the connection's memory until it fires."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def on_message_begin(self) -> None:
        """Hand the certificate to the request."""
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)["extensions"] = self._tls


def peer_certificate(scope: MutableMapping[str, Any], *, trust_proxy: bool) -> bytes | None:
    """Return the peer's certificate as DER, or None.

    Args:
        scope: The ASGI scope.
        trust_proxy: Take it from the `Client-Cert` field (RFC 9440) instead of from TLS. Otherwise that
            field is what anybody may write, and is not looked at.

    Raises:
        CertificateMalformed: The proxy's field is not one base64 byte sequence.
    """
    if not trust_proxy:
        extension = scope.get("extensions", {}).get(_EXTENSION, {})
        return cast("bytes | None", extension.get(_KEY))
    values = [value for name, value in scope["headers"] if name == b"client-cert"]
    if not values:
        return None
    # RFC 9440 2.2: a structured field byte sequence, colons around base64; once only.
    if len(values) != 1 or len(values[0]) < 2 or values[0][:1] != b":" or values[0][-1:] != b":":
        raise CertificateMalformed("Client-Cert is not one byte sequence")
    try:
        return base64.b64decode(values[0][1:-1], validate=True)
    except binascii.Error as error:
        raise CertificateMalformed("Client-Cert is not base64") from error
