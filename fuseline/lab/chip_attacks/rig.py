"""The bench of an attacker: chips to attack, and everything an attacker can do to start them.

The victims are provisioned by the factory's own flow. Their keys are made from public labels, so that every
run attacks the same chips.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon import fuse_map, fuse_plans
from fuseline.device.silicon.chip import Chip, MachineCode
from fuseline.device.silicon.command_port import CommandPort
from fuseline.device.silicon.engine import Limits
from fuseline.device.silicon.fuse_map import FUSE_WORDS, KeyType, LifeCycle
from fuseline.device.silicon.fuses import FuseContent
from fuseline.device.silicon.key_manager import KeyContent
from fuseline.device.silicon.machine_state import MachineState
from fuseline.device.silicon.memory_map import (
    LOADER_PRIMARY,
    LOADER_RECOVERY,
    LOADER_SLOT_SIZE,
    ResetReason,
    Strap,
)
from fuseline.device.silicon.rom import rom_image
from fuseline.device.silicon.silicon import Silicon, SiliconSnapshot
from fuseline.formats import x509profile
from fuseline.lab.chip.bench import ERASED, Bench
from fuseline.lab.chip.manifest import ChipManifest, LoaderKey
from fuseline.lab.chip.provisioning import Provisioning, Step, wafer_test
from fuseline.lab.chip_attacks.forge import COUNTER, Ed25519Signer, ImageSpec, P256Signer, forge

if TYPE_CHECKING:
    from fuseline.device.silicon.report import BootReport
    from fuseline.device.silicon.run import Engine, Run
    from fuseline.device.silicon.unicorn_engine import UnicornEngine

PRODUCT_ID: Final = 0x5649_4354  # "VICT"
HARDWARE_REVISION: Final = 3
LIMITS: Final = Limits(seconds=20.0, instructions=4_000_000)
"""A boot takes some 50,000 instructions; one that takes a hundred times that hangs."""
_SEED, _OTHER_SEED = 0xA77AC, 0xA77AD
_WORD_MASK: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys around the victims.

    Attributes:
        loader: Slot 0, type PROD: signs what runs.
        ed25519: Slot 1, type PROD: the spare.
        dev: Slot 2, type DEV: refused from PROD on.
        revoked: Slot 3, type PROD, revoked.
        stranger: In no slot.
        debug: The debug authority.
    """

    loader: P256Signer
    ed25519: Ed25519Signer
    dev: P256Signer
    revoked: P256Signer
    stranger: P256Signer
    debug: P256Signer


@functools.cache
def lab_keys() -> Keys:
    """Return the keys; equal in every process."""
    return Keys(
        loader=P256Signer("loader"),
        ed25519=Ed25519Signer("spare"),
        dev=P256Signer("dev"),
        revoked=P256Signer("revoked"),
        stranger=P256Signer("stranger"),
        debug=P256Signer("debug authority"),
    )


@dataclass(frozen=True, slots=True)
class Victims:
    """Chips at moments of their lives, all made of the same manifest. Loader slots are erased.

    Attributes:
        fresh: From wafer test, nothing provisioned.
        test: In TEST, everything blown but the life cycle.
        dev: The same in DEV.
        product: The same in PROD, with its identity: the victim.
        other: Another product.
    """

    fresh: SiliconSnapshot
    test: SiliconSnapshot
    dev: SiliconSnapshot
    product: SiliconSnapshot
    other: SiliconSnapshot


@functools.cache
def lab_manifest() -> ChipManifest:
    """Return what goes into the victims; its CA is good for a day."""
    keys, now = lab_keys(), dt.datetime.now(dt.UTC)
    ca = P256Signer("factory CA").key
    certificate = x509profile.issue_ca(
        "Fuseline attack lab factory CA",
        ca.public_key(),
        issuer=None,
        issuer_key=ca,
        not_before=now - dt.timedelta(hours=1),
        not_after=now + dt.timedelta(days=1),
        permitted_dns="victims.fuseline.test",
        path_length=2,
    )
    return ChipManifest(
        development=True,
        product_id=PRODUCT_ID,
        hardware_revision=HARDWARE_REVISION,
        domain="victims.fuseline.test",
        keys=(
            LoaderKey(0, KeyType.PROD, keys.loader.spki),
            LoaderKey(1, KeyType.PROD, keys.ed25519.spki),
            LoaderKey(2, KeyType.DEV, keys.dev.spki),
            LoaderKey(3, KeyType.PROD, keys.revoked.spki),
        ),
        debug_authority=keys.debug.spki,
        loader=forge(ImageSpec(), keys.loader),
        loader_counter=COUNTER,
        ca=certificate,
        ca_key=ca,
    )


