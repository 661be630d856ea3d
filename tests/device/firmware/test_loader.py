"""The loader with real images: trial, revert, rollback, and power cuts at every operation."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fuseline.device.firmware.loader import BootDecision, RefusedSlot, SlotContent, boot, select_slot
from fuseline.device.firmware.slots import FileMedium, Mark, Medium, SlotStore
from fuseline.errors import BootNoImage
from fuseline.formats.mcuboot import HardwareId, TrustedKey, Version, parse_image
from fuseline.formats.mcuboot_trailer import magic_write

SLOT_SIZE = 2048
HARDWARE = HardwareId.of("acme.example", "lock-v1")
POLICIES = ("kept", "lost", "torn", "reordered")


class PowerCutError(Exception):
    """The lights went out."""


class CuttingMedium:
    """Cuts the power at one operation, and decides what became of the writes since the last sync.

    `kept`: all arrived. `lost`: none did. `torn`: all, and half of the write in progress. `reordered`: only
    the latest, as a disk may choose.
    """

    def __init__(self, cut_at: int, policy: str) -> None:
        self.countdown = cut_at
        self.policy = policy
        self.unsynced: list[tuple[int, bytes, bytes]] = []

    def write(self, fd: int, data: bytes, offset: int) -> None:
        self._tick(fd, data[: len(data) // 2] if self.policy == "torn" else b"", offset)
        self.unsynced.append((offset, os.pread(fd, len(data), offset), data))
        os.pwrite(fd, data, offset)

    def sync(self, fd: int) -> None:
        self._tick(fd, b"", 0)
        self.unsynced.clear()

    def _tick(self, fd: int, partial: bytes, offset: int) -> None:
        self.countdown -= 1
        if self.countdown >= 0:
            return
        os.pwrite(fd, partial, offset)
        if self.policy in {"lost", "reordered"}:
            for at, before, _ in reversed(self.unsynced):
                os.pwrite(fd, before, at)
        if self.policy == "reordered" and self.unsynced:
            at, _, latest = self.unsynced[-1]
            os.pwrite(fd, latest, at)
        raise PowerCutError


@dataclass(frozen=True)
class Factory:
    """Signs releases and boots devices that trust them."""

    key: TrustedKey
    sign: Callable[[str, int], bytes]

    def boot(self, folder: Path, *, floor: int = 1, medium: Medium | None = None) -> BootDecision:
        store = SlotStore(folder, SLOT_SIZE, medium) if medium else SlotStore(folder, SLOT_SIZE)
        return boot(store, keys=[self.key], hardware=HARDWARE, counter_floor=floor)


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    folder = tmp_path_factory.mktemp("factory")
    key = ec.generate_private_key(ec.SECP256R1())
    pem, source, target = folder / "key.pem", folder / "payload.bin", folder / "image.bin"
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    made: dict[tuple[str, int], bytes] = {}

    def sign(version: str, counter: int = 1) -> bytes:
        if (version, counter) not in made:
            source.write_bytes(version.encode() * 100)
            facts = ["-v", version, "-s", str(counter), "--vid", "acme.example", "--cid", "lock-v1"]
            geometry = ["-H", "32", "--pad-header", "-S", str(SLOT_SIZE)]
            tool = [str(Path(sys.executable).parent / "imgtool"), "sign", "-k", str(pem)]
            command = [*tool, *facts, *geometry, str(source), str(target)]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            made[version, counter] = target.read_bytes()
        return made[version, counter]

    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Factory(TrustedKey(spki), sign)


def install(store: SlotStore, index: int, image: bytes, mark: Mark = "test") -> None:
    with store.begin_write(index) as writer:
        for start in range(0, len(image), 256):
            writer.write(image[start : start + 256])
        writer.finish(mark)


@pytest.fixture
def store(factory: Factory, tmp_path: Path) -> SlotStore:
    """A device as it leaves the factory: 1.0.0 in slot 0, slot 1 empty."""
    store = SlotStore.create(tmp_path, SLOT_SIZE)
    install(store, 0, factory.sign("1.0.0", 1), "permanent")
    return store


def is_erased(store: SlotStore, index: int) -> bool:
    return store.read(index) == b"\xff" * SLOT_SIZE


# --- trial, confirmation, revert --------------------------------------------------------------


def test_the_factory_image_boots_confirmed_and_nothing_is_written(
    factory: Factory, store: SlotStore, tmp_path: Path
) -> None:
    before = store.read(0)
    decision = factory.boot(tmp_path, medium=CuttingMedium(0, "kept"))
    assert (decision.slot, str(decision.image.version), decision.confirmed) == (0, "1.0.0", True)
    assert (decision.refused, decision.reverted) == ((), None)
    assert store.read(0) == before


def test_an_update_is_tried_once_confirmed_and_stays(
    factory: Factory, store: SlotStore, tmp_path: Path
) -> None:
    install(store, 1, factory.sign("2.0.0", 2))
    trial = factory.boot(tmp_path)
    assert (trial.slot, str(trial.image.version), trial.confirmed) == (1, "2.0.0", False)
    assert store.trailer(1).copy_done
    store.confirm(1)
    for _ in range(2):
        decision = factory.boot(tmp_path)
        assert (decision.slot, decision.confirmed, decision.reverted) == (1, True, None)


def test_an_update_that_never_confirms_itself_is_erased_and_the_old_image_runs(
    factory: Factory, store: SlotStore, tmp_path: Path
) -> None:
    install(store, 1, factory.sign("2.0.0", 2))
    factory.boot(tmp_path)
    decision = factory.boot(tmp_path)
    assert (decision.slot, decision.confirmed) == (0, True)
    assert decision.reverted is not None
    assert (decision.reverted.slot, decision.reverted.version) == (1, Version(2))
    assert is_erased(store, 1)
    assert factory.boot(tmp_path).reverted is None


def test_without_the_mark_before_the_first_boot_a_broken_update_would_run_for_ever(
    factory: Factory, store: SlotStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(store, 1, factory.sign("2.0.0", 2))
    monkeypatch.setattr(SlotStore, "mark_booted", lambda _store, _index: None)
    assert [factory.boot(tmp_path).slot for _ in range(3)] == [1, 1, 1]


def test_with_equal_versions_slot_zero_runs(factory: Factory, store: SlotStore, tmp_path: Path) -> None:
    install(store, 1, factory.sign("1.0.0", 1), "permanent")
    assert factory.boot(tmp_path).slot == 0
    assert not is_erased(store, 1)


def test_a_lower_version_waits_untouched_while_the_higher_one_runs(
    factory: Factory, store: SlotStore, tmp_path: Path
) -> None:
    install(store, 1, factory.sign("0.9.0", 1))
    assert factory.boot(tmp_path).slot == 0
    assert not store.trailer(1).copy_done


def test_the_decision_is_pure_and_repeats(factory: Factory, store: SlotStore) -> None:
    install(store, 1, factory.sign("2.0.0", 2))
    contents = [SlotContent(index, store.read(index)) for index in range(2)]
    plans = [select_slot(contents, keys=[factory.key], hardware=HARDWARE, counter_floor=1) for _ in range(2)]
    assert plans[0] == plans[1]
    assert plans[0].mark_booted
    assert [content.raw for content in contents] == [store.read(0), store.read(1)]


# --- refusals ---------------------------------------------------------------------------------


def test_rollback_to_a_lower_counter_is_refused_even_with_a_higher_version(
    factory: Factory, store: SlotStore, tmp_path: Path
) -> None:
    install(store, 0, factory.sign("3.0.0", 5), "permanent")
    install(store, 1, factory.sign("9.0.0", 4), "permanent")
    assert factory.boot(tmp_path, floor=4).slot == 1
    decision = factory.boot(tmp_path, floor=5)
    assert (decision.slot, decision.image.security_counter) == (0, 5)
    assert [(entry.slot, entry.code) for entry in decision.refused] == [(1, "E_IMAGE_ROLLBACK")]
    assert not is_erased(store, 1)


def test_rollback_to_the_old_slot_is_refused_once_the_counter_was_raised(
    factory: Factory, store: SlotStore, tmp_path: Path
) -> None:
    install(store, 1, factory.sign("2.0.0", 2))
    factory.boot(tmp_path)
    with pytest.raises(BootNoImage) as caught:
        factory.boot(tmp_path, floor=2)
    reasons = {entry["slot"]: entry["reason"] for entry in caught.value.evidence["slots"]}
    assert reasons[0].startswith("E_IMAGE_ROLLBACK")
    assert reasons[1].startswith("2.0.0 reverted")
    assert not is_erased(store, 1), "the last image is kept for recovery"


def test_a_tampered_update_is_refused_and_the_old_image_runs(
    factory: Factory, store: SlotStore, tmp_path: Path
) -> None:
    image = bytearray(factory.sign("2.0.0", 2))
    image[100] ^= 1
    install(store, 1, bytes(image))
    decision = factory.boot(tmp_path)
    assert decision.slot == 0
    assert isinstance(decision.refused[0], RefusedSlot)
    assert (decision.refused[0].slot, decision.refused[0].code) == (1, "E_IMAGE_DIGEST")
    assert not store.trailer(1).copy_done


def test_a_forged_trailer_confirms_nothing_that_does_not_verify(
    factory: Factory, store: SlotStore, tmp_path: Path
) -> None:
    install(store, 1, b"\x3d\xb8\xf3\x96" + b"evil" * 100, "permanent")
    decision = factory.boot(tmp_path)
    assert (decision.slot, decision.refused[0].code) == (0, "E_IMAGE_MALFORMED")


def test_a_spoilt_flag_byte_does_not_cost_a_good_image(
    factory: Factory, store: SlotStore, tmp_path: Path
) -> None:
    fd = os.open(tmp_path / "slot0.bin", os.O_WRONLY)
    os.pwrite(fd, b"\x55", magic_write(SLOT_SIZE).offset - 1)
    os.close(fd)
    assert factory.boot(tmp_path).slot == 0


def test_two_empty_slots_boot_nothing_and_say_so(factory: Factory, store: SlotStore, tmp_path: Path) -> None:
    store.erase(0)
    with pytest.raises(BootNoImage) as caught:
        factory.boot(tmp_path)
    assert caught.value.evidence["slots"] == [
        {"slot": 0, "reason": "no complete image"},
        {"slot": 1, "reason": "no complete image"},
    ]
    assert is_erased(store, 0)


# --- power cuts -------------------------------------------------------------------------------


def update(factory: Factory, folder: Path, slot: int, image: bytes, medium: Medium) -> None:
    """Install, reboot into the trial, confirm, and reboot: the whole life of an update."""
    store = SlotStore(folder, SLOT_SIZE, medium)
    install(store, slot, image)
    assert factory.boot(folder, medium=medium).slot == slot
    store.confirm(slot)
    assert factory.boot(folder, medium=medium).confirmed


def restore(folder: Path, contents: list[bytes]) -> None:
    for index, raw in enumerate(contents):
        (folder / f"slot{index}.bin").write_bytes(raw)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("target", [0, 1])
def test_a_power_cut_anywhere_in_an_update_leaves_a_whole_image_that_boots(
    factory: Factory, store: SlotStore, tmp_path: Path, policy: str, target: int
) -> None:
    old, new = factory.sign("2.0.0", 2), factory.sign("3.0.0", 2)
    install(store, 1 - target, old, "permanent")
    install(store, target, factory.sign("1.0.0", 1), "permanent")
    start = [store.read(0), store.read(1)]
    cut, survivors = 0, set[str]()
    while True:
        restore(tmp_path, start)
        try:
            update(factory, tmp_path, target, new, CuttingMedium(cut, policy))
        except PowerCutError:
            cut += 1
        else:
            break
        first, second = factory.boot(tmp_path), factory.boot(tmp_path)
        for decision in (first, second):
            expected = old if decision.slot == 1 - target else new
            assert decision.image.digest == parse_image(expected).digest
            assert not decision.refused
        if not first.confirmed:
            assert second.slot == 1 - target, "an unconfirmed image runs once"
            assert is_erased(store, target)
        assert store.read(1 - target) == start[1 - target]
        survivors.add(f"{first.image.version} {first.confirmed}")
        if second.slot != target:
            update(factory, tmp_path, target, new, FileMedium())
        assert factory.boot(tmp_path).image.version == Version(3)
    assert cut > 10
    assert {"2.0.0 True", "3.0.0 False"} <= survivors


@pytest.mark.parametrize("policy", POLICIES)
def test_a_power_cut_anywhere_in_a_revert_still_ends_with_the_old_image(
    factory: Factory, store: SlotStore, tmp_path: Path, policy: str
) -> None:
    install(store, 1, factory.sign("2.0.0", 2))
    factory.boot(tmp_path)
    start = [store.read(0), store.read(1)]
    cut = 0
    while True:
        restore(tmp_path, start)
        try:
            factory.boot(tmp_path, medium=CuttingMedium(cut, policy))
        except PowerCutError:
            cut += 1
        else:
            break
        assert (factory.boot(tmp_path).slot, factory.boot(tmp_path).slot) == (0, 0)
        assert not store.trailer(1).magic_good
    assert cut == 4


@pytest.mark.parametrize("policy", POLICIES)
def test_a_power_cut_in_the_factory_never_leaves_an_image_on_trial(
    factory: Factory, store: SlotStore, tmp_path: Path, policy: str
) -> None:
    store.erase(0)
    cut = 0
    while True:
        try:
            install(
                SlotStore(tmp_path, SLOT_SIZE, CuttingMedium(cut, policy)),
                0,
                factory.sign("1.0.0", 1),
                "permanent",
            )
        except PowerCutError:
            cut += 1
        else:
            break
        trailer = store.trailer(0)
        assert not trailer.magic_good or (trailer.copy_done and trailer.image_ok)
    assert cut > 5
    assert factory.boot(tmp_path).confirmed
