"""Attacks with fuses: blown too many, half-blown, and asked to be whole again."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon import fuse_map, fuse_plans
from fuseline.device.silicon.chip import Chip
from fuseline.device.silicon.commands import Command, Status
from fuseline.device.silicon.folder import ChipFolder
from fuseline.device.silicon.fuse_map import FUSE_WORDS, Counter, KeyType, LifeCycle
from fuseline.device.silicon.fuses import FIELD_OF_WORD, Origin
from fuseline.device.silicon.memory_map import DebugState
from fuseline.device.silicon.power import PowerLost
from fuseline.device.silicon.report import Outcome
from fuseline.device.silicon.silicon import Silicon, SiliconSnapshot
from fuseline.errors import ChipFuseRewind, SiliconError
from fuseline.lab.chip_attacks.forge import COUNTER, ImageSpec, counter_tlv, forge
from fuseline.lab.chip_attacks.model import Attempt, Effort, escaped, expect, judge, refused
from fuseline.lab.chip_attacks.puppet import command, puppet, read_notes
from fuseline.lab.chip_attacks.rig import fuse_words, with_bits, with_fuses, with_life_cycle

if TYPE_CHECKING:
    from fuseline.device.silicon.fuse_plans import FusePlan
    from fuseline.lab.chip_attacks.rig import Rig

_WORD_BITS: Final = 32
_REVOCATION: Final = frozenset(
    fuse_map.KEY_SLOT + slot * fuse_map.KEY_SLOT_STRIDE + offset
    for slot in range(fuse_map.KEY_SLOT_COUNT)
    for offset in (fuse_map.KEY_SLOT_REVOKED_A, fuse_map.KEY_SLOT_REVOKED_B)
)
_COUNTERS: Final = range(fuse_map.COUNTER, fuse_map.COUNTER + len(Counter) * fuse_map.COUNTER_STRIDE)
_NEVER: Final = 2.0**-50
"""Strength of a half-blown fuse that practically always reads as 0; its complement always reads as 1."""


def _attack_images(rig: Rig) -> dict[str, bytes]:
    """Images that the product refuses because of what its fuses say."""
    spec, keys = ImageSpec(), rig.keys
    return {
        "revoked key": forge(spec, keys.revoked),
        "older": forge(ImageSpec(protected=(counter_tlv(COUNTER - 1),)), keys.loader),
        "DEV key": forge(spec, keys.dev),
        "stranger's key": forge(spec, keys.stranger),
    }


# --- a blower past the controller ------------------------------------------------------------------------


def blow_any_fuse(rig: Rig, effort: Effort) -> Iterator[Attempt]:
    """Blow each single fuse that is still whole, past the controller, and bring what was refused before."""
    product = rig.victims.product
    words = fuse_words(product)
    whole = [
        (word, bit)
        for word in sorted(FIELD_OF_WORD)
        for bit in range(_WORD_BITS)
        if not words[word] >> bit & 1
    ]
    images = list(_attack_images(rig).items())
    for word, bit in effort.pick(whole, 11):
        chip = with_bits(product, (word, 1 << bit))
        for (one, first), (other, second) in (images[:2], images[2:]):
            report = rig.start(first, second, snapshot=chip)
            what = f"fuse {word}.{bit} ({FIELD_OF_WORD[word].name}), {one} and {other}"
            if report.debug is DebugState.OPEN:
                yield escaped(what, "debug is open")
            yield judge(what, report)


def damaged_fuses(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Blow fuses of facts that the ROM relies on, so that they keep no code, and bring the owner's loader."""
    loader, product = forge(ImageSpec(), rig.keys.loader), rig.victims.product
    words = fuse_words(product)
    codes = {
        "life cycle A": "E_ROM_LIFE_CYCLE_CODE",
        "life cycle B": "E_ROM_LIFE_CYCLE_CODE",
        "chip id": "E_ROM_CHIP_ID",
        "product": "E_ROM_PRODUCT",
        "puf check value": "E_ROM_PUF_FUSES",
        "puf enrolled": "E_ROM_PUF_FUSES",
    }
    for word, field in FIELD_OF_WORD.items():
        if field.name in codes:
            for bit in (bit for bit in range(_WORD_BITS) if not words[word] >> bit & 1):
                report = rig.start(loader, snapshot=with_bits(product, (word, 1 << bit)))
                yield judge(f"fuse {word}.{bit} ({field.name})", report, codes[field.name])
    newest = forge(ImageSpec(protected=(counter_tlv(127),)), rig.keys.loader)
    for copy in (0, fuse_map.COUNTER_WORDS):
        for step in (COUNTER + 1, COUNTER + 2, 31, 32, 127):
            word = fuse_map.COUNTER + copy + step // _WORD_BITS
            report = rig.start(newest, snapshot=with_bits(product, (word, 1 << step % _WORD_BITS)))
            yield judge(f"step {step} of the counter alone, word {word}", report, "E_ROM_COUNTER_FUSES")
    yield from _unfinished_chips(rig, loader)


