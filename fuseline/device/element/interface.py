"""What every secure element offers, whatever it is made of."""

from __future__ import annotations

import enum
from typing import Protocol

from fuseline.formats.psa import SoftwareComponent


class KeySlot(enum.StrEnum):
    """The element's keys. The attestation key is not among them: it signs tokens only."""

    IDEVID = "idevid"
    LDEVID = "ldevid"


class SecureElement(Protocol):
    """A device's secure element. Every method may raise an `ElementError`."""

    def public_key(self, slot: KeySlot) -> bytes:
        """Return the slot's SubjectPublicKeyInfo, DER."""

    def attestation_key(self) -> bytes:
        """Return the attestation key's SubjectPublicKeyInfo, DER."""

    def sign(self, slot: KeySlot, digest: bytes) -> bytes:
        """Sign a SHA-256 digest (32 bytes); returns a DER ECDSA-Sig-Value."""

    def record(self, component: SoftwareComponent, security_counter: int) -> None:
        """Record a measured component; possible until `close_boot` only."""

    def close_boot(self) -> None:
        """End the boot phase: the record is fixed until the next power cycle."""

    def attest(self, nonce: bytes) -> bytes:
        """Return the boot record as a signed PSA token over a nonce of 32, 48 or 64 bytes."""

    def counter(self) -> int:
        """Return the monotonic security counter."""

    def advance_counter(self) -> int:
        """Raise the counter to that of the recorded boot, never further; returns the new value."""