def make_victims(engine: Engine) -> Victims:
    """Provision the victims, with the package's own ROM."""
    manifest = lab_manifest()
    fresh, seen = _provision(Silicon(_SEED), engine, manifest)
    _, others = _provision(Silicon(_OTHER_SEED), engine, manifest)
    return Victims(
        fresh,
        seen["flash: recovery loader"],
        seen["life cycle DEV"],
        seen["first boot"],
        others["first boot"],
    )


def _provision(
    silicon: Silicon, engine: Engine, manifest: ChipManifest
) -> tuple[SiliconSnapshot, dict[str, SiliconSnapshot]]:
    wafer_test(silicon)
    # A key that is out of use before the chip leaves the factory; nothing else can sign for it yet.
    silicon.fuses.blow_all(fuse_plans.plan_revocation(3))
    fresh = _in_the_drawer(silicon.snapshot())
    seen: dict[str, SiliconSnapshot] = {}

    def note(step: Step) -> None:
        seen[step.name] = _in_the_drawer(silicon.snapshot())

    Provisioning(Bench(silicon, engine), manifest, now=dt.datetime.now(dt.UTC), progress=note).run()
    return fresh, seen


def _in_the_drawer(snapshot: SiliconSnapshot) -> SiliconSnapshot:
    """Return the chip without supply, and with both loader slots erased."""
    flash = snapshot.non_volatile.flash
    slots = (LOADER_RECOVERY + LOADER_SLOT_SIZE) // len(flash.blocks[0])
    erased = (ERASED * len(flash.blocks[0]),) * slots
    flash = replace(flash, blocks=erased + flash.blocks[slots:])
    return replace(
        snapshot,
        non_volatile=replace(snapshot.non_volatile, flash=flash),
        keys=KeyContent({}),
        state=MachineState(),
        control=bytes(len(snapshot.control)),
        rows=bytes(len(snapshot.rows)),
        random=None,
        power=(0, None),
    )


class Rig:
    """One socket on the bench, and a drawer of victims.

    Args:
        engine: Runs the machine code.
        rom: The boot ROM of all chips; the package's own by default.
        victims: Made before; provisioned on `engine` by default.

    Attributes:
        engine: The engine.
        rom: The boot ROM.
        victims: The drawer.
        silicon: The chip in the socket.
    """

    def __init__(
        self, engine: UnicornEngine, *, rom: MachineCode | None = None, victims: Victims | None = None
    ) -> None:
        self.engine = engine
        self.rom: MachineCode = rom or rom_image()
        self.victims = victims or make_victims(engine)
        self.silicon = Silicon(_SEED)
        self.chip = Chip(self.silicon)

    @property
    def keys(self) -> Keys:
        """The keys around the victims. An attacker has none of them; a confused signer has."""
        return lab_keys()

    def insert(self, snapshot: SiliconSnapshot | None = None) -> Silicon:
        """Put a chip as it was at some moment into the socket; the product by default."""
        self.silicon.restore(snapshot or self.victims.product)
        return self.silicon

    def boot(
        self,
        primary: bytes = b"",
        recovery: bytes = b"",
        *,
        strap: Strap = Strap.NORMAL,
        reason: ResetReason = ResetReason.COLD,
        mailbox: bytes = b"",
        engine: Engine | None = None,
    ) -> BootReport:
        """Write images into the loader slots of the chip in the socket, and boot it.

        Args:
            primary: What to write at the start of the first slot; nothing if empty.
            recovery: The same for the second one.
            strap: What the pins ask.
            reason: Of the reset.
            mailbox: What a tester leaves for the ROM.
            engine: Instead of the rig's.
        """
        flash = self.silicon.flash
        flash.external_write(LOADER_PRIMARY, primary)
        flash.external_write(LOADER_RECOVERY, recovery)
        return self.chip.boot(
            engine or self.engine, rom=self.rom, strap=strap, reason=reason, limits=LIMITS, mailbox=mailbox
        )

    def start(
        self, primary: bytes, recovery: bytes = b"", *, snapshot: SiliconSnapshot | None = None
    ) -> BootReport:
        """Boot a victim, the product by default, with these images."""
        self.insert(snapshot)
        return self.boot(primary, recovery)

    def run_rom(self, strap: Strap = Strap.NORMAL) -> Run:
        """Run the chip in the socket from its present reset; for attacks between reset and ROM."""
        self.silicon.reset(ResetReason.COLD, strap)
        return self.engine.run(self.silicon, self.rom.binary, LIMITS)


