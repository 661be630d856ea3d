"""Faults in the processor: what a glitch does to an instruction or a register, at a chosen moment.

A campaign starts a chip, steps to a moment, keeps a snapshot, and then, again and again, goes back to it,
makes one fault, and lets the chip run on. The next stage stands in main RAM, so the first instruction
fetched from there ends the run: `FaultProbe.left_rom`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from unicorn import arm_const as arm
from unicorn.unicorn_const import UC_HOOK_CODE

from fuseline.device.silicon import memory_map as m
from fuseline.device.silicon.cortexm.unicorn_core import XPSR_IT
from fuseline.device.silicon.engine import Limits, Stop, StopKind
from fuseline.device.silicon.unicorn_engine import EngineSnapshot, UnicornEngine

if TYPE_CHECKING:
    from fuseline.device.silicon.run import Run
    from fuseline.device.silicon.silicon import Silicon

REGISTERS: Final = (
    *(f"r{number}" for number in range(13)),
    "sp",
    "lr",
    "flags",
)
"""What can be read and overwritten; `flags` are N, Z, C, V in bits 31 to 28."""
_UNICORN_REGISTERS: Final = {
    **{f"r{number}": arm.UC_ARM_REG_R0 + number for number in range(13)},
    "sp": arm.UC_ARM_REG_SP,
    "lr": arm.UC_ARM_REG_LR,
    "flags": arm.UC_ARM_REG_APSR_NZCV,
}
_ONE: Final = Limits(instructions=1)
_NOP: Final = {2: bytes.fromhex("00bf"), 4: bytes.fromhex("aff30080")}


class FaultProbe:
    """One chip in an engine, under the hands of whoever makes faults.

    Args:
        silicon: The chip, fresh from its reset.
        rom: What stands at address 0.
        engine: Runs the chip; a new one by default. It serves this probe alone until `close`.

    Attributes:
        engine: Runs the chip.
        left_rom: Address of the first instruction fetched from main RAM; None if there was none.
    """

    def __init__(self, silicon: Silicon, rom: bytes, engine: UnicornEngine | None = None) -> None:
        self.engine = engine or UnicornEngine()
        self.left_rom: int | None = None
        self._cpu = self.engine.cpu
        self._hook = self._cpu.uc.hook_add(
            UC_HOOK_CODE, self._on_main_ram, begin=m.RAM_BASE, end=m.RAM_BASE + m.RAM_SIZE - 1
        )
        self.engine.start(silicon, rom)

    def close(self) -> None:
        """Give the engine back."""
        self._cpu.uc.hook_del(self._hook)

    def _on_main_ram(self, _uc: object, address: int, _size: int, _data: object) -> None:
        if self.left_rom is None:
            self.left_rom = address
            self._cpu.request_stop(Stop(StopKind.EXIT, 0, f"main RAM was entered at {address:#010x}"))

    # Going on

    @property
    def pc(self) -> int:
        """Address of the next instruction."""
        return self._cpu.pc

    @property
    def instructions(self) -> int:
        """Executed since the engine was made."""
        return self._cpu.instructions

    def step(self) -> Stop | None:
        """Execute the next instruction. An IT instruction takes its block along, or the first part of it.

        Returns:
            How the run ended, if it did.
        """
        stop = self.engine.resume(_ONE).stop
        return None if stop.kind is StopKind.TIMEOUT else stop

    def resume(self, limits: Limits) -> Run:
        """Let the chip run on; ends at the first instruction fetched from main RAM."""
        return self.engine.resume(limits)

    # Going back

    def snapshot(self) -> EngineSnapshot:
        """Return everything at this moment."""
        return self.engine.snapshot()

    def restore(self, snapshot: EngineSnapshot) -> None:
        """Go back to a moment before the ROM was left."""
        self.engine.restore(snapshot)
        self.left_rom = None

    # Faults

    @property
    def inside_it_block(self) -> bool:
        """Whether the next instruction belongs to an IT block whose IT instruction was executed already."""
        return bool(self._cpu.uc.reg_read(arm.UC_ARM_REG_XPSR) & XPSR_IT)

    def upcoming(self) -> tuple[int, ...]:
        """Return the addresses of the next instruction and, if that is IT, of those in its block.

        Raises:
            RuntimeError: The processor is not in the ROM.
        """
        return (self.pc, *self.block_at(self.pc))

    def block_at(self, address: int) -> tuple[int, ...]:
        """Return where the instructions stand of the IT block that the one at `address` begins, if any."""
        addresses, at = [], address
        for _ in range(_it_block_length(self._halfword(address))):
            at += self.size_at(at)
            addresses.append(at)
        return tuple(addresses)

    def size_at(self, address: int) -> int:
        """Return how many octets the instruction at `address` in the ROM has (Armv7-M A5.1)."""
        return 4 if self._halfword(address) >> 11 >= 0b11101 else 2

    def skip(self, index: int = 0) -> Stop | None:
        """Do not execute one of the upcoming instructions.

        The first one is jumped over. One inside an IT block becomes a NOP for once, and all up to it are
        executed.

        Args:
            index: Which of `upcoming`.

        Returns:
            How the run ended, if it did.
        """
        if index == 0 and not self.inside_it_block:
            self._cpu.pc += self.size_at(self.pc)
            return None
        address = self.upcoming()[index]
        size, rom = self.size_at(address), self._cpu.memory.view(m.ROM_BASE)
        original = bytes(rom[address : address + size])
        self._patch(address, _NOP[size])
        try:
            return self._step_over(index)
        finally:
            self._patch(address, original)

    def load_zeros(self, address: int, size: int, index: int = 0) -> Stop | None:
        """Let one of the upcoming instructions find zeros where it loads from.

        What it loads from is not changed. Inside an IT block, all instructions up to it are executed, and
        find the zeros too if they load from the same place.

        Args:
            address: Of a load of that instruction, in memory.
            size: Of the load in octets.
            index: Which of `upcoming`.

        Returns:
            How the run ended, if it did.
        """
        view = self.memory_at(address, size)
        if view is None:
            raise RuntimeError(f"there are no {size} octets of memory at {address:#010x}")
        original = bytes(view)
        view[:] = bytes(size)
        try:
            return self._step_over(index)
        finally:
            # Unless something was stored there by the same step.
            if not any(view):
                view[:] = original

    def memory_at(self, address: int, size: int) -> memoryview | None:
        """Return memory that the processor sees, writable; None for devices and where there is nothing."""
        memory = self._cpu.memory
        for base, _ in memory.all_access():
            view, offset = memory.view(base), address - base
            if 0 <= offset <= len(view) - size:
                return view[offset : offset + size]
        return None

    def _step_over(self, index: int) -> Stop | None:
        """Execute the upcoming instructions up to `index`, in one step or in several."""
        end = self.instructions + index
        while True:
            stop = self.step()
            if stop is not None or self.instructions > end:
                return stop

    def flip_inside(self, index: int, register: str, bit: int) -> Stop | None:
        """Flip one bit of one of `REGISTERS` right before one of the upcoming instructions in an IT block.

        Args:
            index: Which of `upcoming`; that instruction is executed.
            register: Which register.
            bit: Which bit.

        Returns:
            How the run ended, if it did.
        """
        address = self.upcoming()[index]
        done: list[int] = []

        def on_instruction(_uc: object, at: int, _size: int, _data: object) -> None:
            if not done:
                done.append(at)
                self.flip(register, bit)

        hook = self._cpu.uc.hook_add(UC_HOOK_CODE, on_instruction, begin=address, end=address)
        self._cpu.code_changed(address, self.size_at(address))
        try:
            return self._step_over(index)
        finally:
            self._cpu.uc.hook_del(hook)
            self._cpu.code_changed(address, self.size_at(address))

    def read(self, register: str) -> int:
        """Return one of `REGISTERS`."""
        return int(self._cpu.uc.reg_read(_UNICORN_REGISTERS[register]))

    def write(self, register: str, value: int) -> None:
        """Overwrite one of `REGISTERS`."""
        self._cpu.uc.reg_write(_UNICORN_REGISTERS[register], value)

    def flip(self, register: str, bit: int) -> None:
        """Flip one bit of one of `REGISTERS`."""
        self.write(register, self.read(register) ^ 1 << bit)

    def _halfword(self, address: int) -> int:
        if not 0 <= address < m.ROM_SIZE:
            raise RuntimeError(f"{address:#010x} is not in the ROM")
        (value,) = struct.unpack_from("<H", self._cpu.memory.view(m.ROM_BASE), address)
        return int(value)

    def _patch(self, address: int, octets: bytes) -> None:
        self._cpu.memory.view(m.ROM_BASE)[address : address + len(octets)] = octets
        self._cpu.code_changed(address, len(octets))


def _it_block_length(halfword: int) -> int:
    """Return how many instructions follow an IT instruction; 0 for any other (Armv7-M A7.7.37)."""
    mask = halfword & 0xF
    if halfword & 0xFF00 != 0xBF00 or not mask:
        return 0
    return 4 - ((mask & -mask).bit_length() - 1)
