"""Attacks by code in the loader's place: what the ROM should have taken away before it jumped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.commands import EXEC_ENABLE_WORD, Command, KeySlot, Lock, Status
from fuseline.device.silicon.fuse_map import LifeCycle
from fuseline.device.silicon.memory_map import (
    FLASH_BASE,
    FLASH_BLOCK,
    FUSE_SHADOW,
    HELPER_A,
    HELPER_B,
    IDEVID,
    LOADER_PRIMARY,
    LOADER_RAM,
    MAILBOX,
    MAILBOX_DATA,
    PUF_ROWS,
    PUF_ROWS_SIZE,
    RAM_BASE,
    RETENTION,
    ROM_BASE,
    ROM_RAM_BASE,
    ROM_RAM_SIZE,
    SRAM_BASE,
    SYSTEM,
    DebugState,
    ResetReason,
    Strap,
    SystemWord,
)
from fuseline.device.silicon.report import Outcome
from fuseline.lab.chip_attacks.forge import COUNTER, ImageSpec, assemble, counter_tlv, credentials, forge
from fuseline.lab.chip_attacks.model import Attempt, Effort, escaped, expect, judge
from fuseline.lab.chip_attacks.puppet import Row, command, load, puppet, puppet_spec, read_notes, scan, store
from fuseline.lab.chip_attacks.rig import BeforeFirstInstruction, with_life_cycle

if TYPE_CHECKING:
    from fuseline.device.silicon.silicon import Silicon, SiliconSnapshot
    from fuseline.lab.chip_attacks.rig import Rig

_DATA: Final = MAILBOX + MAILBOX_DATA
_HEADER: Final = 0x200
_RECORD: Final = RETENTION + 0x100
"""The ROM's record for an update reset (chip/rom/update.c)."""
_RECORD_OCTETS: Final = 4 * (4 + 16 + 8)
_ROOTS: Final = (KeySlot.UDS, KeySlot.IDEVID_CDI, KeySlot.IDEVID_KEY)
_OPEN_SLOTS: Final = (KeySlot.LOADER_CDI, KeySlot.LOADER_KEY)
_CANNOT_REACH: Final = (ROM_BASE, SRAM_BASE, ROM_RAM_BASE, PUF_ROWS, SYSTEM, RETENTION, MAILBOX, 0xFFFF_FFF0)
_CANNOT_WRITE: Final = (*_CANNOT_REACH, FUSE_SHADOW, FLASH_BASE, FLASH_BASE + HELPER_A)


def _uses(slot: KeySlot) -> Iterator[Row]:
    """Every command that uses a secret or a key."""
    name = slot.name
    yield command(
        f"derive from {name}", Command.KEY_DERIVE, slot, KeySlot.GENERAL_0, LOADER_RAM, 4, LOADER_RAM, 4
    )
    yield command(f"key pair from {name}", Command.KEY_PAIR, slot, KeySlot.GENERAL_1, LOADER_RAM, 4, _DATA)
    yield command(f"sign with {name}", Command.KEY_SIGN, slot, LOADER_RAM, _DATA)
    yield command(f"check value of {name}", Command.KEY_CHECK_VALUE, slot, _DATA)
    yield command(f"HMAC with {name}", Command.KEY_HMAC, slot, LOADER_RAM, 32, _DATA)
    yield command(f"AES with {name}", Command.KEY_AES_CTR, slot, LOADER_RAM, LOADER_RAM, 32, _DATA)


def _fills(slot: KeySlot) -> Iterator[Row]:
    """Every command that puts something into a slot."""
    source = KeySlot.LOADER_CDI
    yield command(f"derive into {slot.name}", Command.KEY_DERIVE, source, slot, LOADER_RAM, 4, LOADER_RAM, 4)
    yield command(f"key pair into {slot.name}", Command.KEY_PAIR, source, slot, LOADER_RAM, 4, _DATA)


