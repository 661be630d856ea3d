"""Fixtures: chips in every state that the ROM tells apart, quickly made, and one engine to boot them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from fuseline.device.silicon import fuse_plans
from fuseline.device.silicon.chip import Chip
from fuseline.device.silicon.engine import Limits
from fuseline.device.silicon.fuse_map import FUSE_WORDS, Counter, KeyType, LifeCycle
from fuseline.device.silicon.fuses import FuseContent, Origin
from fuseline.device.silicon.handover import BootRecord, parse_boot_record
from fuseline.device.silicon.memory_map import (
    HANDOVER,
    HANDOVER_SIZE,
    LOADER_PRIMARY,
    LOADER_RECOVERY,
    ResetReason,
    Strap,
)
from fuseline.device.silicon.report import BootReport
from fuseline.device.silicon.rom import rom_image
from fuseline.device.silicon.silicon import Silicon, SiliconSnapshot
from fuseline.device.silicon.unicorn_engine import UnicornEngine
from fuseline.lab.chip_attacks.forge import COUNTER, ImageSpec, P256Signer, Signer, forge

LIMITS = Limits(seconds=20)
KEY_A, KEY_B, KEY_DEV = (P256Signer(name) for name in ("key a", "key b", "dev key"))
AUTHORITY = P256Signer("debug authority")
PRODUCT, HARDWARE = 0x1234, 2


def chip_id_of(seed: int) -> bytes:
    return hashlib.sha256(b"chip id %d" % seed).digest()


def spki_hash(signer: Signer) -> bytes:
    return hashlib.sha256(signer.spki).digest()


@dataclass
class RomChip:
    """One chip and the engine that boots it."""

    silicon: Silicon
    engine: UnicornEngine

    def boot(
        self,
        *,
        strap: Strap = Strap.NORMAL,
        reason: ResetReason = ResetReason.COLD,
        mailbox: bytes = b"",
    ) -> BootReport:
        return Chip(self.silicon).boot(
            self.engine, rom=rom_image(), strap=strap, reason=reason, limits=LIMITS, mailbox=mailbox
        )

    def run_as_it_is(self) -> BootReport:
        """Run without a reset: what stands in the system page is what the test wrote there."""
        chip = Chip(self.silicon)
        run = self.engine.run(self.silicon, rom_image().binary, LIMITS)
        return chip._report(self.engine, [run])

    def mailbox(self, size: int) -> bytes:
        return bytes(Chip(self.silicon).mailbox_data[:size])

    def record(self) -> BootRecord:
        return parse_boot_record(self.silicon.psram.view(HANDOVER, HANDOVER_SIZE))

    def blow(self, plan: fuse_plans.FusePlan) -> None:
        self.silicon.fuses.blow_all(plan, Origin.MACHINE_CODE)

    def set_fuses(self, words: Mapping[int, int]) -> None:
        """Change fuses as no chip can: stands for damage, and for a sense amplifier under attack."""
        content = self.silicon.fuses.content()
        raw = bytearray(content.words)
        for word, value in words.items():
            raw[4 * word : 4 * word + 4] = value.to_bytes(4, "little")
        self.silicon.fuses.restore(FuseContent(bytes(raw), content.half_blown))

    def fuse(self, word: int) -> int:
        assert word < FUSE_WORDS
        return self.silicon.fuses.words()[word]

    def write_flash(self, offset: int, content: bytes) -> None:
        self.silicon.flash.external_write(offset, content)

    def copy(self) -> RomChip:
        twin = Silicon(self.silicon.seed)
        twin.restore(self.silicon.snapshot())
        return RomChip(twin, self.engine)


MakeChip = Callable[..., RomChip]


@pytest.fixture(scope="session")
def rom_engine() -> UnicornEngine:
    return UnicornEngine()


def _enrolled(engine: UnicornEngine, seed: int) -> SiliconSnapshot:
    silicon = Silicon(seed)
    silicon.fuses.blow_all(fuse_plans.plan_chip_id(chip_id_of(seed)))
    silicon.fuses.blow_all(fuse_plans.plan_life_cycle(LifeCycle.TEST))
    report = RomChip(silicon, engine).boot(strap=Strap.PROVISION)
    assert report.exit_status == 0, report
    return silicon.snapshot()


@pytest.fixture(scope="session")
def enrolled(rom_engine: UnicornEngine) -> Callable[[int], SiliconSnapshot]:
    """A chip in TEST whose PUF is enrolled, by seed; made once a session."""
    made: dict[int, SiliconSnapshot] = {}

    def get(seed: int) -> SiliconSnapshot:
        if seed not in made:
            made[seed] = _enrolled(rom_engine, seed)
        return made[seed]

    return get


@pytest.fixture
def make_chip(rom_engine: UnicornEngine, enrolled: Callable[[int], SiliconSnapshot]) -> MakeChip:
    """Makes a chip: enrolled, with three keys, and in PROD unless told otherwise."""

    def make(
        image: bytes | None = None,
        *,
        recovery: bytes | None = None,
        life_cycle: LifeCycle = LifeCycle.PROD,
        signers: tuple[tuple[Signer, KeyType], ...] = (
            (KEY_A, KeyType.PROD),
            (KEY_B, KeyType.PROD),
            (KEY_DEV, KeyType.DEV),
        ),
        counter: int = COUNTER,
        authority: Signer | None = AUTHORITY,
        seed: int = 1,
    ) -> RomChip:
        silicon = Silicon(seed)
        silicon.restore(enrolled(seed))
        chip = RomChip(silicon, rom_engine)
        chip.blow(fuse_plans.plan_product(PRODUCT, HARDWARE))
        for slot, (signer, kind) in enumerate(signers):
            chip.blow(fuse_plans.plan_key(slot, spki_hash(signer), kind))
        chip.blow(fuse_plans.plan_counter(Counter.LOADER, counter))
        if authority is not None:
            chip.blow(fuse_plans.plan_debug_authority(spki_hash(authority)))
        for state in (LifeCycle.DEV, LifeCycle.PROD):
            if life_cycle >= state:
                chip.blow(fuse_plans.plan_life_cycle(state))
        chip.write_flash(LOADER_PRIMARY, forge(ImageSpec(), KEY_A) if image is None else image)
        if recovery is not None:
            chip.write_flash(LOADER_RECOVERY, recovery)
        return chip

    return make


@pytest.fixture
def blank_chip(rom_engine: UnicornEngine) -> RomChip:
    """From the wafer: no fuse blown."""
    return RomChip(Silicon(9), rom_engine)