def _unfinished_chips(rig: Rig, loader: bytes) -> Iterator[Attempt]:
    """Chips that a factory did not finish: no life cycle, no key type, no enrolment."""
    words = fuse_words(rig.victims.product)
    for base in (fuse_map.LIFE_CYCLE_A, fuse_map.LIFE_CYCLE_B):
        words[base : base + len(fuse_map.LIFE_CYCLE_WORDS_A)] = [0] * len(fuse_map.LIFE_CYCLE_WORDS_A)
    words[fuse_map.KEY_SLOT + fuse_map.KEY_SLOT_TYPE] = 0
    report = rig.start(loader, snapshot=with_fuses(rig.victims.product, words))
    yield judge("no life cycle, and a key of no type", report, "E_ROM_LIFE_CYCLE_BLANK")
    words = fuse_words(rig.victims.product)
    end = fuse_map.PUF_ENROLLED + 1
    words[fuse_map.PUF_CHECK : end] = [0] * (end - fuse_map.PUF_CHECK)
    report = rig.start(loader, snapshot=with_fuses(rig.victims.product, words))
    yield judge("not enrolled", report, "E_ROM_PUF_NOT_ENROLLED")
    words = fuse_words(rig.victims.product)
    words[fuse_map.PRODUCT : fuse_map.PRODUCT + fuse_map.PRODUCT_WORDS + 1] = [0] * (
        fuse_map.PRODUCT_WORDS + 1
    )
    report = rig.start(loader, snapshot=with_fuses(rig.victims.product, words))
    yield judge("no product", report, "E_ROM_PRODUCT")