def _refused_commands() -> Iterator[Row]:
    for slot in _ROOTS:
        yield from _uses(slot)
        yield from _fills(slot)
    for helper in (FLASH_BASE + HELPER_A, FLASH_BASE + HELPER_B, RAM_BASE):
        yield command(f"reconstruct from {helper:#x}", Command.PUF_RECONSTRUCT, helper)
    yield command("enrol", Command.PUF_ENROL, RAM_BASE + 0x1_0000)
    yield command("open debug", Command.DEBUG_OPEN)
    yield command("make RAM executable again", Command.EXEC_ENABLE, EXEC_ENABLE_WORD)
    yield command("take all locks back", Command.LOCK, 0)
    for block in (HELPER_A, HELPER_B, IDEVID):
        yield command(f"erase flash {block:#x}", Command.FLASH_ERASE, block)
        yield command(f"program flash {block:#x}", Command.FLASH_PROGRAM, block, LOADER_RAM, 4)
    yield command("program across into the helper data", Command.FLASH_PROGRAM, HELPER_A - 4, LOADER_RAM, 8)


def _commands_out_of_reach() -> Iterator[Row]:
    for address in _CANNOT_REACH:
        yield command(f"have {address:#010x} hashed", Command.SHA256, address, 16, _DATA)
        yield command(
            f"have {address:#010x} encrypted",
            Command.KEY_AES_CTR,
            KeySlot.LOADER_CDI,
            LOADER_RAM,
            address,
            16,
            _DATA,
        )
        yield command(f"have {address:#010x} programmed", Command.FLASH_PROGRAM, 0x8_0000, address, 16)
    for address in _CANNOT_WRITE:
        yield command(f"have a digest written to {address:#010x}", Command.SHA256, LOADER_RAM, 16, address)
        yield command(f"have noise written to {address:#010x}", Command.TRNG_READ, address, 16)
        yield command(
            f"have a key written to {address:#010x}",
            Command.KEY_PAIR,
            KeySlot.LOADER_CDI,
            KeySlot.GENERAL_2,
            LOADER_RAM,
            4,
            address,
        )


def _locked_memory() -> Iterator[Row]:
    for at in range(0, PUF_ROWS_SIZE, 256):
        yield load(f"read PUF rows at {at:#x}", PUF_ROWS + at)
    for name, address in (
        ("ROM", ROM_BASE + 0x100),
        ("flash", FLASH_BASE + HELPER_A),
        ("fuse shadow", FUSE_SHADOW),
        ("system page", SYSTEM + 4 * SystemWord.DEBUG),
        ("PUF rows", PUF_ROWS),
    ):
        yield store(f"write to {name}", address, 0)


