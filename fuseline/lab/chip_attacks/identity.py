"""Attacks on the chip's identity: copies of it, edited helper data, memory that might still know a secret."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.serialization import Encoding

from fuseline.device.silicon import fuse_map
from fuseline.device.silicon.command_port import CommandPort
from fuseline.device.silicon.commands import Stage
from fuseline.device.silicon.fuse_map import LifeCycle
from fuseline.device.silicon.memory_map import (
    FLASH_BASE,
    FLASH_SIZE,
    FUSE_SHADOW,
    HELPER_A,
    HELPER_B,
    MAILBOX,
    PUF_ROWS,
    PUF_ROWS_SIZE,
    RAM_BASE,
    RAM_SIZE,
    RETENTION,
    RETENTION_SIZE,
)
from fuseline.device.silicon.puf import HELPER_SIZE
from fuseline.device.silicon.puf.extractor import secret_of
from fuseline.device.silicon.puf.helper import CODE_BITS
from fuseline.device.silicon.report import BootReport, Outcome
from fuseline.errors import DiceChain
from fuseline.formats import dice
from fuseline.lab.chip.bench import Bench
from fuseline.lab.chip_attacks.forge import ImageSpec, forge
from fuseline.lab.chip_attacks.model import Attempt, Effort, Verdict, escaped, expect, judge, refused
from fuseline.lab.chip_attacks.rig import fuse_words, lab_manifest, with_fuses, with_life_cycle
from fuseline.lab.puf.attacks import flip_code_bit, flip_helper_bit, recover_codewords, swap_code_bits

if TYPE_CHECKING:
    from fuseline.device.silicon.handover import BootRecord
    from fuseline.device.silicon.silicon import Silicon, SiliconSnapshot
    from fuseline.lab.chip_attacks.rig import Rig

_ERASED_HELPER: Final = b"\xff" * HELPER_SIZE


def _loader(rig: Rig) -> bytes:
    return forge(ImageSpec(), rig.keys.loader)


def _booted(rig: Rig, snapshot: SiliconSnapshot | None = None) -> BootRecord | None:
    return rig.start(_loader(rig), snapshot=snapshot).record


def same_identity(what: str, mine: BootRecord | None, report: BootReport) -> Attempt:
    """Judge a boot that may go through with the identity it had before, and no other."""
    if report.outcome is not Outcome.BOOTED or report.record is None:
        return judge(what, report)
    equal = mine is not None and report.record.idevid_public == mine.idevid_public
    return Attempt(what, Verdict.EQUAL, "the same identity") if equal else escaped(what, "another identity")


def _other_identity(what: str, mine: BootRecord | None, report: BootReport) -> Attempt:
    """Judge a boot that may go through, but not with the victim's identity."""
    if report.outcome is not Outcome.BOOTED or report.record is None:
        return judge(what, report)
    differs = mine is not None and report.record.idevid_public != mine.idevid_public
    return expect(what, differs, "another identity", "the victim's identity")


# --- clones ----------------------------------------------------------------------------------------------


