"""The messages between a virtual element and its device: one CBOR map per packet."""

from __future__ import annotations

import socket
from typing import Any

from fuseline import errors
from fuseline.formats import cbor

ELEMENT_SOCKET, RELAY_SOCKET = "element.sock", "relay.sock"
MAX_PACKET = 64 * 1024  # a certificate chain and a trust anchor fit ten times over

_ERRORS: dict[str, type[errors.ElementError]] = {
    kind.code: kind
    for kind in (
        errors.ElementError,
        errors.ElementPeer,
        errors.ElementPhase,
        errors.ElementRequest,
        errors.ElementCounter,
        errors.TlsRelayFailed,
    )
}


def encode_request(operation: str, **arguments: Any) -> bytes:
    """Encode a request."""
    return cbor.encode({"op": operation, **arguments})


def decode_request(packet: bytes) -> tuple[str, dict[str, Any]]:
    """Decode a request to its operation and arguments.

    Raises:
        ElementRequest: Not a request.
    """
    try:
        message = cbor.decode(packet)
    except errors.CborMalformed as error:
        raise errors.ElementRequest("not a CBOR packet") from error
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise errors.ElementRequest("not a request")
    if not all(isinstance(key, str) for key in message):
        raise errors.ElementRequest("argument names are texts")
    return message.pop("op"), message


def encode_answer(value: Any) -> bytes:
    """Encode the answer to a request that was served."""
    return cbor.encode({"ok": value})


def encode_refusal(error: errors.FuselineError) -> bytes:
    """Encode the answer to a request that was not."""
    return cbor.encode({"error": error.code, "message": error.message})


def decode_answer(packet: bytes) -> Any:
    """Return an answer's value, or raise the error it carries.

    Raises:
        ElementError: What the element refused with.
        ElementUnavailable: No answer came.
    """
    if not packet:
        raise errors.ElementUnavailable("the element closed the connection")
    message = cbor.decode(packet)
    if "ok" in message:
        return message["ok"]
    kind = _ERRORS.get(message["error"], errors.ElementError)
    raise kind(message["message"])


def frame(packet: bytes) -> bytes:
    """Put a packet on a byte stream: four bytes of length, big endian, then the packet."""
    return len(packet).to_bytes(4) + packet


def read_frame(connection: socket.socket) -> bytes:
    """Read one packet from a byte stream.

    Raises:
        ElementRequest: The stream ended early, or the packet is too long.
    """
    length = int.from_bytes(_read_exactly(connection, 4))
    if length > MAX_PACKET:
        raise errors.ElementRequest("the packet is too long", length=length)
    return _read_exactly(connection, length)


def _read_exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise errors.ElementRequest("the stream ended early")
        data += part
    return data