def use_what_is_locked(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Give every command that needs a root key, the PUF or the factory's work; reach into closed memory."""
    controls = [row for slot in _OPEN_SLOTS for row in _uses(slot)]
    groups = (list(_refused_commands()), list(_commands_out_of_reach()), list(_locked_memory()))
    stale = [scan("read the ROM's RAM", ROM_RAM_BASE, ROM_RAM_SIZE)]
    rows = [*controls, *groups[0], *groups[1], *groups[2], *stale]
    spec = puppet_spec(rows)
    silicon = rig.insert()
    flash = silicon.flash.read(HELPER_A, 3 * FLASH_BLOCK)
    report = rig.boot(forge(spec, rig.keys.loader))
    if report.outcome is not Outcome.BOOTED or report.exit_status != 0:
        yield escaped("code in the loader's place", "could not be tried: it does not run to its end")
        return
    notes = read_notes(silicon, rows)
    noted = dict(zip(rows, notes.rows, strict=True))
    worked = sum(noted[row].status is Status.OK for row in controls)
    # A secret does not sign, and a key pair derives nothing: five uses and one.
    yield expect("the loader's own keys, as a control", worked == 6, "they work", f"{worked} of 12 uses work")
    for row in groups[0]:
        # LOCK takes bits to set; none of them unlocks, and what follows shows that nothing did.
        done = noted[row].status is Status.OK and row.words[1] != Command.LOCK
        yield expect(row.what, not done, noted[row].status.name, "done")
    for row in groups[1]:
        yield expect(
            row.what, noted[row].status is Status.BAD_ARGUMENT, "BAD_ARGUMENT", noted[row].status.name
        )
    for row in groups[2]:
        note = noted[row]
        yield expect(row.what, note.faults == 1, "fault", f"no fault, {note.value:#010x}")
    yield expect(
        stale[0].what,
        noted[stale[0]].value == 0 and noted[stale[0]].faults == 0,
        "erased",
        f"{noted[stale[0]].value:#010x}",
    )
    entry = LOADER_RAM + _HEADER
    for number, value in enumerate(notes.registers):
        # lr is how the ROM jumps; PSP comes from reset.
        due = value == 0 or (number == 13 and value - 1 - entry < len(spec.payload))
        yield expect(f"register {number} at entry", due, "erased", f"{value:#010x}")
    left = silicon.flash.read(HELPER_A, 3 * FLASH_BLOCK)
    yield expect("helper data and certificate", left == flash, "untouched", "changed")
    for lock in (Lock.FUSES_FACTORY, Lock.FLASH_IDENTITY, Lock.DEBUG, Lock.KEY_ROOTS, Lock.PUF, Lock.EXEC):
        yield expect(f"lock {lock.name}", bool(silicon.locks & lock), "closed", "open")


# --- update reset ----------------------------------------------------------------------------------------


def _meddle_with(rows: list[Row]) -> list[Row]:
    return [*rows, command("ask for an update reset", Command.RESET, ResetReason.UPDATE)]


def update_reset(rig: Rig, effort: Effort) -> Iterator[Attempt]:
    """Have the ROM start something else while the last boot's identity is still in the key slots."""
    spec, keys = ImageSpec(), rig.keys
    loader = forge(spec, keys.loader)
    rig.insert()
    rig.boot(loader)
    ready = rig.silicon.snapshot()
    rig.insert(ready)
    good = rig.boot(loader, reason=ResetReason.UPDATE)
    if good.outcome is not Outcome.BOOTED:
        yield escaped("an honest update reset, as a control", f"does not boot: {good.error}")
    yield from _other_loaders(rig, ready)
    yield from _forged_records(rig, ready, effort)
    yield from _other_states(rig, ready)
    for strap in (Strap.DEBUG, Strap.PROVISION):
        rig.insert(ready)
        yield judge(
            f"strap {strap.name}", rig.boot(loader, reason=ResetReason.UPDATE, strap=strap), "E_ROM_STRAP"
        )
    rig.insert()
    yield judge("without a boot before", rig.boot(loader, reason=ResetReason.UPDATE), "E_ROM_UPDATE_RECORD")
    yield from _asked_by_the_loader(rig)


def _other_loaders(rig: Rig, ready: SiliconSnapshot) -> Iterator[Attempt]:
    spec, keys = ImageSpec(), rig.keys
    older = ImageSpec(protected=(counter_tlv(COUNTER - 1),))
    for what, image, code in (
        ("a loader of another key slot", forge(spec, keys.ed25519), "E_ROM_UPDATE_KEY"),
        ("an older loader", forge(older, keys.loader), "E_ROM_ROLLBACK"),
        ("a stranger's loader", forge(spec, keys.stranger), "E_ROM_KEY_UNKNOWN"),
        ("a revoked loader", forge(spec, keys.revoked), "E_ROM_KEY_REVOKED"),
        ("an unsigned loader", assemble(spec, credentials(spec, keys.loader)[:2]), "E_ROM_UNSIGNED"),
    ):
        rig.insert(ready)
        yield judge(what, rig.boot(image, reason=ResetReason.UPDATE), code)


def _forged_records(rig: Rig, ready: SiliconSnapshot, effort: Effort) -> Iterator[Attempt]:
    loader = forge(ImageSpec(), rig.keys.loader)
    foreign = _record_of_another(rig)
    for bit in effort.pick(range(8 * _RECORD_OCTETS), 13):
        record = rig.insert(ready).psram.view(_RECORD, _RECORD_OCTETS)
        record[bit // 8] ^= 1 << bit % 8
        yield judge(f"record bit {bit}", rig.boot(loader, reason=ResetReason.UPDATE), "E_ROM_UPDATE_RECORD")
    for what, octets in (("another chip's record", foreign), ("no record", bytes(_RECORD_OCTETS))):
        rig.insert(ready).psram.view(_RECORD, _RECORD_OCTETS)[:] = octets
        yield judge(what, rig.boot(loader, reason=ResetReason.UPDATE), "E_ROM_UPDATE_RECORD")


def _record_of_another(rig: Rig) -> bytes:
    rig.start(forge(ImageSpec(), rig.keys.loader), snapshot=rig.victims.other)
    return bytes(rig.silicon.psram.view(_RECORD, _RECORD_OCTETS))


def _other_states(rig: Rig, ready: SiliconSnapshot) -> Iterator[Attempt]:
    loader = forge(ImageSpec(), rig.keys.loader)
    for state, code in ((LifeCycle.RMA, "E_ROM_UPDATE_STATE"), (LifeCycle.SCRAP, "E_ROM_LIFE_CYCLE_SCRAP")):
        rig.insert(with_life_cycle(ready, state))
        yield judge(f"moved on to {state.name}", rig.boot(loader, reason=ResetReason.UPDATE), code)
    # In DEV the ROM cannot know from the life cycle whether the port may be open.
    rig.start(loader, snapshot=rig.victims.dev)
    opened = BeforeFirstInstruction(rig.engine, _set_system_word(SystemWord.DEBUG, DebugState.OPEN))
    report = rig.boot(loader, reason=ResetReason.UPDATE, engine=opened)
    yield judge("debug opened in between, in DEV", report, "E_ROM_UPDATE_STATE")


def _asked_by_the_loader(rig: Rig) -> Iterator[Attempt]:
    """Code in the loader's place swaps the loader in flash, edits the record, and asks for the reset."""
    other = forge(ImageSpec(), rig.keys.ed25519)
    words = [int.from_bytes(other[at : at + 4], "little") for at in range(0, len(other), 4)]
    swap = [
        command("erase the loader", Command.FLASH_ERASE, LOADER_PRIMARY),
        *(
            store("copy a loader of another key slot", RAM_BASE + 0x1_8000 + 4 * at, word)
            for at, word in enumerate(words)
        ),
        command("program it", Command.FLASH_PROGRAM, LOADER_PRIMARY, RAM_BASE + 0x1_8000, len(words) * 4),
    ]
    point = [store("point the record to that slot", _RECORD + 12, 1)]
    for what, rows, code in (
        ("the loader swaps itself", swap, "E_ROM_UPDATE_KEY"),
        ("the loader swaps itself and edits the record", [*swap, *point], "E_ROM_UPDATE_RECORD"),
    ):
        rig.insert()
        yield judge(what, rig.boot(puppet(_meddle_with(rows), rig.keys.loader)), code)


# --- what the ROM reads of its pins ----------------------------------------------------------------------


def _set_system_word(word: SystemWord, value: int) -> Callable[[Silicon], None]:
    def meddle(silicon: Silicon) -> None:
        silicon.psram.view(SYSTEM + 4 * word, 4)[:] = value.to_bytes(4, "little")

    return meddle


def system_words(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Have the ROM read a reset reason, strap, revision or debug state that is off by a bit, or no word."""
    loader = forge(ImageSpec(), rig.keys.loader)
    for word, true, code in (
        (SystemWord.RESET_REASON, int(ResetReason.COLD), "E_ROM_RESET_REASON"),
        (SystemWord.STRAP, int(Strap.NORMAL), "E_ROM_STRAP"),
        (SystemWord.REVISION, 1, "E_ROM_REVISION"),
        (SystemWord.DEBUG, int(DebugState.LOCKED), "E_ROM_DEBUG_STATE"),
    ):
        values = [*(true ^ 1 << bit for bit in range(32)), 0xFFFF_FFFF, 0x5555_5555]
        for value in (one for one in [*values, 0] if one != true):
            rig.insert()
            report = rig.boot(
                loader, engine=BeforeFirstInstruction(rig.engine, _set_system_word(word, value))
            )
            yield judge(f"{word.name.lower()} reads {value:#010x}", report, code)
    rig.insert()
    opened = BeforeFirstInstruction(rig.engine, _set_system_word(SystemWord.DEBUG, DebugState.OPEN))
    yield judge("debug reads open in PROD", rig.boot(loader, engine=opened), "E_ROM_DEBUG_STATE")
    faked = BeforeFirstInstruction(rig.engine, _set_system_word(SystemWord.RESET_REASON, ResetReason.UPDATE))
    rig.insert()
    yield judge("a cold reset reads as an update", rig.boot(loader, engine=faked), "E_ROM_UPDATE_RECORD")
