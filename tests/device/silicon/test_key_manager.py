"""Key slots: used by number, never seen."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Callable

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from fuseline.device.silicon.commands import KeySlot, Lock
from fuseline.device.silicon.crypto_block import P256, P256_N, hkdf_expand
from fuseline.device.silicon.key_manager import KeyManager
from fuseline.device.silicon.machine_state import MachineState
from fuseline.errors import KeySlotEmpty, KeySlotKind, KeySlotLocked, PortArgument

UDS = bytes(range(32))
ROOTS = (KeySlot.UDS, KeySlot.IDEVID_CDI, KeySlot.IDEVID_KEY)


def public_of(secret: bytes, label: bytes) -> bytes:
    """The public key that `KEY_PAIR` has to give for a known secret (FIPS 186-5 A.2.1)."""
    d = int.from_bytes(hkdf_expand(secret, label, 48), "big") % (P256_N - 1) + 1
    numbers = ec.derive_private_key(d, P256).public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


@pytest.fixture
def state() -> MachineState:
    return MachineState()


@pytest.fixture
def keys(state: MachineState) -> KeyManager:
    manager = KeyManager(state)
    manager.fill_uds(UDS)
    return manager


def ladder(keys: KeyManager) -> None:
    keys.derive(KeySlot.UDS, KeySlot.IDEVID_CDI, b"idevid cdi", b"context")
    keys.pair(KeySlot.IDEVID_CDI, KeySlot.IDEVID_KEY, b"idevid key")
    keys.derive(KeySlot.IDEVID_CDI, KeySlot.LOADER_CDI, b"loader cdi", b"")
    keys.pair(KeySlot.LOADER_CDI, KeySlot.LOADER_KEY, b"loader key")


def uses(keys: KeyManager, slot: KeySlot) -> list[Callable[[], object]]:
    return [
        lambda: keys.derive(slot, KeySlot.GENERAL_0, b"label", b""),
        lambda: keys.pair(slot, KeySlot.GENERAL_0, b"label"),
        lambda: keys.sign(slot, bytes(32)),
        lambda: keys.authenticate(slot, b"message"),
        lambda: keys.encrypt_ctr(slot, bytes(16), b"data"),
        lambda: keys.check_value(slot),
    ]


def test_the_ladder_is_the_documented_derivation(keys: KeyManager) -> None:
    keys.derive(KeySlot.UDS, KeySlot.IDEVID_CDI, b"idevid cdi", b"\x00context")
    cdi = hkdf_expand(UDS, b"idevid cdi\x00\x00context", 32)
    assert keys.pair(KeySlot.IDEVID_CDI, KeySlot.IDEVID_KEY, b"idevid key") == public_of(cdi, b"idevid key")


def test_a_signature_verifies_and_is_deterministic(keys: KeyManager) -> None:
    public = keys.pair(KeySlot.UDS, KeySlot.GENERAL_0, b"key")
    digest = hashlib.sha256(b"m").digest()
    signature = keys.sign(KeySlot.GENERAL_0, digest)
    assert signature == keys.sign(KeySlot.GENERAL_0, digest)
    key = ec.EllipticCurvePublicKey.from_encoded_point(P256, b"\x04" + public)
    der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    key.verify(der, digest, ec.ECDSA(Prehashed(SHA256())))
    with pytest.raises(InvalidSignature):
        key.verify(der, hashlib.sha256(b"n").digest(), ec.ECDSA(Prehashed(SHA256())))


@pytest.mark.parametrize("slot", KeySlot)
def test_an_empty_slot_cannot_be_used(keys: KeyManager, slot: KeySlot) -> None:
    keys.clear(slot)
    for use in uses(keys, slot):
        with pytest.raises(KeySlotEmpty):
            use()


def test_a_cleared_slot_cannot_be_used_again(keys: KeyManager) -> None:
    ladder(keys)
    keys.clear(KeySlot.LOADER_KEY)
    with pytest.raises(KeySlotEmpty):
        keys.sign(KeySlot.LOADER_KEY, bytes(32))
    keys.clear(KeySlot.LOADER_KEY)


@pytest.mark.parametrize("slot", [KeySlot.UDS, KeySlot.IDEVID_CDI, KeySlot.IDEVID_KEY, KeySlot.LOADER_KEY])
def test_a_locked_slot_can_be_neither_used_nor_filled(keys: KeyManager, slot: KeySlot) -> None:
    ladder(keys)
    keys.lock(slot)
    for use in uses(keys, slot):
        with pytest.raises(KeySlotLocked):
            use()
    with pytest.raises(KeySlotLocked):
        keys.derive(KeySlot.LOADER_CDI, slot, b"label", b"")
    with pytest.raises(KeySlotLocked):
        keys.pair(KeySlot.LOADER_CDI, slot, b"label")


def test_clearing_a_locked_slot_does_not_unlock_it(keys: KeyManager) -> None:
    ladder(keys)
    keys.lock(KeySlot.IDEVID_KEY)
    keys.clear(KeySlot.IDEVID_KEY)
    with pytest.raises(KeySlotLocked):
        keys.pair(KeySlot.LOADER_CDI, KeySlot.IDEVID_KEY, b"my own identity")


@pytest.mark.parametrize("slot", ROOTS)
def test_the_lock_on_roots_covers_the_identity(keys: KeyManager, state: MachineState, slot: KeySlot) -> None:
    ladder(keys)
    state.locks = Lock.KEY_ROOTS
    for use in uses(keys, slot):
        with pytest.raises(KeySlotLocked):
            use()
    with pytest.raises(KeySlotLocked):
        keys.derive(KeySlot.LOADER_CDI, slot, b"label", b"")
    with pytest.raises(KeySlotLocked):
        keys.fill_uds(bytes(32))
    keys.sign(KeySlot.LOADER_KEY, bytes(32))


def test_machine_code_cannot_choose_the_uds(keys: KeyManager) -> None:
    ladder(keys)
    with pytest.raises(KeySlotKind):
        keys.derive(KeySlot.LOADER_CDI, KeySlot.UDS, b"label", b"")
    with pytest.raises(KeySlotKind):
        keys.pair(KeySlot.LOADER_CDI, KeySlot.UDS, b"label")
    with pytest.raises(RuntimeError):
        keys.fill_uds(bytes(31))


def test_a_signing_key_is_no_secret_and_a_secret_no_signing_key(keys: KeyManager) -> None:
    ladder(keys)
    with pytest.raises(KeySlotKind):
        keys.sign(KeySlot.LOADER_CDI, bytes(32))
    for use in (use for index, use in enumerate(uses(keys, KeySlot.LOADER_KEY)) if index != 2):
        with pytest.raises(KeySlotKind):
            use()


@pytest.mark.parametrize("label", [b"", b"\x00", b"hmac\x00", b"\x00hmac", b"a\x00b"])
def test_labels_that_could_imitate_another_use_are_refused(keys: KeyManager, label: bytes) -> None:
    with pytest.raises(PortArgument):
        keys.derive(KeySlot.UDS, KeySlot.GENERAL_0, label, b"")
    with pytest.raises(PortArgument):
        keys.pair(KeySlot.UDS, KeySlot.GENERAL_0, label)
    assert keys.filled() == {KeySlot.UDS}


def test_an_hmac_that_imitates_a_derivation_does_not_give_the_derived_key(keys: KeyManager) -> None:
    label, context = b"loader cdi", b"measurement"
    keys.derive(KeySlot.UDS, KeySlot.LOADER_CDI, label, context)
    genuine = keys.pair(KeySlot.LOADER_CDI, KeySlot.LOADER_KEY, b"loader key")
    info = label + b"\x00" + context
    read_out = keys.authenticate(KeySlot.UDS, info + b"\x01")
    assert public_of(read_out, b"loader key") != genuine
    # The control: with the slot's secret itself as HMAC key, this message gives the derived key away.
    leaked = hmac.digest(UDS, info + b"\x01", "sha256")
    assert public_of(leaked, b"loader key") == genuine


def test_no_two_uses_of_one_secret_share_a_key(keys: KeyManager) -> None:
    stream = keys.encrypt_ctr(KeySlot.UDS, bytes(16), bytes(32))
    answers = [
        stream,
        keys.authenticate(KeySlot.UDS, b""),
        keys.check_value(KeySlot.UDS),
        keys.pair(KeySlot.UDS, KeySlot.GENERAL_0, b"hmac"),
        keys.pair(KeySlot.UDS, KeySlot.GENERAL_0, b"check value"),
    ]
    for one, other in itertools.combinations(answers, 2):
        assert one[:16] != other[:16]


def test_no_answer_and_no_text_holds_a_secret(keys: KeyManager) -> None:
    ladder(keys)
    cdi = hkdf_expand(UDS, b"idevid cdi\x00context", 32)
    answers = [
        keys.authenticate(KeySlot.IDEVID_CDI, bytes(64)),
        keys.encrypt_ctr(KeySlot.IDEVID_CDI, bytes(16), bytes(64)),
        keys.check_value(KeySlot.IDEVID_CDI),
        keys.sign(KeySlot.IDEVID_KEY, bytes(32)),
        keys.pair(KeySlot.IDEVID_CDI, KeySlot.GENERAL_0, b"x"),
    ]
    scalar = int.from_bytes(hkdf_expand(cdi, b"idevid key", 48), "big") % (P256_N - 1) + 1
    for secret in (UDS, cdi, scalar.to_bytes(32, "big")):
        assert not any(secret[:8] in answer for answer in answers)
        for text in (repr(keys), repr(keys.content())):
            assert secret.hex()[:16] not in text
            assert repr(secret)[2:20] not in text


def test_the_check_value_tells_secrets_apart_and_knows_them_again(keys: KeyManager) -> None:
    first = keys.check_value(KeySlot.UDS)
    keys.fill_uds(UDS[::-1])
    assert keys.check_value(KeySlot.UDS) != first
    keys.fill_uds(UDS)
    assert keys.check_value(KeySlot.UDS) == first


def test_encryption_is_undone_by_itself_and_bound_to_the_slot(keys: KeyManager) -> None:
    ladder(keys)
    sealed = keys.encrypt_ctr(KeySlot.LOADER_CDI, b"\x01" * 16, b"settings")
    assert keys.encrypt_ctr(KeySlot.LOADER_CDI, b"\x01" * 16, sealed) == b"settings"
    assert keys.encrypt_ctr(KeySlot.IDEVID_CDI, b"\x01" * 16, sealed) != b"settings"


@pytest.mark.parametrize("update", [False, True])
def test_a_reset_empties_and_unlocks_all_but_the_identity_of_an_update(
    keys: KeyManager, update: bool
) -> None:
    ladder(keys)
    keys.lock(KeySlot.IDEVID_KEY)
    keys.reset(update=update)
    kept = {KeySlot.IDEVID_CDI, KeySlot.IDEVID_KEY} if update else set()
    assert keys.filled() == kept
    if update:
        keys.sign(KeySlot.IDEVID_KEY, bytes(32))


def test_zeroised_slots_are_empty_and_stay_locked(keys: KeyManager) -> None:
    ladder(keys)
    keys.zeroise()
    assert keys.filled() == frozenset()
    for slot in KeySlot:
        with pytest.raises(KeySlotLocked):
            keys.check_value(slot)
    with pytest.raises(KeySlotLocked):
        keys.fill_uds(UDS)
