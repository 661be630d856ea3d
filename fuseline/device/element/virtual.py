"""The virtual secure element: what a discrete element does, as a process of its own.

Keys are derived from the device's secret at power-on and exist in this process only. It answers over a
Unix socket, to processes of its own device only, and has no operation that returns a private key. The
attestation key signs one thing: the boot record.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fuseline.device.element.interface import KeySlot
from fuseline.device.files import write_durably
from fuseline.errors import ElementCounter, ElementPhase, ElementRequest, StateMissing, StatePermissions
from fuseline.formats import cose, psa, x509profile

# SEC 2 2.4.2: the order n of P-256's group.
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# FIPS 186-5 A.2.1: 128 bits more than the order make the bias of the reduction negligible.
_KEY_BYTES = 48
_ATTEST = "attest"
_COUNTER_MAX = 2**32 - 1  # MCUboot's security counter is an unsigned 32-bit number
# RFC 9783 4.1.2: a negative client id is a caller outside the secure partition.
_CLIENT_ID = -1
SECRET_FILE, PROVISION_FILE, COUNTER_FILE = "secret", "provision.json", "counter"


@dataclass(frozen=True, slots=True)
class Provision:
    """What the factory wrote into the element besides the secret.

    Attributes:
        implementation_id: 32 bytes naming the hardware class (RFC 9783 4.2.2).
        lifecycle: Security lifecycle (RFC 9783 4.3.1).
    """

    implementation_id: bytes
    lifecycle: int


def provision(folder: Path, implementation_id: bytes, *, lifecycle: int = psa.LIFECYCLE_SECURED) -> None:
    """Make a new element: a fresh secret, the provisioned facts, a counter at zero.

    Raises:
        FileExistsError: There is an element already; an element is never made twice.
    """
    folder.mkdir(parents=True, mode=0o700)
    secret = secrets.token_bytes(32)
    _write_new(folder / SECRET_FILE, secret)
    facts = {"implementation_id": implementation_id.hex(), "lifecycle": lifecycle}
    _write_new(folder / PROVISION_FILE, json.dumps(facts).encode())
    MonotonicCounter.create(folder / COUNTER_FILE, secret)


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _derive(secret: bytes, purpose: str, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, b"fuseline virtual element 1", purpose.encode()).derive(secret)


def _derive_key(secret: bytes, slot: str) -> ec.EllipticCurvePrivateKey:
    scalar = int.from_bytes(_derive(secret, f"key {slot}", _KEY_BYTES)) % (_P256_ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())


class MonotonicCounter:
    """A counter that survives power loss and goes up only.

    A file cannot have one-way bits; the authentication code shows edits, not the return of an old file.
    """

    _LAYOUT = struct.Struct(">I32s")

    def __init__(self, path: Path, secret: bytes) -> None:
        self._path = path
        self._key = _derive(secret, "counter", 32)

    @classmethod
    def create(cls, path: Path, secret: bytes) -> MonotonicCounter:
        """Make the counter, at zero."""
        counter = cls(path, secret)
        counter._store(0)
        return counter

    def _mac(self, value: int) -> bytes:
        return hmac.digest(self._key, value.to_bytes(4), "sha256")

    def read(self) -> int:
        """Return the value.

        Raises:
            ElementCounter: The stored value is gone or was edited; there is no safe default.
        """
        try:
            value, mac = self._LAYOUT.unpack(self._path.read_bytes())
        except (OSError, struct.error) as error:
            raise ElementCounter("the monotonic counter cannot be read") from error
        if not hmac.compare_digest(mac, self._mac(value)):
            raise ElementCounter("the monotonic counter was edited")
        return int(value)

    def advance_to(self, value: int) -> int:
        """Raise the counter to `value` if that is higher; returns the value now."""
        current = self.read()
        if value > current:
            self._store(min(value, _COUNTER_MAX))
            return value
        return current

    def _store(self, value: int) -> None:
        write_durably(self._path, self._LAYOUT.pack(value, self._mac(value)))


class VirtualElement:
    """One powered-on element; power it off by ending its process."""

    def __init__(self, secret: bytes, facts: Provision, counter: MonotonicCounter) -> None:
        self._facts = facts
        self._counter = counter
        self._keys = {slot: _derive_key(secret, slot) for slot in KeySlot}
        self._attestation_key = _derive_key(secret, _ATTEST)
        self._boot_seed = secrets.token_bytes(32)
        self._record: list[psa.SoftwareComponent] = []
        self._booted_counter = 0
        self._boot_closed = False

    @classmethod
    def power_on(cls, folder: Path) -> VirtualElement:
        """Read the secret and the provisioned facts.

        Raises:
            StateMissing: There is no element in this folder.
            StatePermissions: The secret is readable by others.
        """
        path = folder / SECRET_FILE
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise StatePermissions("the element's secret is readable by others", path=str(path))
            secret = path.read_bytes()
            facts = json.loads((folder / PROVISION_FILE).read_text())
            provisioned = Provision(bytes.fromhex(facts["implementation_id"]), int(facts["lifecycle"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateMissing("no provisioned element here", path=str(folder)) from error
        return cls(secret, provisioned, MonotonicCounter(folder / COUNTER_FILE, secret))

    def private_key_for_relay(self, slot: KeySlot) -> ec.EllipticCurvePrivateKey:
        """Return a key to this process's own TLS client; no request reaches this."""
        return self._keys[slot]

    # --- operations: the names are the requests', the arguments come from outside ------------------

    def op_public_key(self, slot: object) -> bytes:
        """Serve `SecureElement.public_key`."""
        return x509profile.spki(self._keys[_slot(slot)].public_key())

    def op_attestation_key(self) -> bytes:
        """Serve `SecureElement.attestation_key`."""
        return x509profile.spki(self._attestation_key.public_key())

    def op_sign(self, slot: object, digest: object) -> bytes:
        """Serve `SecureElement.sign`."""
        if not isinstance(digest, bytes) or len(digest) != hashlib.sha256().digest_size:
            raise ElementRequest("a digest has 32 bytes")
        return cose.signer_for(self._keys[_slot(slot)])(digest)

    def op_record(self, component: object, security_counter: object) -> None:
        """Serve `SecureElement.record`."""
        if self._boot_closed:
            raise ElementPhase("the boot phase is closed; the record is fixed until power-off")
        if type(security_counter) is not int or not 0 <= security_counter <= _COUNTER_MAX:
            raise ElementRequest("a security counter is an unsigned 32-bit number")
        self._record.append(psa.SoftwareComponent.from_cbor(component))
        self._booted_counter = max(self._booted_counter, security_counter)

    def op_close_boot(self) -> None:
        """Serve `SecureElement.close_boot`."""
        if not self._record:
            raise ElementPhase("nothing was measured; there is no boot to close")
        self._boot_closed = True

    def op_attest(self, nonce: object) -> bytes:
        """Serve `SecureElement.attest`."""
        if not self._boot_closed:
            raise ElementPhase("the boot phase is still open; anything could be added to its record")
        if not isinstance(nonce, bytes) or len(nonce) not in (32, 48, 64):
            raise ElementRequest("a nonce has 32, 48 or 64 bytes")
        token = psa.PsaToken(
            nonce=nonce,
            instance_id=psa.instance_id_of(self._attestation_key.public_key()),
            implementation_id=self._facts.implementation_id,
            client_id=_CLIENT_ID,
            lifecycle=self._facts.lifecycle,
            boot_seed=self._boot_seed,
            components=tuple(self._record),
        )
        return cose.sign1(psa.encode_claims(token), cose.signer_for(self._attestation_key))

    def op_counter(self) -> int:
        """Serve `SecureElement.counter`."""
        return self._counter.read()

    def op_advance_counter(self) -> int:
        """Serve `SecureElement.advance_counter`: no caller can choose the value."""
        if not self._boot_closed:
            raise ElementPhase("only a finished boot can raise the counter")
        return self._counter.advance_to(self._booted_counter)

    def serve(self, operation: str, arguments: dict[str, Any]) -> Any:
        """Run one request.

        Raises:
            ElementError: The request is unknown, malformed or out of phase.
        """
        handler = getattr(self, f"op_{operation}", None) if operation.isidentifier() else None
        if handler is None:
            raise ElementRequest("no such operation", operation=operation[:40])
        try:
            return handler(**arguments)
        except TypeError as error:
            raise ElementRequest("wrong arguments", operation=operation) from error


def _slot(value: object) -> KeySlot:
    try:
        return KeySlot(str(value))
    except ValueError as error:
        raise ElementRequest("no such key slot", slot=str(value)[:40]) from error
