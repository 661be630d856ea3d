"""The device's side of its virtual element: power, requests, and the key as `cryptography` sees it."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Never, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from fuseline.device.element import wire
from fuseline.device.element.interface import KeySlot, SecureElement
from fuseline.errors import ElementUnavailable
from fuseline.formats.psa import SoftwareComponent

_ANSWER_TIMEOUT = 10.0  # seconds; a discrete TPM's slowest signature takes a fifth of one


class ElementClient:
    """A `SecureElement` behind a Unix socket; safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.settimeout(_ANSWER_TIMEOUT)
        try:
            self._connection.connect(str(path))
        except OSError as error:
            raise ElementUnavailable("the element's socket does not answer", path=str(path)) from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _ask(self, operation: str, **arguments: Any) -> Any:
        with self._lock:
            try:
                self._connection.send(wire.encode_request(operation, **arguments))
                packet = self._connection.recv(wire.MAX_PACKET)
            except OSError as error:
                raise ElementUnavailable("the element does not answer") from error
        return wire.decode_answer(packet)

    def public_key(self, slot: KeySlot) -> bytes:
        """Return the slot's SubjectPublicKeyInfo, DER."""
        return bytes(self._ask("public_key", slot=slot.value))

    def attestation_key(self) -> bytes:
        """Return the attestation key's SubjectPublicKeyInfo, DER."""
        return bytes(self._ask("attestation_key"))

    def sign(self, slot: KeySlot, digest: bytes) -> bytes:
        """Sign a SHA-256 digest."""
        return bytes(self._ask("sign", slot=slot.value, digest=digest))

    def record(self, component: SoftwareComponent, security_counter: int) -> None:
        """Record a measured component."""
        self._ask("record", component=component.as_cbor(), security_counter=security_counter)

    def close_boot(self) -> None:
        """End the boot phase."""
        self._ask("close_boot")

    def attest(self, nonce: bytes) -> bytes:
        """Return the boot record as a signed PSA token."""
        return bytes(self._ask("attest", nonce=nonce))

    def counter(self) -> int:
        """Return the monotonic security counter."""
        return int(self._ask("counter"))

    def advance_counter(self) -> int:
        """Raise the counter to that of the recorded boot."""
        return int(self._ask("advance_counter"))


class ElementPower:
    """An element's power switch: one process per power cycle."""

    def __init__(self, folder: Path, *, dial: tuple[str, ...] = ()) -> None:
        """Prepare to power the element in `folder`; `dial` lists ``host:port`` for its TLS relay."""
        self._folder = folder
        self._dial = dial
        self._process: subprocess.Popen[bytes] | None = None
        # Unix socket paths hold 107 bytes (unix(7)); a state folder may be deeper than that.
        self._runtime = Path(tempfile.mkdtemp(prefix="fuseline-element-"))

    @property
    def pid(self) -> int:
        """The element's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def socket_path(self) -> Path:
        """Where it takes requests."""
        return self._runtime / wire.ELEMENT_SOCKET

    @property
    def relay_path(self) -> Path:
        """Where its TLS relay takes connections."""
        return self._runtime / wire.RELAY_SOCKET

    def on(self) -> ElementClient:
        """Power on: the boot record is empty, the boot phase open.

        Raises:
            ElementUnavailable: The element's process ended instead of serving.
        """
        command = [sys.executable, "-m", "fuseline.device.element.service"]
        command += ["--folder", str(self._folder), "--runtime", str(self._runtime)]
        command += ["--device-pid", str(os.getpid())]
        for endpoint in self._dial:
            command += ["--dial", endpoint]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        if self._process.stdout.readline() != b"ready\n":
            reason = self._process.stderr.read().decode(errors="replace").strip()
            self.off()
            raise ElementUnavailable("the element did not power on", reason=reason)
        return ElementClient(self.socket_path)

    def off(self) -> None:
        """Cut the power: everything but the secret and the counter is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        for name in (wire.ELEMENT_SOCKET, wire.RELAY_SOCKET):
            (self._runtime / name).unlink(missing_ok=True)

    def dispose(self) -> None:
        """Power off and remove the sockets' folder."""
        self.off()
        shutil.rmtree(self._runtime, ignore_errors=True)


class ElementKey(ec.EllipticCurvePrivateKey):
    """A P-256 key in an element, usable wherever `cryptography` takes a private key to sign with."""

    def __init__(self, element: SecureElement, slot: KeySlot) -> None:
        self._element = element
        self._slot = slot
        self._public = cast("ec.EllipticCurvePublicKey", load_der_public_key(element.public_key(slot)))

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign with ECDSA and SHA-256, the digest made here, the signature in the element."""
        algorithm = signature_algorithm.algorithm
        if not isinstance(algorithm, hashes.SHA256):
            raise TypeError("the element signs SHA-256 digests")
        return self._element.sign(self._slot, hashlib.sha256(data).digest())

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public half."""
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        """Return the curve."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """Return the key size in bits."""
        return self._public.key_size

    def private_numbers(self) -> Never:
        """Refuse: the key never leaves the element."""
        raise TypeError("the key never leaves the element")

    def private_bytes(self, *_: Any, **__: Any) -> Never:
        """Refuse: the key never leaves the element."""
        raise TypeError("the key never leaves the element")

    def exchange(self, *_: Any, **__: Any) -> Never:
        """Refuse: a signing key agrees on nothing."""
        raise TypeError("the element's keys sign only")

    def __copy__(self) -> ElementKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ElementKey:
        return self