def clone(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Copy a product's flash and fuses onto another chip, as they are and with what that chip's PUF needs."""
    product, other = rig.victims.product, rig.victims.other
    mine = _booted(rig)
    certificate = Bench(rig.insert(), None).read_identity()
    if mine is None or certificate is None:
        yield escaped("the victim", "has no identity")
        return
    der = certificate.public_bytes(Encoding.DER)
    yield _chain("the victim's own chain", der, mine.certificate, genuine=True)

    copied = replace(other, non_volatile=product.non_volatile, sensed=product.sensed)
    yield judge("flash and fuses copied", rig.start(_loader(rig), snapshot=copied), "E_ROM_PUF_CHECK")
    only_flash = replace(other, non_volatile=replace(other.non_volatile, flash=product.non_volatile.flash))
    yield judge("flash copied", rig.start(_loader(rig), snapshot=only_flash), "E_ROM_PUF_CHECK")
    only_fuses = with_fuses(other, fuse_words(product))
    yield judge("fuses copied", rig.start(_loader(rig), snapshot=only_fuses), "E_ROM_PUF_CHECK")

    # The thief's best: the victim's name, and the helper data and check value of the thief's own chip.
    words = fuse_words(product)
    own = slice(fuse_map.PUF_CHECK, fuse_map.PUF_CHECK + fuse_map.PUF_CHECK_WORDS + 1)
    words[own] = fuse_words(other)[own]
    posing = with_fuses(other, words)
    report = rig.start(_loader(rig), snapshot=posing)
    yield _other_identity("the victim's name on the thief's PUF", mine, report)
    if report.record is not None:
        yield _chain(
            "the victim's certificate before the thief's", der, report.record.certificate, genuine=False
        )


def _chain(what: str, device: bytes, loader: bytes, *, genuine: bool) -> Attempt:
    try:
        dice.verify_chain([device, loader], anchor=lab_manifest().ca, now=dt.datetime.now(dt.UTC))
    except DiceChain as error:
        return escaped(what, error.code) if genuine else refused(what, error.code)
    return Attempt(what, Verdict.EQUAL, "verifies") if genuine else escaped(what, "verifies")


def identity_in_other_states(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Reach a product's identity in RMA, where the debug port is open, and in the states it came from."""
    mine = _booted(rig)
    returned = with_life_cycle(rig.victims.product, LifeCycle.RMA)
    yield _other_identity("RMA", mine, rig.start(_loader(rig), snapshot=returned))
    for name, chip in (("TEST", rig.victims.test), ("DEV", rig.victims.dev)):
        yield _other_identity(name, mine, rig.start(_loader(rig), snapshot=chip))
    scrap = with_life_cycle(rig.victims.product, LifeCycle.SCRAP)
    yield judge("SCRAP", rig.start(_loader(rig), snapshot=scrap), "E_ROM_LIFE_CYCLE_SCRAP")
    blank = with_fuses(rig.victims.product, [0] * fuse_map.FUSE_WORDS)
    yield judge("all fuses blank", rig.start(_loader(rig), snapshot=blank), "E_ROM_LIFE_CYCLE_BLANK")


# --- helper data -----------------------------------------------------------------------------------------


def _helper(silicon: Silicon) -> bytes:
    return silicon.flash.read(HELPER_A, HELPER_SIZE)


def _with_helpers(rig: Rig, first: bytes, second: bytes, loader: bytes) -> BootReport:
    silicon = rig.insert()
    silicon.flash.external_write(HELPER_A, first)
    silicon.flash.external_write(HELPER_B, second)
    return rig.boot(loader)


def flip_helper_bits(rig: Rig, effort: Effort) -> Iterator[Attempt]:
    """Flip each bit of one copy of the helper data while the other is erased."""
    helper, loader = _helper(rig.insert()), _loader(rig)
    for bit in effort.pick(range(8 * HELPER_SIZE), 61):
        report = _with_helpers(rig, flip_helper_bit(helper, bit), _ERASED_HELPER, loader)
        yield judge(f"helper bit {bit}", report, "E_ROM_PUF_CHECK")


def swap_helpers(rig: Rig, effort: Effort) -> Iterator[Attempt]:
    """Edit, exchange, erase and shift helper data; a copy that is whole still serves."""
    mine, loader = _booted(rig), _loader(rig)
    helper = _helper(rig.insert())
    foreign = _helper(rig.insert(rig.victims.other))
    for what, first, second in (
        ("copy A damaged", flip_helper_bit(helper, 9000), helper),
        ("copy A erased", _ERASED_HELPER, helper),
        ("copy B erased", helper, _ERASED_HELPER),
        ("copy A of another chip", foreign, helper),
    ):
        yield same_identity(what, mine, _with_helpers(rig, first, second, loader))
    for what, first, second in (
        ("both of another chip", foreign, foreign),
        ("both erased", _ERASED_HELPER, _ERASED_HELPER),
        ("both zero", bytes(HELPER_SIZE), bytes(HELPER_SIZE)),
        ("halves of both chips", helper[: HELPER_SIZE // 2] + foreign[HELPER_SIZE // 2 :], foreign),
        ("shifted by an octet", helper[1:] + b"\0", helper[4:] + bytes(4)),
    ):
        yield judge(what, _with_helpers(rig, first, second, loader), "E_ROM_PUF_CHECK")
    for bit in effort.pick(range(CODE_BITS), 17):
        edited = flip_code_bit(helper, bit)
        yield judge(
            f"code bit {bit} complemented", _with_helpers(rig, edited, edited, loader), "E_ROM_PUF_CHECK"
        )
    for left in effort.pick(range(CODE_BITS - 1), 17):
        edited = swap_code_bits(helper, left, left + 1)
        if edited != helper:
            report = _with_helpers(rig, edited, edited, loader)
            yield judge(f"code bits {left} and {left + 1} swapped", report, "E_ROM_PUF_CHECK")


@dataclass(frozen=True, slots=True)
class _Seen:
    """Everything that a boot shows to whoever stands beside the chip."""

    error: int | None
    console: str
    instructions: int
    stages: tuple[Stage, ...]


_CHANNELS: Final[dict[str, Callable[[_Seen], Hashable]]] = {
    "error word": lambda seen: seen.error,
    "console": lambda seen: seen.console,
    "instruction count": lambda seen: seen.instructions,
    "stages": lambda seen: seen.stages,
}


def helper_oracle(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Recover the enrolled secret by 508 edited helpers, from whatever each boot shows.

    The oracle is as strong as it can be: it compares what is seen with what is seen when a helper decodes.
    """
    silicon, loader = rig.insert(), _loader(rig)
    helper = _helper(silicon)
    silicon.reset()
    rows = bytes(silicon.psram.view(PUF_ROWS, PUF_ROWS_SIZE))
    secret = silicon.puf.reconstruct(rows, helper).secret
    boots: dict[bytes, _Seen] = {}

    def look(edited: bytes) -> _Seen:
        if edited not in boots:
            report = _with_helpers(rig, edited, edited, loader)
            word = report.error.word if report.error else None
            boots[edited] = _Seen(word, report.console, report.instructions, report.stages)
        return boots[edited]

    decodes = look(flip_code_bit(helper, 100))
    recovery = recover_codewords(helper, lambda edited: look(edited) == decodes)
    for name, channel in _CHANNELS.items():
        what = f"{recovery.queries} helpers, by {name}"
        kinds = len({channel(seen) for seen in boots.values()})
        if kinds == 1:
            yield refused(what, "always the same")
            continue

        def oracle(edited: bytes, channel: Callable[[_Seen], Hashable] = channel) -> bool:
            return channel(look(edited)) == channel(decodes)

        candidates = {secret_of(message) for message in recover_codewords(helper, oracle).candidates}
        yield escaped(what, "the whole secret" if secret in candidates else f"{kinds} kinds of answer")


# --- what still knows a secret ---------------------------------------------------------------------------


class _Notebook(CommandPort):
    """A command port beside which somebody writes down what is in the key slots after each command."""

    def __init__(self, silicon: Silicon) -> None:
        super().__init__(silicon)
        self.secrets: dict[bytes, str] = {}
        self._chip = silicon

    def ring(self) -> None:
        """Do the command, and look into the slots."""
        super().ring()
        for slot, content in self._chip.keys.content().slots.items():
            if isinstance(content, bytes):
                self.secrets[content] = slot.name
            else:
                number = content.private_numbers().private_value
                self.secrets[number.to_bytes(32, "big")] = f"{slot.name}, private"
                self.secrets[number.to_bytes(32, "little")] = f"{slot.name}, private, little-endian"


def secrets_in_memory(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Look for every secret of a boot in all memory that is left behind, after a good one and a bad one."""
    loader = _loader(rig)
    stranger = forge(ImageSpec(), rig.keys.stranger)
    for what, image in (("loader entered", loader), ("loader refused", stranger)):
        silicon = rig.insert()
        notebook = _Notebook(silicon)
        silicon.port = notebook
        try:
            rig.boot(image)
        finally:
            silicon.port = CommandPort(silicon)
        # The readout that the ROM saw: the same number of boots gives the same noise.
        rows = bytearray(PUF_ROWS_SIZE)
        silicon.puf.power_up(memoryview(rows), silicon.boot_count)
        wanted = notebook.secrets | {
            silicon.puf.reconstruct(bytes(rows), _helper(silicon)).secret: "PUF secret"
        }
        wanted |= {bytes(rows[at : at + 16]): f"PUF rows at {at:#x}" for at in range(0, PUF_ROWS_SIZE, 256)}
        memory = _all_memory(rig)
        if not any(name == "UDS" for name in wanted.values()):
            yield escaped(what, "no secret was ever made: nothing was shown")
        for secret, name in wanted.items():
            found = [place for place, octets in memory.items() if secret in octets]
            yield expect(f"{what}: {name}", not found, "nowhere", f"in {', '.join(found)}")


def _all_memory(rig: Rig) -> dict[str, bytes]:
    windows = {
        "flash": (FLASH_BASE, FLASH_SIZE),
        "main RAM": (RAM_BASE, RAM_SIZE),
        "PUF rows": (PUF_ROWS, PUF_ROWS_SIZE),
        "fuses, mailbox, doorbell, system page": (FUSE_SHADOW, RETENTION - FUSE_SHADOW),
        "mailbox": (MAILBOX, RETENTION - MAILBOX),
        "retention": (RETENTION, RETENTION_SIZE),
    }
    return {
        "SRAM": bytes(rig.engine.sram),
        **{name: bytes(rig.silicon.psram.view(base, size)) for name, (base, size) in windows.items()},
    }
