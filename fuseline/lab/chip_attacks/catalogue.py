"""The catalogue of attacks on the chip: each is carried out against the ROM's machine code, on whole chips.

Each attack says what the attacker holds and what is tried. It is refused only if every single attempt was; an
attempt that goes through counts as equal if what then runs is exactly what was signed. Most attacks carry
their own control: an honest attempt that must succeed, or the attack counts as escaped.

Faults in the middle of instructions are another campaign's; see docs/rom-faults.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fuseline.errors import ChipAttackUnknown
from fuseline.lab.chip_attacks import (
    debug,
    fuses,
    identity,
    images,
    provisioning,
    signatures,
    toctou,
)
from fuseline.lab.chip_attacks import later_code as later
from fuseline.lab.chip_attacks.model import Attack, AttackResult, Attempt, Effort, Holds, Verdict

if TYPE_CHECKING:
    from fuseline.lab.chip_attacks.rig import Rig

Progress = Callable[[Attack, int], None]
"""Told the attack under way, and how many attempts it has made."""

_BOARD: Final = (
    "A chip's folder belongs to whoever can write it: all four files of an earlier moment, put back, "
    "are that earlier chip. In silicon the fuses are inside, and nothing makes a blown one whole."
)

CATALOGUE: Final[tuple[Attack, ...]] = (
    Attack(
        "flip-every-bit",
        (Holds.FLASH,),
        "Flips each single bit of a signed image: header, payload, TLVs.",
        images.flip_every_bit,
        remains="A selected usage constraint may read anything: the ROM overwrites it before it hashes.",
    ),
    Attack(
        "cut-image",
        (Holds.FLASH,),
        "Leaves an image erased from some octet on, or writes garbage behind it.",
        images.cut_everywhere,
        remains="What stands behind the last TLV is not looked at, and not copied.",
    ),
    Attack(
        "header",
        (Holds.FLASH, Holds.SIGNER),
        "Signs headers with sizes that lie or wrap around, other load addresses, flags and magics.",
        images.run_images(images.header_images),
    ),
    Attack(
        "tlv",
        (Holds.FLASH, Holds.SIGNER),
        "Signs TLVs out of bounds, twice, unknown, too long or in the wrong area; injects unsigned ones.",
        images.run_images(images.tlv_images),
        remains="The order of TLVs outside the signature is free.",
    ),
    Attack(
        "entry-point",
        (Holds.FLASH, Holds.SIGNER),
        "Signs images whose entry point or stack lies outside of them.",
        images.run_images(images.entry_images),
    ),
    Attack(
        "ecdsa",
        (Holds.FLASH,),
        "Stretches, shifts, zeroes and re-encodes r and s.",
        images.run_images(signatures.ecdsa_images),
        remains="(r, n - s) verifies, as ECDSA has it; the measurement does not cover the signature.",
    ),
    Attack(
        "ed25519",
        (Holds.FLASH,),
        "Adds multiples of the order to S, and zeroes or swaps R and S.",
        images.run_images(signatures.ed25519_images),
    ),
    Attack(
        "small-order-keys",
        (Holds.FLASH, Holds.SIGNER),
        "Has a factory take an Ed25519 key of small order, for which anybody can sign.",
        signatures.small_order_keys,
    ),
    Attack(
        "off-curve-keys",
        (Holds.FLASH, Holds.SIGNER),
        "Has a factory take a P-256 key that is no point of the curve.",
        signatures.p256_keys_off_the_curve,
    ),
    Attack(
        "keys",
        (Holds.FLASH,),
        "Brings keys that are unknown, revoked or for DEV; mixes digests, keys and signatures of images.",
        images.run_images(signatures.key_images),
    ),
    Attack(
        "key-slots",
        (Holds.FLASH, Holds.FUSES),
        "Starts loaders whose key slot is blank, invalid, of no type, damaged, or revoked by a single bit.",
        signatures.blank_key_slots,
    ),
    Attack(
        "keys-by-life-cycle",
        (Holds.FLASH,),
        "Tries every key in every life cycle; only what the table allows may start.",
        signatures.life_cycle_keys,
    ),
    Attack(
        "recovery-slot",
        (Holds.FLASH,),
        "Spoils the primary loader; puts what nobody signed, or somebody once did, into the recovery slot.",
        signatures.recovery_slot,
    ),
    Attack(
        "rollback",
        (Holds.FLASH,),
        "Brings older signed loaders, and ones whose counter is missing, huge or outside the signature.",
        images.run_images(signatures.rollback_images),
    ),
    Attack(
        "rollback-at-every-value",
        (Holds.FLASH,),
        "Raises the counter in the fuses to every value, and brings a loader one below.",
        signatures.rollback_at_every_value,
        remains="A counter of 128 retires the chip: no loader can have it.",
    ),
    Attack(
        "usage-constraints",
        (Holds.FLASH,),
        "Brings loaders signed for another chip, product, revision or life cycle, as they are and edited.",
        images.run_images(signatures.usage_images),
    ),
    Attack(
        "swap-at-command",
        (Holds.FLASH,),
        "Swaps the image in flash before each command that the ROM gives.",
        toctou.swap_at_each_command,
        remains="An image that was whole at the time it was copied runs, whatever the flash says later.",
    ),
    Attack(
        "swap-at-instruction",
        (Holds.FLASH,),
        "Swaps the image in flash at each instruction while the ROM copies it.",
        toctou.swap_at_each_instruction,
    ),
    Attack(
        "any-fuse",
        (Holds.FLASH, Holds.FUSES),
        "Blows each single fuse past the controller, and brings what was refused before.",
        fuses.blow_any_fuse,
    ),
    Attack(
        "damaged-fuses",
        (Holds.FUSES,),
        "Blows fuses of id, life cycle, product, PUF and counter so that they keep no code.",
        fuses.damaged_fuses,
        remains="Every damage of this kind loses the chip: denial.",
    ),
    Attack(
        "half-blown-fuses",
        (Holds.FLASH, Holds.SUPPLY),
        "Cuts the supply at each fuse of a life cycle step, revocation, counter and key, read both ways.",
        fuses.half_blown_fuses,
        remains="One half-blown fuse at a time: the supply fails once.",
    ),
    Attack(
        "fuses-by-probe",
        (Holds.PINS,),
        "Blows each fuse of a product from its closed debug port.",
        fuses.probe_on_a_product,
    ),
    Attack(
        "fuses-by-code",
        (Holds.CODE,),
        "Blows each fuse word, undoes life cycle, counter and revocation, revokes every key.",
        fuses.fuses_from_the_loader,
        remains="That code can revoke all keys but one and raise counters: denial, not access.",
    ),
    Attack(
        "rewind",
        (Holds.FUSES,),
        "Saves an earlier chip, or another one, over a later one in its folder.",
        fuses.rewind,
        remains=_BOARD,
    ),
    Attack(
        "clone",
        (Holds.FLASH, Holds.FUSES, Holds.OTHER_CHIP),
        "Copies flash and fuses onto another chip; then poses with that chip's own PUF.",
        identity.clone,
        remains="The name in the fuses proves nothing: look at the certificate.",
    ),
    Attack(
        "identity-in-other-states",
        (Holds.FLASH, Holds.FUSES),
        "Reaches a product's identity in RMA, SCRAP, TEST or DEV.",
        identity.identity_in_other_states,
    ),
    Attack(
        "helper-bits",
        (Holds.FLASH,),
        "Flips each bit of one copy of the helper data while the other is erased.",
        identity.flip_helper_bits,
        remains="Erasing both copies loses the chip: denial.",
    ),
    Attack(
        "helper-swaps",
        (Holds.FLASH, Holds.OTHER_CHIP),
        "Exchanges helper data between copies and chips, complements and swaps code bits.",
        identity.swap_helpers,
    ),
    Attack(
        "helper-oracle",
        (Holds.FLASH, Holds.MAILBOX),
        "Recovers the PUF's secret by 508 edited helpers: error word, console, instructions, stages.",
        identity.helper_oracle,
        remains="Power and radiation are not modelled, nor how long the PUF block takes.",
    ),
    Attack(
        "secrets-in-memory",
        (Holds.CODE, Holds.PINS),
        "Looks for every secret of a boot in all memory left behind, after good boots and bad ones.",
        identity.secrets_in_memory,
    ),
    Attack(
        "locked-resources",
        (Holds.CODE,),
        "Uses root keys, PUF, factory fuses and flash, debug and the exec gate; reads ROM RAM and registers.",
        later.use_what_is_locked,
    ),
    Attack(
        "update-reset",
        (Holds.CODE, Holds.FLASH),
        "Starts another signer's loader, or forges the record, while the identity is in the key slots.",
        later.update_reset,
    ),
    Attack(
        "system-words",
        (Holds.PINS,),
        "Has the ROM read a reset reason, strap, revision or debug state that is off by one bit, or forged.",
        later.system_words,
    ),
    Attack(
        "debug-unlock",
        (Holds.MAILBOX, Holds.CODE, Holds.OTHER_CHIP),
        "Replays, redirects, forges and mirrors debug responses and challenges; keeps the port open.",
        debug.debug_unlock,
        remains="(r, n - s) of the authority's response is a right response too, good for the same unlock.",
    ),
    Attack(
        "provisioning-strap",
        (Holds.MAILBOX, Holds.PINS, Holds.FLASH),
        "Uses the factory's strap later: enrols again, starts a loader, has the IDevID key sign a digest.",
        provisioning.provisioning_strap,
        remains="Anybody at the pins gets the IDevID's public key, and a signature that names its purpose.",
    ),
    Attack(
        "planted-helper",
        (Holds.FLASH,),
        "Plants helper data in flash before a chip is enrolled.",
        provisioning.planted_helper,
    ),
    Attack(
        "helper-at-enrolment",
        (Holds.FLASH,),
        "Spoils a copy of the helper data at each command of an enrolment.",
        provisioning.broken_helper_at_enrolment,
    ),
    Attack(
        "stuck-noise",
        (Holds.NOISE,),
        "Boots, enrols and asks for a challenge with a noise source that is stuck or biased.",
        provisioning.stuck_noise,
        remains="A source that is predictable but looks random passes every health test.",
    ),
    Attack(
        "cut-enrolment",
        (Holds.SUPPLY, Holds.FLASH),
        "Cuts the supply at each operation of an enrolment.",
        provisioning.cut_enrolment,
    ),
    Attack(
        "cut-provisioning",
        (Holds.SUPPLY, Holds.FLASH),
        "Cuts the supply at each operation of the factory's flow.",
        provisioning.cut_provisioning,
    ),
)
"""Every attack, by what the attacker needs: flash alone first."""


@dataclass(frozen=True, slots=True)
class CatalogueReport:
    """What became of a run through the catalogue.

    Attributes:
        effort: How much of the long sweeps was visited.
        rom: SHA-256 of the ROM that was attacked.
        results: One for each attack, in order.
    """

    effort: Effort
    rom: str
    results: tuple[AttackResult, ...]

    @property
    def escaped(self) -> tuple[AttackResult, ...]:
        """The attacks that got through."""
        return tuple(result for result in self.results if result.verdict is Verdict.ESCAPED)

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data; keys and types are a stable contract."""
        return {
            "effort": self.effort.value,
            "rom": self.rom,
            "attacks": [result.as_dict() for result in self.results],
            "attempts": sum(len(result.attempts) for result in self.results),
            "escaped": [result.attack.name for result in self.escaped],
            "seconds": round(sum(result.seconds for result in self.results), 3),
        }


def choose(names: Iterable[str]) -> tuple[Attack, ...]:
    """Return the attacks of these names, in the order of the catalogue; all of them for none.

    Raises:
        ChipAttackUnknown: There is no attack of that name.
    """
    wanted = set(names)
    unknown = wanted - {attack.name for attack in CATALOGUE}
    if unknown:
        raise ChipAttackUnknown(
            "there is no such attack", names=sorted(unknown), known=[attack.name for attack in CATALOGUE]
        )
    return tuple(attack for attack in CATALOGUE if not wanted or attack.name in wanted)


def carry_out(attack: Attack, rig: Rig, effort: Effort, progress: Progress | None = None) -> AttackResult:
    """Carry out one attack.

    Args:
        attack: Which one.
        rig: Where.
        effort: How much of its sweeps.
        progress: Told after each attempt.
    """
    started = time.monotonic()
    attempts: list[Attempt] = []
    for attempt in attack.run(rig, effort):
        attempts.append(attempt)
        if progress is not None:
            progress(attack, len(attempts))
    return AttackResult(attack, tuple(attempts), time.monotonic() - started)
