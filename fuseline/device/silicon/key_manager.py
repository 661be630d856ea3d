"""The key manager: secrets that machine code uses by slot number and never sees.

A slot holds 32 secret octets or a P-256 private key. Each use of a secret has its own HKDF info, and no two
uses share one, so that no answer of one command is the key of another: an HMAC whose message imitates a
derivation does not give the derived secret.

| use | info of HKDF-Expand |
| --- | --- |
| derive a secret | label, 0x00, context; the label has no zero octet |
| derive a key pair | label |
| HMAC, AES, check value | 0x00, name of the use |
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from fuseline.device.silicon.commands import KeySlot, Lock
from fuseline.device.silicon.crypto_block import P256, P256_N, aes_ctr, hkdf_expand
from fuseline.errors import KeySlotEmpty, KeySlotKind, KeySlotLocked, PortArgument

if TYPE_CHECKING:
    from fuseline.device.silicon.machine_state import MachineState

SECRET_SIZE: Final = 32
CHECK_VALUE_SIZE: Final = 16
_PAIR_SIZE: Final = 48
"""Octets for a P-256 private key: FIPS 186-5 A.2.1 asks for 64 bits over the order's 256; here are 128."""
_ROOTS: Final = frozenset({KeySlot.UDS, KeySlot.IDEVID_CDI, KeySlot.IDEVID_KEY})
_KEPT_OVER_UPDATE: Final = frozenset({KeySlot.IDEVID_CDI, KeySlot.IDEVID_KEY})
_SIGNATURE: Final = ec.ECDSA(Prehashed(SHA256()), deterministic_signing=True)
_HMAC_INFO: Final = b"\x00hmac"
_AES_INFO: Final = b"\x00aes"
_CHECK_INFO: Final = b"\x00check value"


@dataclass(frozen=True, slots=True)
class KeyContent:
    """What a snapshot keeps of the slots. Shows nothing of it.

    Attributes:
        slots: Content of the filled slots.
        locked: Slots that are locked.
    """

    slots: dict[KeySlot, bytes | ec.EllipticCurvePrivateKey] = field(repr=False)
    locked: frozenset[KeySlot] = frozenset()