# --- a supply that fails in the middle -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of fuses that is cut.

    Attributes:
        name: For a person.
        chip: As it was before.
        plan: What is blown.
        images: What is brought, by name.
    """

    name: str
    chip: SiliconSnapshot
    plan: FusePlan
    images: dict[str, bytes]


def half_blown_fuses(rig: Rig, effort: Effort) -> Iterator[Attempt]:
    """Cut the supply at each fuse of each kind of change, and have the fuse read as 0 and as 1.

    What such a chip starts, it started before or starts after the change; the same for its debug port.
    """
    for change in _changes(rig):
        before = _permits(rig, change.chip, change)
        after = _permits(rig, with_bits(change.chip, *change.plan), change)
        for cut in effort.pick(range(sum(mask.bit_count() for _, mask in change.plan)), 11):
            for reads, strength in ((0, _NEVER), (1, 1 - _NEVER)):
                permits = _permits(rig, _cut(change, cut, strength), change)
                what = f"{change.name}, cut at fuse {cut}, which reads {reads}"
                more = permits - before - after
                yield expect(
                    what, not more, "no more than before or after", f"permits {', '.join(sorted(more))}"
                )


def _changes(rig: Rig) -> Iterator[_Change]:
    spec, keys = ImageSpec(), rig.keys
    loader, dev = forge(spec, keys.loader), forge(spec, keys.dev)
    attacks = _attack_images(rig)
    state = {"loader": loader, "DEV key": dev, "stranger's key": attacks["stranger's key"]}
    product = rig.victims.product
    plans = fuse_plans
    yield _Change("TEST to DEV", rig.victims.test, plans.plan_life_cycle(LifeCycle.DEV), state)
    yield _Change("DEV to PROD", rig.victims.dev, plans.plan_life_cycle(LifeCycle.PROD), state)
    yield _Change("PROD to RMA", product, plans.plan_life_cycle(LifeCycle.RMA), state)
    returned = with_life_cycle(product, LifeCycle.RMA)
    yield _Change("RMA to SCRAP", returned, plans.plan_life_cycle(LifeCycle.SCRAP), state)
    yield _Change(
        "revocation of slot 0",
        product,
        plans.plan_revocation(0),
        {"loader": loader, "revoked key": attacks["revoked key"]},
    )
    levels = {
        f"counter {value}": forge(ImageSpec(protected=(counter_tlv(value),)), keys.loader)
        for value in (COUNTER - 1, COUNTER, COUNTER + 3, 33, 34)
    }
    yield _Change("counter to 34", product, plans.plan_counter(Counter.LOADER, 34), levels)
    words = fuse_words(rig.victims.test)
    words[fuse_map.KEY_SLOT : fuse_map.KEY_SLOT + fuse_map.KEY_SLOT_STRIDE] = [0] * fuse_map.KEY_SLOT_STRIDE
    plan = plans.plan_key(0, hashlib.sha256(keys.loader.spki).digest(), KeyType.PROD)
    yield _Change(
        "key into slot 0",
        with_fuses(rig.victims.test, words),
        plan,
        {"loader": loader, "stranger's key": attacks["stranger's key"]},
    )


def _cut(change: _Change, cut: int, strength: float) -> SiliconSnapshot:
    """Return the chip whose change was cut while fuse number `cut` was blown."""
    words = fuse_words(change.chip)
    bits = [(word, bit) for word, mask in change.plan for bit in range(_WORD_BITS) if mask >> bit & 1]
    for word, bit in bits[:cut]:
        words[word] |= 1 << bit
    word, bit = bits[cut]
    if words[word] >> bit & 1:
        return with_fuses(change.chip, words)
    return with_fuses(change.chip, words, ((word * _WORD_BITS + bit, strength),))


def _permits(rig: Rig, chip: SiliconSnapshot, change: _Change) -> set[str]:
    permits = set()
    for name, image in change.images.items():
        report = rig.start(image, snapshot=chip)
        if report.outcome is Outcome.BOOTED:
            permits.add(name)
        if report.debug is DebugState.OPEN:
            permits.add("debug")
    return permits


# --- the controller --------------------------------------------------------------------------------------


def probe_on_a_product(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Blow each fuse of a product from the closed debug port."""
    silicon = rig.insert()
    silicon.reset()
    for word in range(FUSE_WORDS):
        before = silicon.fuses.content().words
        seen = {_try_blow(silicon, word, 1 << bit) for bit in range(_WORD_BITS)}
        changed = silicon.fuses.content().words != before
        yield expect(f"fuse word {word}", not changed, ", ".join(sorted(seen)), "blown")


def _try_blow(silicon: Silicon, word: int, mask: int, origin: Origin = Origin.PROBE) -> str:
    try:
        silicon.fuses.blow(word, mask, origin)
    except SiliconError as error:
        return error.code
    return "nothing to blow"


