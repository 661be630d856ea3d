"""Faults while the ROM runs: each defence is seen to work. The campaigns are in the lab."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from unicorn.unicorn_const import UC_HOOK_MEM_READ

from fuseline.device.silicon import fuse_map
from fuseline.device.silicon.commands import Command, KeySlot
from fuseline.device.silicon.engine import Limits, StopKind
from fuseline.device.silicon.fault_probe import FaultProbe
from fuseline.device.silicon.memory_map import (
    FUSE_SHADOW,
    LOADER_RAM,
    MAILBOX,
    ROM_RAM_BASE,
    SRAM_BASE,
)
from fuseline.device.silicon.report import Outcome
from fuseline.device.silicon.rom import requirement_of, rom_image
from fuseline.device.silicon.unicorn_engine import UnicornEngine
from fuseline.errors import KeySlotEmpty, PufLocked
from fuseline.lab.chip_attacks.forge import ImageSpec, P256Signer, forge

if TYPE_CHECKING:
    from tests.device.silicon.rom.conftest import MakeChip, RomChip

KEY_A, STRANGER = P256Signer("key a"), P256Signer("stranger")
LIMITS = Limits(seconds=5, instructions=200_000)
STATIC_OCTETS = 600
"""At least as many as the ROM's static data have."""


def _probe(chip: RomChip, before: Command, fault: Callable[[FaultProbe], None]) -> FaultProbe:
    """Return a probe on the chip that makes a fault once: right before the block first does a command."""
    chip.silicon.reset()
    probes: list[FaultProbe] = []
    faulty: list[Command] = []
    ring = chip.silicon.port.ring

    def on_ring() -> None:
        if not faulty and int.from_bytes(chip.silicon.psram.view(MAILBOX, 4), "little") == before:
            faulty.append(before)
            fault(probes[0])
        ring()

    chip.silicon.port.ring = on_ring  # type: ignore[method-assign]
    probes.append(FaultProbe(chip.silicon, rom_image().binary, chip.engine))
    return probes[0]


def _results_of_flips(make_chip: MakeChip, before: Command) -> Counter[str]:
    """Flip a bit of each of the ROM's static words at one moment; count what comes of it."""
    results: Counter[str] = Counter()
    for at in range(ROM_RAM_BASE - SRAM_BASE, ROM_RAM_BASE - SRAM_BASE + STATIC_OCTETS, 4):

        def flip(probe: FaultProbe, at: int = at) -> None:
            probe.engine.sram[at] ^= 4

        probe = _probe(make_chip(), before, flip)
        stop = probe.resume(LIMITS).stop
        booted = probe.left_rom is not None
        probe.close()
        results["booted" if booted else requirement_of(stop.value).code] += 1
    return results


@pytest.mark.requirement("ROM-LOCK-2")
@pytest.mark.requirement("ROM-FLOW-1")
def test_a_flipped_bit_in_what_the_checks_left_makes_no_exec_word(make_chip: MakeChip) -> None:
    results = _results_of_flips(make_chip, Command.KEY_LOCK)
    # Two verdicts and the flow.
    assert results["E_ROM_EXEC"] == 3, results
    # Entry and stack of both passes, and where the first one found them.
    assert results["E_ROM_FAULT_DETECTED"] == 5, results
    assert results.total() - results["booted"] == 8, results


@pytest.mark.requirement("ROM-FLOW-1")
def test_a_fact_that_changes_between_the_passes_is_found(make_chip: MakeChip) -> None:
    """The image in RAM is another one when the second pass looks."""
    chip = make_chip()
    chip.silicon.reset()
    first = forge(ImageSpec(), KEY_A)
    # As valid as the first one, and with every TLV in the same place.
    second = next(
        image
        for number in range(1, 200)
        for image in (forge(ImageSpec(version=(1, 0, number, 0)), KEY_A),)
        if len(image) == len(first)
    )
    hashed: list[int] = []
    ring = chip.silicon.port.ring

    def on_ring() -> None:
        request = chip.silicon.psram.view(MAILBOX, 16).cast("I")
        if request[0] == Command.SHA256 and request[2] == LOADER_RAM:
            hashed.append(request[3])
            if len(hashed) == 2:
                chip.silicon.psram.view(LOADER_RAM, len(second))[:] = second
        ring()

    chip.silicon.port.ring = on_ring  # type: ignore[method-assign]
    run = chip.engine.run(chip.silicon, rom_image().binary, LIMITS)
    assert run.stop.kind is StopKind.FAIL
    assert requirement_of(run.stop.value).code == "E_ROM_FAULT_DETECTED"


