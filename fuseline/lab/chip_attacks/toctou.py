"""Attacks that change the flash while the ROM reads it: time of check to time of use."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.command_port import CommandPort
from fuseline.device.silicon.engine import Limits
from fuseline.device.silicon.memory_map import LOADER_PRIMARY, LOADER_RAM
from fuseline.device.silicon.report import BootReport, Outcome
from fuseline.lab.chip_attacks.forge import (
    COUNTER,
    ImageSpec,
    assemble,
    counter_tlv,
    credentials,
    forge,
    stop_payload,
)
from fuseline.lab.chip_attacks.model import Attempt, Effort, Verdict, escaped, judge
from fuseline.lab.chip_attacks.rig import LIMITS, AtCommand, AtInstruction

if TYPE_CHECKING:
    from fuseline.device.silicon.silicon import Silicon
    from fuseline.lab.chip_attacks.rig import Rig

_MARK: Final = bytes.fromhex("bff34f8f") * 2
"""dsb; does nothing, and tells the attacker's code from the owner's."""


class _Swap:
    """Two images of one size: the owner's, and the one that the attacker wants to run."""

    def __init__(self, rig: Rig, name: str) -> None:
        keys = rig.keys
        spec = ImageSpec(payload=stop_payload() + bytes(len(_MARK)))
        evil = ImageSpec(payload=stop_payload() + _MARK)
        older = ImageSpec(payload=stop_payload() + _MARK, protected=(counter_tlv(COUNTER - 1),))
        self.spec = spec
        self.good = forge(spec, keys.loader)
        self.evil = {
            "unsigned": assemble(evil, credentials(spec, keys.loader)),
            "signed by a stranger": forge(evil, keys.stranger),
            "signed and older": forge(older, keys.loader),
        }[name]

    def judge(self, what: str, rig: Rig, report: BootReport) -> Attempt:
        """Only what was measured may run, and only the owner's image may be measured."""
        if report.outcome is not Outcome.BOOTED:
            return judge(what, report)
        hashed = self.spec.hashed()
        loaded = bytes(rig.silicon.psram.view(LOADER_RAM, len(hashed)))
        record = report.record
        if record is None or loaded != hashed or record.measurement != hashlib.sha256(hashed).digest():
            return escaped(what, "runs what was not measured")
        return Attempt(what, Verdict.EQUAL, "runs the signed copy")


_NAMES: Final = ("unsigned", "signed by a stranger", "signed and older")


def swap_at_each_command(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Swap the image in flash before each command that the ROM gives, in both directions."""
    for name in _NAMES:
        swap = _Swap(rig, name)
        for direction, before, after in (
            ("owner's becomes", swap.good, swap.evil),
            ("owner's was", swap.evil, swap.good),
        ):
            number = 0
            done = False
            while not done:
                number += 1
                report, rung = _swapped_at(rig, number, before, after)
                done = rung < number
                yield swap.judge(f"{direction} {name}, command {number}", rig, report)


def _swapped_at(rig: Rig, number: int, before: bytes, after: bytes) -> tuple[BootReport, int]:
    silicon = rig.insert()

    def write(chip: Silicon) -> None:
        chip.flash.external_write(LOADER_PRIMARY, after)

    port = AtCommand(silicon, number, write)
    silicon.port = port
    try:
        return rig.boot(before), port.rung
    finally:
        silicon.port = CommandPort(silicon)


def swap_at_each_instruction(rig: Rig, effort: Effort) -> Iterator[Attempt]:
    """Swap the image in flash at each instruction while the ROM copies it, and now and then around that."""
    for name in _NAMES:
        swap = _Swap(rig, name)
        first, last, total = _copying(rig, swap.good)
        around = [*range(1, first, 400), *range(first, last + 1), *range(last + 1, total, 400)]
        for direction, before, after in (
            ("owner's becomes", swap.good, swap.evil),
            ("owner's was", swap.evil, swap.good),
        ):
            for instruction in effort.pick(around, 5):
                rig.insert()

                def write(chip: Silicon, image: bytes = after) -> None:
                    chip.flash.external_write(LOADER_PRIMARY, image)

                report = rig.boot(before, engine=AtInstruction(rig.engine, instruction, write))
                yield swap.judge(f"{direction} {name}, instruction {instruction}", rig, report)


def _copying(rig: Rig, image: bytes) -> tuple[int, int, int]:
    """Return at which instructions the first and last octet of an image reach RAM, and how many there are."""
    silicon = rig.insert()
    silicon.flash.external_write(LOADER_PRIMARY, image)
    memory = silicon.psram.view(LOADER_RAM, len(image))
    memory[:] = bytes(len(image))
    silicon.reset()
    rig.engine.start(silicon, rig.rom.binary)
    step, done, first = 10, 0, 0
    while bytes(memory) != image:
        if not first and bytes(memory[:4]) == image[:4]:
            first = done
        stop = rig.engine.resume(Limits(seconds=LIMITS.seconds, instructions=step)).stop
        done += stop.instructions
        if silicon.stop is not None:
            break
    total = done + rig.engine.resume(LIMITS).stop.instructions
    return max(first - step, 1), done, total