def fuses_from_the_loader(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Blow each word as a whole, and bit patterns of other states, from code in the loader's place.

    Revocations and counters are the loader's; nothing else may change, and no bit may go back to 0.
    """
    forward = [
        (base + state - 1, codes[state - 1])
        for base, codes in (
            (fuse_map.LIFE_CYCLE_A, fuse_map.LIFE_CYCLE_WORDS_A),
            (fuse_map.LIFE_CYCLE_B, fuse_map.LIFE_CYCLE_WORDS_B),
        )
        for state in (LifeCycle.TEST, LifeCycle.DEV, LifeCycle.PROD, LifeCycle.RMA, LifeCycle.SCRAP)
    ]
    asked = [
        *((word, 0xFFFF_FFFF) for word in range(FUSE_WORDS)),
        *forward,
        (FUSE_WORDS, 1),
        (0xFFFF_FFFF, 1),
    ]
    rows = [
        command(f"blow {mask:#010x} in word {word}", Command.OTP_BLOW, word, mask) for word, mask in asked
    ]
    rig.insert()
    before = fuse_words(rig.victims.product)
    report = rig.boot(puppet(rows, rig.keys.loader))
    if report.outcome is not Outcome.BOOTED:
        yield escaped("code in the loader's place", "could not be tried: it does not start")
        return
    after = fuse_words(rig.silicon.snapshot())
    for (word, _), row, note in zip(asked, rows, read_notes(rig.silicon, rows).rows, strict=True):
        allowed = word in _REVOCATION or word in _COUNTERS
        old, new = (words[word] if word < FUSE_WORDS else 0 for words in (before, after))
        what = f"{row.what}: {note.status.name.lower()}"
        yield expect(
            what,
            not old & ~new and (allowed or new == old),
            "allowed" if allowed else note.status.name,
            "changed",
        )
    yield from _last_key(rig)


def _last_key(rig: Rig) -> Iterator[Attempt]:
    """Revoke every slot from the loader: the last usable key stays."""
    rows = [
        command(f"revoke slot {slot}", Command.OTP_BLOW, word, mask)
        for slot in range(fuse_map.KEY_SLOT_COUNT)
        for word, mask in fuse_plans.plan_revocation(slot)
    ]
    rig.start(puppet(rows, rig.keys.loader))
    left = [
        note.status is not Status.OK
        for row, note in zip(rows, read_notes(rig.silicon, rows).rows, strict=True)
    ]
    yield expect("revoke every key", any(left), "E_CHIP_FUSE_LAST_KEY", "no key is left")
    report = rig.boot(forge(ImageSpec(), rig.keys.revoked))
    yield judge("the revoked key after more revocations", report, "E_ROM_KEY_REVOKED")


def rewind(_rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Save an earlier moment of a chip, or another chip, over a later one in its folder."""
    with tempfile.TemporaryDirectory(prefix="fuseline-rewind-") as name:
        yield from _save_over(Path(name) / "chip")


def _save_over(path: Path) -> Iterator[Attempt]:
    with ChipFolder.create(path, seed=1) as folder:
        silicon = folder.load().silicon
        for what, plan in (
            ("life cycle", fuse_plans.plan_life_cycle(LifeCycle.TEST)),
            ("counter", fuse_plans.plan_counter(Counter.LOADER, 9)),
            ("revocation", fuse_plans.plan_revocation(3)),
        ):
            earlier = silicon.snapshot()
            silicon.fuses.blow_all(plan)
            folder.save(Chip(silicon))
            yield _save(folder, earlier, f"from before its {what} was blown")
        earlier = silicon.snapshot()
        silicon.power.cut_at = silicon.power.operations + 1
        with contextlib.suppress(PowerLost):
            silicon.fuses.blow_all(fuse_plans.plan_counter(Counter.LOADER, 10))
        folder.save(Chip(silicon))
        yield _save(folder, earlier, "from before a fuse was half-blown")
        yield _save(folder, Silicon(2, non_volatile=silicon.non_volatile()).snapshot(), "that is another one")


def _save(folder: ChipFolder, snapshot: SiliconSnapshot, what: str) -> Attempt:
    silicon = Silicon(snapshot.seed)
    silicon.restore(snapshot)
    try:
        folder.save(Chip(silicon))
    except ChipFuseRewind as error:
        return refused(f"save a chip {what}", error.code)
    return escaped(f"save a chip {what}", "saved")
