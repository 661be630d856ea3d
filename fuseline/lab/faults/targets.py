"""What a fault campaign attacks: a finished product with an attacker's image in its flash.

The chip is as bad for the ROM as an attacker can make it: it has just started its genuine loader, so that
RAM, mailbox and retention are full of genuine values; then the flash was rewritten and the reset line pulled.
Keys are made from public labels and signatures are deterministic, so equal seeds give equal campaigns.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.engine import Limits, StopKind
from fuseline.device.silicon.fuse_map import LifeCycle
from fuseline.device.silicon.memory_map import (
    LOADER_PRIMARY,
    LOADER_RAM,
    LOADER_RECOVERY,
    LOADER_SLOT_SIZE,
    MAILBOX,
    MAILBOX_DATA,
    MAILBOX_DATA_SIZE,
    ResetReason,
    Strap,
)
from fuseline.device.silicon.silicon import NonVolatile, Silicon
from fuseline.device.silicon.unicorn_engine import UnicornEngine
from fuseline.lab.chip.bench import ERASED
from fuseline.lab.chip.debug_unlock import CHALLENGE_SIZE, CHIP_ID_SIZE, DebugChallenge
from fuseline.lab.chip_attacks.forge import (
    COUNTER,
    ImageSpec,
    assemble,
    counter_tlv,
    credentials,
    forge,
    stop_payload,
)
from fuseline.lab.chip_attacks.rig import lab_keys, make_victims

if TYPE_CHECKING:
    from fuseline.device.silicon.rom import RomImage

_BOOT_LIMITS: Final = Limits(seconds=20.0, instructions=2_000_000)
_MARK: Final = b"EVIL"
"""At the end of the payload: one word tells the attacker's code from the genuine one."""


class Attack(StrEnum):
    """What stands in the flash when the chip is reset."""

    UNSIGNED = "unsigned"
    """An image with a true digest and without a signature."""
    FORGED = "forged"
    """An image with a true digest, and the genuine loader's key and signature."""
    ALTERED = "altered"
    """The genuine loader with one word changed; digest, key and signature are the genuine ones."""
    WRONG_KEY = "wrong-key"
    """An image signed by a key that stands in no fuse."""
    REVOKED = "revoked"
    """An image signed by a key that has been revoked."""
    ROLLBACK = "rollback"
    """A genuine image one step below the security counter in the fuses, which is the hardest to tell."""
    DEBUG = "debug"
    """The genuine loader, and at the debug port a response signed by somebody else than the authority."""
    LOCKS = "locks"
    """The genuine loader: it may start, but the ROM's secrets must be out of its reach."""


@dataclass(frozen=True, slots=True)
class Target:
    """A chip, what is written to its flash, and how it is started.

    Attributes:
        attack: What it is.
        reset: Why the processor starts.
        image: What stands in both loader slots.
        genuine: The loader that may run.
        seed: Of the chip.
        non_volatile: The chip before its genuine boot.
    """

    attack: Attack
    reset: ResetReason
    image: bytes
    genuine: bytes
    seed: int
    non_volatile: NonVolatile

    def prepare(self, rom: RomImage) -> Silicon:
        """Return the chip right after its reset, the image in place.

        Raises:
            RuntimeError: This ROM does not start the genuine loader.
        """
        silicon = Silicon(self.seed, non_volatile=self.non_volatile)
        write_loaders(silicon, self.genuine)
        silicon.reset(ResetReason.COLD, Strap.NORMAL)
        run = UnicornEngine().run(silicon, rom.binary, _BOOT_LIMITS)
        if run.handover is None or run.stop.kind is not StopKind.EXIT:
            raise RuntimeError(f"without a fault, the ROM does not start the genuine loader: {run.stop}")
        write_loaders(silicon, self.image)
        if self.attack is Attack.DEBUG:
            _ask_for_debug(silicon, rom)
        else:
            silicon.reset(self.reset, Strap.NORMAL)
        return silicon

    def runs_genuine(self, silicon: Silicon) -> bool:
        """Return whether what stands in main RAM is the genuine loader, as far as its digest covers it."""
        covered = genuine_spec().hashed()
        return bytes(silicon.psram.view(LOADER_RAM, len(covered))) == covered


def _ask_for_debug(silicon: Silicon, rom: RomImage) -> None:
    """Have the ROM give its challenge; answer with the authority's key and another key's signature."""
    silicon.reset(ResetReason.WARM, Strap.DEBUG)
    UnicornEngine().run(silicon, rom.binary, _BOOT_LIMITS)
    mailbox = silicon.psram.view(MAILBOX + MAILBOX_DATA, MAILBOX_DATA_SIZE)
    asked = DebugChallenge(
        bytes(mailbox[:CHALLENGE_SIZE]),
        bytes(mailbox[CHALLENGE_SIZE : CHALLENGE_SIZE + CHIP_ID_SIZE]),
        int(LifeCycle.PROD),
    )
    r, s = lab_keys().stranger.numbers(asked.digest())
    spki = lab_keys().debug.spki
    response = len(spki).to_bytes(4, "little") + spki + r.to_bytes(32, "big") + s.to_bytes(32, "big")
    silicon.reset(ResetReason.WARM, Strap.DEBUG)
    mailbox[: len(response)] = response


def write_loaders(silicon: Silicon, image: bytes) -> None:
    """Write both loader slots as a flash programmer does."""
    for offset in (LOADER_PRIMARY, LOADER_RECOVERY):
        silicon.flash.external_write(offset, image.ljust(LOADER_SLOT_SIZE, ERASED))


def genuine_spec() -> ImageSpec:
    """Return what the genuine loader is, without its signature."""
    return ImageSpec(payload=stop_payload() + bytes(len(_MARK)))


def attack_image(attack: Attack) -> bytes:
    """Return the image that stands in the flash."""
    keys, genuine = lab_keys(), genuine_spec()
    evil = replace(genuine, payload=stop_payload() + _MARK)
    older = replace(evil, protected=(counter_tlv(COUNTER - 1),))
    own, genuines = credentials(evil, keys.loader), credentials(genuine, keys.loader)
    images = {
        Attack.UNSIGNED: assemble(evil, own[:2]),
        Attack.FORGED: assemble(evil, [own[0], *genuines[1:]]),
        Attack.ALTERED: assemble(evil, genuines),
        Attack.WRONG_KEY: forge(evil, keys.stranger),
        Attack.REVOKED: forge(evil, keys.revoked),
        Attack.ROLLBACK: forge(older, keys.loader),
        Attack.DEBUG: assemble(genuine, genuines),
        Attack.LOCKS: assemble(genuine, genuines),
    }
    return images[attack]


@functools.cache
def _victim() -> tuple[int, NonVolatile]:
    product = make_victims(UnicornEngine()).product
    return product.seed, product.non_volatile


def make_target(attack: Attack, reset: ResetReason = ResetReason.WARM) -> Target:
    """Return a target.

    Args:
        attack: What stands in the flash.
        reset: Why the processor starts. After `COLD`, RAM still holds what was in it; after `WARM`, mailbox
            and retention too; after `UPDATE`, also the identity. Debug is always answered after `WARM`.
    """
    seed, non_volatile = _victim()
    return Target(
        attack=attack,
        reset=reset,
        image=attack_image(attack),
        genuine=forge(genuine_spec(), lab_keys().loader),
        seed=seed,
        non_volatile=non_volatile,
    )