def fuse_words(snapshot: SiliconSnapshot) -> list[int]:
    """Return the blown fuses as words."""
    return list(struct.unpack(f"<{FUSE_WORDS}I", snapshot.non_volatile.fuses.words))


def with_fuses(
    snapshot: SiliconSnapshot, words: list[int], half_blown: tuple[tuple[int, float], ...] = ()
) -> SiliconSnapshot:
    """Return a chip with other fuses: what a blower past the controller makes, or another factory."""
    content = FuseContent(struct.pack(f"<{FUSE_WORDS}I", *words), half_blown)
    return replace(snapshot, sensed=content.words, non_volatile=replace(snapshot.non_volatile, fuses=content))


def with_bits(snapshot: SiliconSnapshot, *more: tuple[int, int]) -> SiliconSnapshot:
    """Return a chip with more fuses blown: words and masks."""
    words = fuse_words(snapshot)
    for word, mask in more:
        words[word] |= mask & _WORD_MASK
    return with_fuses(snapshot, words)


def with_key(snapshot: SiliconSnapshot, slot: int, spki: bytes, kind: KeyType) -> SiliconSnapshot:
    """Return a chip whose factory put another key into a slot."""
    words = fuse_words(snapshot)
    base = fuse_map.KEY_SLOT + slot * fuse_map.KEY_SLOT_STRIDE
    words[base : base + fuse_map.KEY_SLOT_STRIDE] = [0] * fuse_map.KEY_SLOT_STRIDE
    for word, mask in fuse_plans.plan_key(slot, hashlib.sha256(spki).digest(), kind):
        words[word] = mask
    return with_fuses(snapshot, words)


def with_life_cycle(snapshot: SiliconSnapshot, state: LifeCycle) -> SiliconSnapshot:
    """Return a chip that went on to a later state."""
    steps = [step for number in range(1, state + 1) for step in fuse_plans.plan_life_cycle(LifeCycle(number))]
    return with_bits(snapshot, *steps)


class BeforeFirstInstruction:
    """An engine that lets an attacker at the chip between its reset and its first instruction.

    Args:
        engine: Runs the machine code.
        meddle: Done to the chip.
    """

    name = "unicorn"

    def __init__(self, engine: UnicornEngine, meddle: Callable[[Silicon], None]) -> None:
        self._engine = engine
        self._meddle = meddle

    def run(self, silicon: Silicon, rom: bytes, limits: Limits) -> Run:
        """As the engine within."""
        self._meddle(silicon)
        return self._engine.run(silicon, rom, limits)


class AtInstruction:
    """An engine that stops after some instructions, lets an attacker at the chip, and goes on.

    Args:
        engine: Runs the machine code.
        instructions: After how many.
        meddle: Done to the chip.
    """

    name = "unicorn"

    def __init__(self, engine: UnicornEngine, instructions: int, meddle: Callable[[Silicon], None]) -> None:
        self._engine = engine
        self._instructions = instructions
        self._meddle = meddle

    def run(self, silicon: Silicon, rom: bytes, limits: Limits) -> Run:
        """As the engine within, with a break."""
        self._engine.start(silicon, rom)
        run = self._engine.resume(Limits(instructions=self._instructions))
        if run.stop.instructions < self._instructions or silicon.stop is not None:
            return run
        self._meddle(silicon)
        return self._engine.resume(limits)


class AtCommand(CommandPort):
    """A command port with an attacker beside it, who acts before the n-th command is done.

    Args:
        silicon: The chip; this becomes its port.
        number: Of the command, from 1.
        meddle: Done to the chip.

    Attributes:
        rung: Commands so far.
    """

    def __init__(self, silicon: Silicon, number: int, meddle: Callable[[Silicon], None]) -> None:
        super().__init__(silicon)
        self.rung = 0
        self._chip = silicon
        self._number = number
        self._meddle = meddle

    def ring(self) -> None:
        """Count, meddle, and do the command."""
        self.rung += 1
        if self.rung == self._number:
            self._meddle(self._chip)
        super().ring()
