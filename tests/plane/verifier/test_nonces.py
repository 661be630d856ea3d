"""Challenges: one plane, one device, a short time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseline.errors import NonceInvalid, NonceStale
from fuseline.plane.verifier import nonces

SECRET = b"s" * 32
DEVICE = "dev-1.acme.example"
NONCE = nonces.mint(SECRET, DEVICE, expires=1000.5, random=b"r" * 8)


def test_a_fresh_nonce_tells_its_expiry() -> None:
    assert len(NONCE) == nonces.LENGTH
    assert nonces.check(SECRET, DEVICE, NONCE, 0.0) == 1000.5
    assert nonces.check(SECRET, DEVICE, NONCE, 1000.5) == 1000.5


def test_an_old_nonce_is_stale() -> None:
    with pytest.raises(NonceStale) as caught:
        nonces.check(SECRET, DEVICE, NONCE, 1000.501)
    assert caught.value.evidence == {"device": DEVICE, "expired": 1000.5}


@pytest.mark.parametrize("device", ["dev-2.acme.example", "", DEVICE + "x", DEVICE[:-1], DEVICE.upper()])
def test_a_nonce_of_another_device_is_invalid(device: str) -> None:
    with pytest.raises(NonceInvalid):
        nonces.check(SECRET, device, NONCE, 0.0)


def test_a_nonce_of_another_plane_is_invalid() -> None:
    with pytest.raises(NonceInvalid):
        nonces.check(b"t" * 32, DEVICE, NONCE, 0.0)


def test_every_bit_of_a_nonce_counts_before_its_age_does() -> None:
    for position in range(len(NONCE) * 8):
        flipped = bytearray(NONCE)
        flipped[position // 8] ^= 1 << position % 8
        # Stale and forged: a forged expiry must not be believed, not even to refuse it.
        with pytest.raises(NonceInvalid):
            nonces.check(SECRET, DEVICE, bytes(flipped), 5000.0)


@given(st.binary(max_size=80))
def test_no_other_bytes_are_a_nonce(raw: bytes) -> None:
    with pytest.raises(NonceInvalid):
        nonces.check(SECRET, DEVICE, raw, 0.0)


@pytest.mark.parametrize("raw", [NONCE[:-1], NONCE + b"\0", NONCE[1:], NONCE * 2])
def test_a_nonce_has_one_length(raw: bytes) -> None:
    with pytest.raises(NonceInvalid):
        nonces.check(SECRET, DEVICE, raw, 0.0)


def test_randomness_makes_nonces_differ() -> None:
    other = nonces.mint(SECRET, DEVICE, expires=1000.5, random=b"R" * 8)
    assert other[16:] != NONCE[16:]
