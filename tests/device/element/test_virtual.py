"""The virtual element: its keys, its boot record, its counter."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key

from fuseline.device.element import virtual
from fuseline.device.element.interface import KeySlot
from fuseline.device.element.virtual import VirtualElement
from fuseline.errors import (
    ElementCounter,
    ElementPhase,
    ElementRequest,
    EvidenceSignature,
    PsaClaims,
    StateMissing,
    StatePermissions,
)
from fuseline.formats import cose, psa

IMPLEMENTATION = b"i" * 32
COMPONENT = psa.SoftwareComponent("FW", b"m" * 32, b"s" * 32, "1.0.0")
DIGEST = hashlib.sha256(b"anything").digest()
NONCE = b"n" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    virtual.provision(tmp_path / "element", IMPLEMENTATION)
    return tmp_path / "element"


def booted(folder: Path, counter: int = 7) -> VirtualElement:
    element = VirtualElement.power_on(folder)
    element.op_record(COMPONENT.as_cbor(), counter)
    element.op_close_boot()
    return element


def public(der: bytes) -> ec.EllipticCurvePublicKey:
    key = load_der_public_key(der)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def all_keys(element: VirtualElement) -> list[bytes]:
    return [element.op_public_key(slot.value) for slot in KeySlot] + [element.op_attestation_key()]


def evidence(element: VirtualElement, nonce: bytes = NONCE) -> psa.PsaToken:
    key = public(element.op_attestation_key())
    token = cose.verify_sign1(element.op_attest(nonce), key, refused=EvidenceSignature)
    return psa.decode_claims(token.payload)


# --- keys ------------------------------------------------------------------------------------------


def test_keys_outlive_the_power(folder: Path) -> None:
    assert all_keys(VirtualElement.power_on(folder)) == all_keys(VirtualElement.power_on(folder))


def test_keys_differ_between_slots_and_between_devices(folder: Path, tmp_path: Path) -> None:
    virtual.provision(tmp_path / "other", IMPLEMENTATION)
    keys = all_keys(VirtualElement.power_on(folder)) + all_keys(VirtualElement.power_on(tmp_path / "other"))
    assert len(set(keys)) == 6


def test_a_signature_verifies_under_its_own_slot_only(folder: Path) -> None:
    element = VirtualElement.power_on(folder)
    signature = element.op_sign("ldevid", DIGEST)
    algorithm = ec.ECDSA(Prehashed(hashes.SHA256()))
    public(element.op_public_key("ldevid")).verify(signature, DIGEST, algorithm)
    for other in (element.op_public_key("idevid"), element.op_attestation_key()):
        assert other != element.op_public_key("ldevid")


@pytest.mark.parametrize("slot", ["attest", "", "IDEVID", "secret", 0, None, b"idevid", "counter"])
def test_the_attestation_key_signs_nothing_else(folder: Path, slot: object) -> None:
    element = booted(folder)
    with pytest.raises(ElementRequest):
        element.op_sign(slot, DIGEST)
    with pytest.raises(ElementRequest):
        element.op_public_key(slot)


@pytest.mark.parametrize("digest", [b"", DIGEST[:-1], DIGEST + b"\0", DIGEST * 2, "x" * 32, None, 32])
def test_only_a_digest_is_signed(folder: Path, digest: object) -> None:
    with pytest.raises(ElementRequest):
        VirtualElement.power_on(folder).op_sign("idevid", digest)


def test_no_operation_returns_a_private_key(folder: Path) -> None:
    element = VirtualElement.power_on(folder)
    secret = (folder / virtual.SECRET_FILE).read_bytes()
    keys = [element.private_key_for_relay(slot) for slot in KeySlot] + [element._attestation_key]
    scalars = [key.private_numbers().private_value.to_bytes(32) for key in keys]
    requests: dict[str, dict[str, object]] = {
        "record": {"component": COMPONENT.as_cbor(), "security_counter": 1},
        "close_boot": {},
        "attest": {"nonce": NONCE},
        "public_key": {"slot": "idevid"},
        "attestation_key": {},
        "sign": {"slot": "idevid", "digest": DIGEST},
        "counter": {},
        "advance_counter": {},
    }
    offered = {name.removeprefix("op_") for name in dir(element) if name.startswith("op_")}
    assert offered == set(requests), "a new operation needs its line here"
    for operation, arguments in requests.items():
        answer = element.serve(operation, arguments)
        content = answer if isinstance(answer, bytes) else repr(answer).encode()
        for forbidden in [secret, *scalars]:
            assert forbidden not in content, operation
            assert forbidden.hex().encode() not in content, operation


@pytest.mark.parametrize(
    "operation",
    [
        "",
        "private_key_for_relay",
        "_keys",
        "op_sign",
        "__init__",
        "serve",
        "sign ",
        "sign\0",
        "power_on",
    ],
)
def test_nothing_but_operations_is_served(folder: Path, operation: str) -> None:
    with pytest.raises(ElementRequest):
        VirtualElement.power_on(folder).serve(operation, {})


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("sign", {}),
        ("sign", {"slot": "idevid"}),
        ("sign", {"slot": "idevid", "digest": DIGEST, "more": 1}),
        ("counter", {"value": 9}),
        ("advance_counter", {"value": 9}),
        ("close_boot", {"self": 1}),
        ("record", {"component": {}, "security_counter": 1, "force": True}),
    ],
)
def test_wrong_arguments_are_a_refusal(folder: Path, operation: str, arguments: dict[str, object]) -> None:
    element = VirtualElement.power_on(folder)
    with pytest.raises(ElementRequest):
        element.serve(operation, arguments)
    assert element.op_counter() == 0


# --- boot phases -----------------------------------------------------------------------------------


def test_evidence_is_the_boot_record(folder: Path) -> None:
    element = booted(folder)
    token = evidence(element)
    assert token.components == (COMPONENT,)
    assert token.nonce == NONCE
    assert token.implementation_id == IMPLEMENTATION
    assert token.instance_id == psa.instance_id_of(public(element.op_attestation_key()))
    assert token.lifecycle == psa.LIFECYCLE_SECURED
    assert token.client_id < 0


def test_nothing_is_attested_before_the_boot_phase_is_closed(folder: Path) -> None:
    element = VirtualElement.power_on(folder)
    with pytest.raises(ElementPhase):
        element.op_attest(NONCE)
    element.op_record(COMPONENT.as_cbor(), 1)
    with pytest.raises(ElementPhase):
        element.op_attest(NONCE)
    element.op_close_boot()
    assert evidence(element).components == (COMPONENT,)


def test_the_record_is_fixed_once_closed(folder: Path) -> None:
    element = booted(folder)
    healthy = psa.SoftwareComponent("FW", b"h" * 32, b"s" * 32, "9.9.9")
    with pytest.raises(ElementPhase):
        element.op_record(healthy.as_cbor(), 99)
    assert evidence(element).components == (COMPONENT,)
    assert element.op_advance_counter() == 7


def test_a_boot_that_measured_nothing_cannot_be_closed(folder: Path) -> None:
    element = VirtualElement.power_on(folder)
    with pytest.raises(ElementPhase):
        element.op_close_boot()
    with pytest.raises(ElementPhase):
        element.op_attest(NONCE)


def test_each_boot_has_a_seed_of_its_own(folder: Path) -> None:
    first, second = booted(folder), booted(folder)
    assert evidence(first).boot_seed == evidence(first, b"o" * 32).boot_seed
    assert evidence(first).boot_seed != evidence(second).boot_seed


@pytest.mark.parametrize("nonce", [b"", b"n" * 31, b"n" * 33, b"n" * 65, "n" * 32, None, 32])
def test_only_a_challenge_is_attested(folder: Path, nonce: object) -> None:
    with pytest.raises(ElementRequest):
        booted(folder).op_attest(nonce)


@pytest.mark.parametrize("component", [None, {}, [], {2: b"short", 5: b"s" * 32}, {2: b"m" * 32}, b"m" * 32])
def test_a_malformed_component_is_not_recorded(folder: Path, component: object) -> None:
    element = VirtualElement.power_on(folder)
    with pytest.raises(PsaClaims):
        element.op_record(component, 1)
    with pytest.raises(ElementPhase):
        element.op_close_boot()  # still nothing measured


# --- counter ---------------------------------------------------------------------------------------


def test_the_counter_goes_up_only_and_outlives_the_power(folder: Path) -> None:
    assert booted(folder, 7).op_advance_counter() == 7
    assert VirtualElement.power_on(folder).op_counter() == 7
    assert booted(folder, 3).op_advance_counter() == 7
    assert booted(folder, 2**32 - 1).op_advance_counter() == 2**32 - 1
    assert VirtualElement.power_on(folder).op_counter() == 2**32 - 1


def test_the_counter_never_passes_the_booted_image(folder: Path) -> None:
    element = VirtualElement.power_on(folder)
    with pytest.raises(ElementPhase):
        element.op_advance_counter()
    element.op_record(COMPONENT.as_cbor(), 4)
    with pytest.raises(ElementPhase):
        element.op_advance_counter()
    assert element.op_counter() == 0
    element.op_close_boot()
    assert [element.op_advance_counter() for _ in range(3)] == [4, 4, 4]


@pytest.mark.parametrize("value", [-1, 2**32, 1.0, True, "1", None, b"\1"])
def test_a_counter_out_of_range_is_not_recorded(folder: Path, value: object) -> None:
    element = VirtualElement.power_on(folder)
    with pytest.raises(ElementRequest):
        element.op_record(COMPONENT.as_cbor(), value)
    with pytest.raises(ElementPhase):
        element.op_close_boot()


def test_every_edit_of_the_counter_s_file_is_noticed(folder: Path) -> None:
    booted(folder, 7).op_advance_counter()
    path = folder / virtual.COUNTER_FILE
    good = path.read_bytes()
    edits = [bytes([*good[:at], good[at] ^ 1, *good[at + 1 :]]) for at in range(len(good))]
    edits += [b"", good[:-1], good + b"\0", struct.pack(">I", 0) + good[4:]]
    for edit in edits:
        path.write_bytes(edit)
        element = booted(folder, 9)
        with pytest.raises(ElementCounter):
            element.op_counter()
        with pytest.raises(ElementCounter):
            element.op_advance_counter()
        assert path.read_bytes() == edit, "nothing heals an edited counter"
    path.write_bytes(good)
    assert VirtualElement.power_on(folder).op_counter() == 7


def test_a_lost_counter_is_not_replaced_by_zero(folder: Path) -> None:
    booted(folder, 7).op_advance_counter()
    (folder / virtual.COUNTER_FILE).unlink()
    with pytest.raises(ElementCounter):
        VirtualElement.power_on(folder).op_counter()


def test_the_counter_of_another_device_is_refused(folder: Path, tmp_path: Path) -> None:
    virtual.provision(tmp_path / "other", IMPLEMENTATION)
    (folder / virtual.COUNTER_FILE).write_bytes((tmp_path / "other" / virtual.COUNTER_FILE).read_bytes())
    with pytest.raises(ElementCounter):
        VirtualElement.power_on(folder).op_counter()


def test_a_power_cut_while_the_counter_is_written_keeps_the_old_value(folder: Path) -> None:
    booted(folder, 7).op_advance_counter()
    (folder / "counter.new").write_bytes(b"half")
    assert VirtualElement.power_on(folder).op_counter() == 7
    assert booted(folder, 8).op_advance_counter() == 8


# --- provisioning ----------------------------------------------------------------------------------


def test_an_element_is_never_made_twice(folder: Path) -> None:
    before = all_keys(VirtualElement.power_on(folder))
    with pytest.raises(FileExistsError):
        virtual.provision(folder, IMPLEMENTATION)
    assert all_keys(VirtualElement.power_on(folder)) == before


def test_its_files_are_its_owner_s_alone(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_secret_that_others_can_read_is_not_used(folder: Path, mode: int) -> None:
    (folder / virtual.SECRET_FILE).chmod(mode)
    with pytest.raises(StatePermissions):
        VirtualElement.power_on(folder)


@pytest.mark.parametrize("facts", ["", "{}", json.dumps({"implementation_id": "zz", "lifecycle": 1}), "[1]"])
def test_spoilt_facts_are_no_element(folder: Path, facts: str) -> None:
    (folder / virtual.PROVISION_FILE).write_text(facts)
    with pytest.raises(StateMissing):
        VirtualElement.power_on(folder)


def test_an_empty_folder_is_no_element(tmp_path: Path) -> None:
    with pytest.raises(StateMissing):
        VirtualElement.power_on(tmp_path)
