"""The element's process: sockets around a `VirtualElement`.

Started by the device's first process with ``python -m fuseline.device.element.service``; says ``ready``
on standard output and serves until it is ended with its device.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuseline.device.element import wire
from fuseline.device.element.hardening import die_with_parent, harden
from fuseline.device.element.interface import KeySlot
from fuseline.device.element.peer import require_own_device
from fuseline.device.element.relay import Relay
from fuseline.device.element.virtual import VirtualElement
from fuseline.errors import ElementError, ElementRequest, FormatError, FuselineError

_BACKLOG = 64
_STRANGERS_TIME = 5.0  # seconds a caller may keep a thread before it has shown who it is


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host and port that the relay may dial."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``host:port``."""
        host, _, port = text.rpartition(":")
        return cls(host, int(port))


class ElementService:
    """Serves one element to one device."""

    def __init__(self, element: VirtualElement, device_pid: int, dial: frozenset[Endpoint]) -> None:
        self._element = element
        self._device_pid = device_pid
        self._dial = dial
        self._relays = {slot: Relay(element.private_key_for_relay(slot)) for slot in KeySlot}
        self._lock = threading.Lock()

    def serve_requests(self, connection: socket.socket) -> None:
        """Answer requests on one connection until the peer closes it."""
        with connection, contextlib.suppress(ConnectionError, TimeoutError):
            try:
                require_own_device(connection, self._device_pid)
            except ElementError as error:
                # A close with the request unread would take the refusal from the caller (unix(7)).
                connection.settimeout(_STRANGERS_TIME)
                connection.recv(wire.MAX_PACKET)
                connection.send(wire.encode_refusal(error))
                return
            while packet := connection.recv(wire.MAX_PACKET):
                connection.send(self._answer(packet))

    def _answer(self, packet: bytes) -> bytes:
        try:
            operation, arguments = wire.decode_request(packet)
            with self._lock:
                return wire.encode_answer(self._element.serve(operation, arguments))
        except FormatError as error:
            return wire.encode_refusal(ElementRequest(error.message))
        except FuselineError as error:
            return wire.encode_refusal(error)

    def serve_relay(self, connection: socket.socket) -> None:
        """Dial for the device: one request, then bytes both ways."""
        with connection, contextlib.suppress(ConnectionError, TimeoutError):
            try:
                connection.settimeout(_STRANGERS_TIME)
                packet = wire.read_frame(connection)  # first, for the same reason as above
                require_own_device(connection, self._device_pid)
                connection.settimeout(None)
                self._splice(connection, packet)
            except (ElementError, FormatError) as error:
                if error.evidence.get("stage") != "transfer":  # then the stream is the application's
                    connection.sendall(wire.frame(wire.encode_refusal(error)))

    def _splice(self, connection: socket.socket, packet: bytes) -> None:
        operation, request = wire.decode_request(packet)
        try:
            endpoint = Endpoint(str(request["host"]), int(request["port"]))
            slot = KeySlot(request["slot"])
            server_name = str(request["server_name"])
            chain, trust = request["chain"], request["trust"]
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise ElementRequest("not a relay request") from error
        if not isinstance(chain, bytes) or not isinstance(trust, bytes):
            # `bytes(2**40)` would be a terabyte of locked memory.
            raise ElementRequest("certificates come as byte strings")
        if operation != "relay" or endpoint not in self._dial:
            raise ElementRequest("the relay dials its own plane only", host=endpoint.host, port=endpoint.port)
        self._relays[slot].splice(
            connection,
            host=endpoint.host,
            port=endpoint.port,
            server_name=server_name,
            chain_pem=chain,
            trust_pem=trust,
            connected=lambda: connection.sendall(wire.frame(wire.encode_answer(None))),
        )


def _listen(path: Path, kind: socket.SocketKind) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(_BACKLOG)
    return listener


def _accept_forever(listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=handle, args=(connection,), daemon=True).start()


def main(arguments: list[str] | None = None) -> int:
    """Run the element's process."""
    parser = argparse.ArgumentParser(prog="fuseline-element", description="virtual secure element")
    parser.add_argument("--folder", type=Path, required=True, help="the provisioned element")
    parser.add_argument("--runtime", type=Path, required=True, help="where the sockets are made")
    parser.add_argument("--device-pid", type=int, required=True, help="first process of the device")
    parser.add_argument("--dial", type=Endpoint.parse, action="append", default=[], help="host:port")
    options = parser.parse_args(arguments)
    die_with_parent(options.device_pid)
    harden()
    try:
        element = VirtualElement.power_on(options.folder)
    except FuselineError as error:
        sys.stderr.write(error.diagnostics() + "\n")
        return 1
    service = ElementService(element, options.device_pid, frozenset(options.dial))
    requests = _listen(options.runtime / wire.ELEMENT_SOCKET, socket.SOCK_SEQPACKET)
    relay = _listen(options.runtime / wire.RELAY_SOCKET, socket.SOCK_STREAM)
    threading.Thread(target=_accept_forever, args=(relay, service.serve_relay), daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    _accept_forever(requests, service.serve_requests)
    return 0


if __name__ == "__main__":
    sys.exit(main())
