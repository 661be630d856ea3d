"""Challenges that any worker can mint and check without storing them.

A nonce is 32 bytes: expiry (8, milliseconds), random (8), and the first 16 of an HMAC-SHA256 over both
and the device's name. It is good for one device, for a short time and for one answer; the last is kept
by the caller, in the table of spent nonces.
"""

from __future__ import annotations

import hmac

from fuseline.errors import NonceInvalid, NonceStale

LENGTH = 32  # the shortest nonce of RFC 9783 4.1.1
_RANDOM, _TAG = 8, 16


def _tag(secret: bytes, device: str, head: bytes) -> bytes:
    return hmac.digest(secret, b"fuseline nonce 1\0" + head + device.encode(), "sha256")[:_TAG]


def mint(secret: bytes, device: str, *, expires: float, random: bytes) -> bytes:
    """Make a nonce.

    Args:
        secret: The plane's nonce secret, 32 bytes.
        device: The device that must answer.
        expires: Seconds since the epoch.
        random: 8 random bytes.
    """
    assert len(random) == _RANDOM
    head = int(expires * 1000).to_bytes(8) + random
    return head + _tag(secret, device, head)


def check(secret: bytes, device: str, nonce: bytes, now: float) -> float:
    """Check that a nonce was minted here for this device and is fresh; returns its expiry.

    Raises:
        NonceInvalid: Not ours, or another device's.
        NonceStale: Ours, and too old.
    """
    head, tag = nonce[: LENGTH - _TAG], nonce[LENGTH - _TAG :]
    if len(nonce) != LENGTH or not hmac.compare_digest(tag, _tag(secret, device, head)):
        raise NonceInvalid("the nonce was not minted for this device", device=device)
    expires = int.from_bytes(head[:8]) / 1000
    if now > expires:
        raise NonceStale("the nonce is too old", device=device, expired=expires)
    return expires
