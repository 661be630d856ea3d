"""`fuseline chip show`: what stands in a chip's fuses and flash, for people."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from rich.markup import escape

from fuseline.cli.chip_output import ChipDir, OpenChip, bar, open_chip
from fuseline.cli.output import AsJson, console, print_json, print_table
from fuseline.device.silicon.fuse_map import LifeCycle
from fuseline.device.silicon.fuse_plans import COUNTER_STEPS
from fuseline.device.silicon.fuse_view import FuseView, KeySlotView, read_fuses
from fuseline.device.silicon.memory_map import (
    FLASH_BLOCK,
    FLASH_SIZE,
    HELPER_A,
    HELPER_B,
    IDEVID,
    LOADER_PRIMARY,
    LOADER_RECOVERY,
    LOADER_SLOT_SIZE,
)
from fuseline.errors import FuselineError
from fuseline.formats.mcuboot import parse_image
from fuseline.lab.chip.bench import Bench

_STATES: Final = ("BLANK", "TEST", "DEV", "PROD", "RMA", "SCRAP")


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the flash map.

    Attributes:
        name: For people.
        offset: In flash.
        size: In octets.
        holds: What stands there.
        blocks: One letter a block: `#` written, `.` erased.
        wear: Highest number of erasures of its blocks.
    """

    name: str
    offset: int
    size: int
    holds: str
    blocks: str
    wear: int

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data."""
        return {
            "name": self.name,
            "offset": self.offset,
            "size": self.size,
            "holds": self.holds,
            "blocks": self.blocks,
            "wear": self.wear,
        }


_REGIONS: Final = (
    ("loader, primary", LOADER_PRIMARY, LOADER_SLOT_SIZE),
    ("loader, recovery", LOADER_RECOVERY, LOADER_SLOT_SIZE),
    ("PUF helper A", HELPER_A, FLASH_BLOCK),
    ("PUF helper B", HELPER_B, FLASH_BLOCK),
    ("IDevID", IDEVID, FLASH_BLOCK),
    ("free", IDEVID + FLASH_BLOCK, FLASH_SIZE - IDEVID - FLASH_BLOCK),
)


def show(folder: ChipDir, /, *, as_json: AsJson = False) -> None:
    """Show a chip: its fuses as facts, its flash as a map, and how worn it is. Changes nothing."""
    with open_chip(folder) as chip:
        document = _document(chip)
        if as_json:
            print_json({"chip": str(folder), **document})
        else:
            _show_fuses(chip)
            _show_flash(chip.bench)


def _document(chip: OpenChip) -> dict[str, Any]:
    silicon = chip.bench.silicon
    conditions = silicon.puf.conditions
    return {
        **_view(chip.bench).as_dict(),
        "debug": silicon.debug.name,
        "half_blown": len(silicon.fuses.content().half_blown),
        "boots": silicon.boot_count,
        "temperature_c": conditions.temperature_c,
        "age_years": conditions.age_years,
        "fuse_digest": silicon.fuses.digest().hex(),
        "flash_digest": silicon.flash.digest().hex(),
        "flash": [region.as_dict() for region in _regions(chip.bench)],
    }


def _view(bench: Bench) -> FuseView:
    return read_fuses(bench.silicon.fuses.words())


def _show_fuses(chip: OpenChip) -> None:
    silicon, view = chip.bench.silicon, _view(chip.bench)
    console.print(f"[bold]chip {view.chip_id.hex() if view.chip_id else 'without id'}[/]", soft_wrap=True)
    _fact("life cycle", _life_cycle(view.life_cycle))
    if view.product is not None:
        _fact("product", f"{view.product:#010x}, hardware revision {view.hardware_revision}")
    _fact("PUF", "enrolled" if view.puf_enrolled else "not enrolled")
    _fact("debug port", f"{silicon.debug.name} at reset")
    authority = view.debug_authority.hex() if view.debug_authority else "nobody can unlock"
    _fact("debug authority", authority)
    for counter, value in view.counters.items():
        name = counter.name.lower().replace("_", " ")
        _fact(f"{name} counter", f"{bar(value, COUNTER_STEPS)} {value} of {COUNTER_STEPS}")
    half_blown = len(silicon.fuses.content().half_blown)
    if half_blown:
        _fact("half-blown fuses", f"[yellow]{half_blown}[/]")
    for fault in view.faults:
        advice = "can be completed" if fault.completable else "for ever"
        _fact("integrity fault", f"[red]{escape(f'{fault.field}: {fault.problem}, {advice}')}[/]")
    rows = [_key_row(key, view.life_cycle) for key in view.keys]
    print_table("Key slots", ["slot", "type", "state", "SHA-256 of the key"], rows)


def _key_row(key: KeySlotView, life_cycle: LifeCycle) -> list[str]:
    if key.key_hash is None and key.key_type is None and not key.valid:
        state = "revoked, empty" if key.revoked else "empty"
    elif key.revoked:
        state = "revoked"
    elif not key.valid:
        state = "not valid"
    else:
        state = "usable" if key.usable_in(life_cycle) else f"not taken in {life_cycle.name}"
    kind = key.key_type.name if key.key_type else ""
    return [str(key.slot), kind, state, key.key_hash.hex() if key.key_hash else ""]


def _life_cycle(now: LifeCycle) -> str:
    return " → ".join(
        f"[bold reverse] {name} [/]" if name == now.name else f"[dim]{name}[/]" for name in _STATES
    )


def _regions(bench: Bench) -> list[Region]:
    return [_region(bench, name, offset, size) for name, offset, size in _REGIONS]


def _region(bench: Bench, name: str, offset: int, size: int) -> Region:
    flash = bench.silicon.flash
    starts = range(offset, offset + size, FLASH_BLOCK)
    erased = b"\xff" * FLASH_BLOCK
    blocks = "".join("." if flash.read(start, FLASH_BLOCK) == erased else "#" for start in starts)
    holds = "erased" if set(blocks) == {"."} else _content(bench, name, flash.read(offset, size))
    return Region(name, offset, size, holds, blocks, max(flash.wear(start) for start in starts))


def _content(bench: Bench, name: str, content: bytes) -> str:
    if name.startswith("loader"):
        try:
            image = parse_image(content)
        except FuselineError as error:
            return f"no image: {error.message}"
        return f"version {image.version}, counter {image.security_counter}, digest {image.digest.hex()[:16]}…"
    if name == "IDevID":
        certificate = bench.read_identity()
        return certificate.issuer.rfc4514_string() if certificate else "no certificate"
    return f"SHA-256 {hashlib.sha256(content).hexdigest()[:16]}…"


def _show_flash(bench: Bench) -> None:
    console.print("[bold]Flash[/]  [dim]one sign a block of 4 KiB: █ written, · erased[/]")
    for region in _regions(bench):
        # 64 signs a line: the free part has hundreds of blocks.
        lines = [
            region.blocks[at : at + 64].replace("#", "█").replace(".", "·")
            for at in range(0, len(region.blocks), 64)
        ]
        wear = f"  [dim]wear {region.wear}[/]" if region.wear else ""
        console.print(
            f"  {region.offset:#08x}  {region.name:<18}{escape(region.holds)}{wear}", soft_wrap=True
        )
        for line in lines:
            console.print(f"            [cyan]{line}[/]", soft_wrap=True)


def _fact(name: str, value: str) -> None:
    console.print(f"  [dim]{name:<20}[/]{value}", soft_wrap=True)
