"""What a boot executes when nothing disturbs it: every instruction in order, and what each one loads."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from unicorn import arm_const as arm
from unicorn.unicorn_const import UC_HOOK_CODE, UC_HOOK_MEM_READ

from fuseline.device.silicon import memory_map as m
from fuseline.device.silicon.cortexm.unicorn_core import XPSR_IT
from fuseline.device.silicon.engine import Limits, Stop, StopKind
from fuseline.device.silicon.fault_probe import FaultProbe
from fuseline.lab.faults.engine import WatchedEngine

if TYPE_CHECKING:
    from fuseline.device.silicon.rom import RomImage
    from fuseline.lab.faults.targets import Target

LIMIT: Final = Limits(instructions=1_000_000)
"""A boot takes some ten thousand instructions."""


@dataclass(frozen=True, slots=True)
class Executed:
    """One executed instruction.

    Attributes:
        address: Where it stands.
        place: 0, or its number in the IT block that it belongs to, from 1.
        loads: Address and size of each of its loads from memory that gave something else than zero.
    """

    address: int
    place: int
    loads: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """A boot.

    Attributes:
        executed: In order.
        starts: Where in `executed` an instruction stands that is in no IT block.
        stop: How the run ended.
    """

    executed: tuple[Executed, ...]
    starts: tuple[int, ...]
    stop: Stop

    def __len__(self) -> int:
        return len(self.executed)

    def unit(self, index: int) -> range:
        """Return the instructions from the start at `index` to the next one: one, or an IT block."""
        after = bisect.bisect_right(self.starts, index)
        return range(index, self.starts[after] if after < len(self.starts) else len(self.executed))


def record(target: Target, rom: RomImage) -> Trace:
    """Run a target once, undisturbed.

    Raises:
        RuntimeError: The boot does not end in time.
    """
    probe = FaultProbe(target.prepare(rom), rom.binary, WatchedEngine())
    addresses: list[int] = []
    places: list[int] = []
    loads: dict[int, list[tuple[int, int]]] = {}

    def on_instruction(_uc: object, address: int, _size: int, _data: object) -> None:
        left = block.pop(0) if block and block[0] == address else None
        if left is None:
            block[:] = probe.block_at(address)
        places.append(places[-1] + 1 if left is not None else 0)
        addresses.append(address)

    def on_load(_uc: object, _access: int, address: int, size: int, _value: int, _data: object) -> None:
        # Unicorn 2.1.4 leaves IT state behind when a load in an IT block has a hook, and later instructions
        # are skipped: the block's own conditions are in its translation, so nothing here needs that state.
        xpsr = int(uc.reg_read(arm.UC_ARM_REG_XPSR))
        if xpsr & XPSR_IT:
            uc.reg_write(arm.UC_ARM_REG_XPSR, xpsr & ~XPSR_IT)
        memory = probe.memory_at(address, size)
        # Devices are not disturbed: of them the ROM reads only the state of the UART, which is zero anyway.
        if memory is not None and any(memory):
            loads.setdefault(len(addresses) - 1, []).append((address, size))

    block: list[int] = []
    uc = probe.engine.cpu.uc
    uc.hook_add(UC_HOOK_CODE, on_instruction, begin=m.ROM_BASE, end=m.ROM_BASE + m.ROM_SIZE - 1)
    uc.hook_add(UC_HOOK_MEM_READ, on_load)
    stop = probe.resume(LIMIT).stop
    unobserved = FaultProbe(target.prepare(rom), rom.binary, WatchedEngine()).resume(LIMIT).stop
    if stop != unobserved or stop.kind is StopKind.TIMEOUT:
        raise RuntimeError(
            f"without a fault, the boot does not end, or not as observed: {stop}, {unobserved}"
        )
    executed = tuple(
        Executed(address, place, tuple(loads.get(index, ())))
        for index, (address, place) in enumerate(zip(addresses, places, strict=True))
    )
    starts = tuple(index for index, place in enumerate(places) if place == 0)
    return Trace(executed, starts, stop)