@pytest.mark.requirement("ROM-FLOW-2")
def test_an_exception_ends_the_boot(make_chip: MakeChip) -> None:
    for steps in (50, 500, 3000):
        chip = make_chip()
        chip.silicon.reset()
        probe = FaultProbe(chip.silicon, rom_image().binary)
        for _ in range(steps):
            assert probe.step() is None
        probe.write("sp", 0x0000_0008)
        stop = probe.resume(LIMITS).stop
        probe.close()
        assert stop.kind is StopKind.FAIL, stop
        assert requirement_of(stop.value).code == "E_ROM_EXCEPTION"


@pytest.mark.requirement("ROM-OTP-3")
def test_a_fuse_that_reads_differently_the_second_time_stops_the_chip(make_chip: MakeChip) -> None:
    for word in (fuse_map.LIFE_CYCLE_A, fuse_map.KEY_SLOT + fuse_map.KEY_SLOT_REVOKED_A, fuse_map.COUNTER):
        chip = make_chip(forge(ImageSpec(), KEY_A))
        chip.engine = UnicornEngine()
        address = FUSE_SHADOW + 4 * word
        shadow = chip.silicon.psram.view(address, 4)
        reads: list[int] = []

        def on_read(*_: object, reads: list[int] = reads, shadow: memoryview = shadow) -> None:
            reads.append(1)
            if len(reads) % 2 == 0:
                shadow[0] ^= 1

        chip.engine.cpu.uc.hook_add(UC_HOOK_MEM_READ, on_read, begin=address, end=address + 3)
        report = chip.boot()
        assert reads
        assert report.error is not None
        assert report.error.code == "E_ROM_FUSE_READ"


@pytest.mark.requirement("ROM-DICE-2")
def test_a_certificate_that_was_signed_under_a_fault_is_not_handed_over(
    make_chip: MakeChip, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = make_chip()
    sign = chip.silicon.keys.sign

    def faulty(slot: KeySlot, digest: bytes) -> bytes:
        signature = sign(slot, digest)
        return signature[:40] + bytes([signature[40] ^ 1]) + signature[41:]

    monkeypatch.setattr(chip.silicon.keys, "sign", faulty)
    report = chip.boot()
    assert report.error is not None
    assert report.error.code == "E_ROM_DICE_CERTIFICATE"


@pytest.mark.requirement("ROM-DICE-1")
@pytest.mark.parametrize("operation", ["derive", "pair"])
@pytest.mark.parametrize(
    "destination", [KeySlot.IDEVID_CDI, KeySlot.IDEVID_KEY, KeySlot.LOADER_CDI, KeySlot.LOADER_KEY]
)
def test_a_key_that_was_not_made_ends_the_boot(
    make_chip: MakeChip, monkeypatch: pytest.MonkeyPatch, operation: str, destination: KeySlot
) -> None:
    chip = make_chip()
    made = getattr(chip.silicon.keys, operation)
    failed = []

    def failing(source: KeySlot, target: KeySlot, *arguments: bytes) -> bytes | None:
        if target is destination:
            failed.append(target)
            raise KeySlotEmpty("the key manager failed")
        result: bytes | None = made(source, target, *arguments)
        return result

    monkeypatch.setattr(chip.silicon.keys, operation, failing)
    report = chip.boot()
    if not failed:
        assert report.outcome is Outcome.BOOTED
        return
    assert report.error is not None
    assert report.error.code == "E_ROM_DICE_KEYS"


@pytest.mark.requirement("ROM-PUF-6")
def test_a_puf_that_does_not_clear_ends_the_boot(
    make_chip: MakeChip, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = make_chip()

    def failing(_arguments: tuple[int, ...]) -> tuple[int, int]:
        raise PufLocked("the PUF does not answer")

    monkeypatch.setitem(chip.silicon.port._handlers, Command.PUF_CLEAR, failing)
    report = chip.boot()
    assert report.error is not None
    assert report.error.code == "E_ROM_PUF_CLEAR"


@pytest.mark.requirement("ROM-LOCK-1")
def test_locks_that_do_not_close_keep_the_loader_from_starting(
    make_chip: MakeChip, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lock", "clear"):
        chip = make_chip()

        def failing(_slot: KeySlot) -> None:
            raise KeySlotEmpty("the key manager failed")

        monkeypatch.setattr(chip.silicon.keys, name, failing)
        report = chip.boot()
        assert report.error is not None
        assert report.error.code == "E_ROM_LOCK"