class KeyManager:
    """The key slots.

    No method returns a secret, and none can be given one but by the PUF.

    Args:
        state: Locks of this run.
    """

    def __init__(self, state: MachineState) -> None:
        self._state = state
        self._slots: dict[KeySlot, bytes | ec.EllipticCurvePrivateKey] = {}
        self._locked: set[KeySlot] = set()

    def __repr__(self) -> str:
        filled = ", ".join(slot.name for slot in sorted(self._slots))
        return f"KeyManager(filled: {filled or 'none'})"

    def filled(self) -> frozenset[KeySlot]:
        """Return the slots that hold something."""
        return frozenset(self._slots)

    def fill_uds(self, secret: bytes) -> None:
        """Take the unique device secret from the PUF.

        Args:
            secret: 32 octets.

        Raises:
            KeySlotLocked: The slot is locked.
        """
        self._permit(KeySlot.UDS)
        if len(secret) != SECRET_SIZE:
            raise RuntimeError(f"a secret has {SECRET_SIZE} octets")
        self._slots[KeySlot.UDS] = secret

    def derive(self, source: KeySlot, destination: KeySlot, label: bytes, context: bytes) -> None:
        """Fill `destination` with HKDF-Expand(source, label || 0x00 || context, 32).

        Args:
            source: Slot with a secret.
            destination: Any slot but the UDS.
            label: At least one octet, none of them zero.
            context: Anything.

        Raises:
            KeySlotLocked, KeySlotEmpty, KeySlotKind: The source cannot be used or the destination filled.
            PortArgument: Bad label.
        """
        secret = self._secret(source)
        self._permit_filling(destination)
        info = _checked_label(label) + b"\x00" + context
        self._slots[destination] = hkdf_expand(secret, info, SECRET_SIZE)

    def pair(self, source: KeySlot, destination: KeySlot, label: bytes) -> bytes:
        """Fill `destination` with a P-256 key derived from `source` (FIPS 186-5 A.2.1).

        Args:
            source: Slot with a secret.
            destination: Any slot but the UDS.
            label: At least one octet, none of them zero.

        Returns:
            The public key: X || Y, 64 octets.

        Raises:
            KeySlotLocked, KeySlotEmpty, KeySlotKind: The source cannot be used or the destination filled.
            PortArgument: Bad label.
        """
        secret = self._secret(source)
        self._permit_filling(destination)
        wide = int.from_bytes(hkdf_expand(secret, _checked_label(label), _PAIR_SIZE), "big")
        key = ec.derive_private_key(wide % (P256_N - 1) + 1, P256)
        self._slots[destination] = key
        numbers = key.public_key().public_numbers()
        return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")

    def sign(self, slot: KeySlot, digest: bytes) -> bytes:
        """Return an ECDSA signature r || s (64 octets) over a SHA-256 digest, deterministic (RFC 6979).

        Raises:
            KeySlotLocked, KeySlotEmpty, KeySlotKind: The slot cannot be used, or holds no P-256 key.
        """
        key = self._content(slot)
        if isinstance(key, bytes):
            raise KeySlotKind(f"{slot.name} holds no P-256 key", slot=slot.name)
        r, s = decode_dss_signature(key.sign(digest, _SIGNATURE))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def authenticate(self, slot: KeySlot, message: bytes) -> bytes:
        """Return HMAC-SHA256 (32 octets) over `message` under a key derived from the slot for this use.

        Raises:
            KeySlotLocked, KeySlotEmpty, KeySlotKind: The slot cannot be used, or holds no secret.
        """
        key = hkdf_expand(self._secret(slot), _HMAC_INFO, SECRET_SIZE)
        return hmac.digest(key, message, "sha256")

    def encrypt_ctr(self, slot: KeySlot, counter: bytes, data: bytes) -> bytes:
        """Encrypt or decrypt by AES-256 in counter mode under a key derived from the slot for this use.

        Args:
            slot: Slot with a secret.
            counter: Initial counter block, 16 octets.
            data: Anything.

        Raises:
            KeySlotLocked, KeySlotEmpty, KeySlotKind: The slot cannot be used, or holds no secret.
        """
        return aes_ctr(hkdf_expand(self._secret(slot), _AES_INFO, SECRET_SIZE), counter, data)

    def check_value(self, slot: KeySlot) -> bytes:
        """Return 16 octets that tell whether it is the same secret, and nothing else about it.

        Raises:
            KeySlotLocked, KeySlotEmpty, KeySlotKind: The slot cannot be used, or holds no secret.
        """
        return hkdf_expand(self._secret(slot), _CHECK_INFO, CHECK_VALUE_SIZE)

    def clear(self, slot: KeySlot) -> None:
        """Empty a slot. Always allowed: it takes away, and gives nothing."""
        self._slots.pop(slot, None)

    def lock(self, slot: KeySlot) -> None:
        """Make a slot unusable until the next reset."""
        self._locked.add(slot)

    def zeroise(self) -> None:
        """Empty every slot and lock it, as when the chip fails."""
        self._slots.clear()
        self._locked.update(KeySlot)

    def reset(self, *, update: bool) -> None:
        """Unlock all slots and empty them; an update reset leaves the IDevID's two."""
        self._locked.clear()
        kept = _KEPT_OVER_UPDATE if update else frozenset()
        self._slots = {slot: content for slot, content in self._slots.items() if slot in kept}

    def content(self) -> KeyContent:
        """Return the slots for a snapshot of the whole chip."""
        return KeyContent(dict(self._slots), frozenset(self._locked))

    def restore(self, content: KeyContent) -> None:
        """Become the slots of another moment or another chip."""
        self._slots = dict(content.slots)
        self._locked = set(content.locked)

    def _permit(self, slot: KeySlot) -> None:
        if slot in self._locked or (slot in _ROOTS and self._state.locks & Lock.KEY_ROOTS):
            raise KeySlotLocked(f"{slot.name} is locked until the next reset", slot=slot.name)

    def _permit_filling(self, slot: KeySlot) -> None:
        self._permit(slot)
        if slot is KeySlot.UDS:
            raise KeySlotKind("only the PUF fills the UDS", slot=slot.name)

    def _content(self, slot: KeySlot) -> bytes | ec.EllipticCurvePrivateKey:
        self._permit(slot)
        content = self._slots.get(slot)
        if content is None:
            raise KeySlotEmpty(f"{slot.name} is empty", slot=slot.name)
        return content

    def _secret(self, slot: KeySlot) -> bytes:
        content = self._content(slot)
        if not isinstance(content, bytes):
            raise KeySlotKind(f"{slot.name} holds a P-256 key", slot=slot.name)
        return content


def _checked_label(label: bytes) -> bytes:
    if not label or 0 in label:
        raise PortArgument("a label has at least one octet, and no zero octet", length=len(label))
    return label
