"""Runs instructions on Unicorn, and says why it stopped. Everything around the instructions is elsewhere.

What Unicorn 2.1.4 does otherwise than one would think, and what is done about it here:

- `emu_stop` in a memory callback leaves the program counter on the instruction, its side effect done: it
  would be done twice. Runs are cut short by lowering their instruction limit instead (`cut_short`), which
  takes effect between two instructions. Inside an IT block Unicorn stops at the block's end.
- A TLB callback in Python leaves IT state behind, so that later instructions are skipped. There is none here:
  the MPU is Unicorn's own, its registers are set in the saved context (`unicorn_layout`).
- Writing IPSR or CONTROL does not rebuild the flags by which code is translated; writing the condition flags
  does, so they are always written last.
- WFE and YIELD arrive as invalid instructions; unlike undefined ones they leave the syndrome register alone.
- CPACR is not obeyed: floating point always works.
- Division by zero does not trap, nor does unaligned LDM, STM, LDRD or STRD: CCR.DIV_0_TRP and CCR.UNALIGN_TRP
  are kept, not obeyed. Unaligned LDREX and STREX do fault.
- Code in a page of 1 KiB that an MPU region divides is translated anew each time: right, and slow.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from unicorn import arm_const as arm
from unicorn.unicorn_const import (
    UC_ERR_EXCEPTION,
    UC_ERR_FETCH_PROT,
    UC_ERR_FETCH_UNMAPPED,
    UC_ERR_INSN_INVALID,
    UC_ERR_READ_PROT,
    UC_ERR_READ_UNMAPPED,
    UC_ERR_WRITE_PROT,
    UC_ERR_WRITE_UNMAPPED,
    UC_HOOK_INSN_INVALID,
    UC_HOOK_INTR,
    UC_HOOK_MEM_INVALID,
)
from unicorn.unicorn_py3.unicorn import Uc, UcContext, uclib

from fuseline.device.silicon.cortexm.mpu import ENABLE, REGIONS, Mpu
from fuseline.device.silicon.cortexm.unicorn_layout import Engine, layout

XPSR_T: Final = 1 << 24
XPSR_IT: Final = 0x0600_FC00
CONTROL_NPRIV: Final = 1
CONTROL_SPSEL: Final = 2
CONTROL_FPCA: Final = 4

# Numbers that Unicorn's UC_HOOK_INTR reports (unicorn 2.1.4, qemu/target/arm/cpu.h, EXCP_*).
_SWI, _PREFETCH_ABORT, _DATA_ABORT, _BKPT, _EXCEPTION_EXIT, _NOCP = 2, 3, 4, 7, 8, 17
# Fault status of an unaligned access that must be aligned (same, internals.h, arm_fi_to_sfsc).
_FSR_ALIGNMENT = 0x1
_ALL_ONES_64 = 0xFFFF_FFFF_FFFF_FFFF


class Event(Enum):
    """Why instructions stopped."""

    LIMIT = auto()
    """The limit of the run, or `cut_short`."""
    WAIT_FOR_INTERRUPT = auto()
    WAIT_FOR_EVENT = auto()
    SUPERVISOR_CALL = auto()
    BREAKPOINT = auto()
    EXCEPTION_RETURN = auto()
    """The program counter is the EXC_RETURN value."""
    FETCH_DENIED = auto()
    ACCESS_DENIED = auto()
    """By the MPU or the default memory map, at `UnicornCore.address`."""
    FETCH_FAILED = auto()
    ACCESS_FAILED = auto()
    """By the bus, at `UnicornCore.address`."""
    UNALIGNED = auto()
    UNDEFINED = auto()
    INVALID_STATE = auto()
    NO_COPROCESSOR = auto()


_EXCEPTIONS = {
    _SWI: Event.SUPERVISOR_CALL,
    _PREFETCH_ABORT: Event.FETCH_DENIED,
    _DATA_ABORT: Event.ACCESS_DENIED,
    _BKPT: Event.BREAKPOINT,
    _EXCEPTION_EXIT: Event.EXCEPTION_RETURN,
    _NOCP: Event.NO_COPROCESSOR,
}
_ERRORS = {
    UC_ERR_FETCH_UNMAPPED: Event.FETCH_FAILED,
    UC_ERR_FETCH_PROT: Event.FETCH_FAILED,
    UC_ERR_READ_UNMAPPED: Event.ACCESS_FAILED,
    UC_ERR_READ_PROT: Event.ACCESS_FAILED,
    UC_ERR_WRITE_UNMAPPED: Event.ACCESS_FAILED,
    UC_ERR_WRITE_PROT: Event.ACCESS_FAILED,
}


class RegisterSet:
    """A fixed list of 32-bit registers, read or written in one call."""

    def __init__(self, engine: Engine, registers: Sequence[int]) -> None:
        count = len(registers)
        self._values = (ctypes.c_uint32 * count)()
        self._format = struct.Struct(f"={count}I")
        pointers = (ctypes.c_void_p * count)()
        start = ctypes.addressof(self._values)
        pointers[:] = [start + 4 * index for index in range(count)]
        self._arguments = (engine.handle, (ctypes.c_int * count)(*registers), pointers, count)

    def read(self) -> tuple[int, ...]:
        """Return the registers' values, in the order of the list."""
        uclib.uc_reg_read_batch(*self._arguments)
        return self._format.unpack(self._values)

    def write(self, *values: int) -> None:
        """Set the registers, in the order of the list."""
        self._format.pack_into(self._values, 0, *values)
        uclib.uc_reg_write_batch(*self._arguments)


@dataclass(slots=True)
class SavedCore:
    """A copy of the core: registers, MPU and monitor, and what this module adds."""

    context: UcContext
    pc: int
    thumb: int
    mpu_on: bool


class UnicornCore:
    """A Cortex-M4 with nothing around it.

    Attributes:
        engine: Unicorn itself.
        pc: Where the next run starts; bit 0 is clear. After `Event.EXCEPTION_RETURN`, the EXC_RETURN value.
        thumb: EPSR.T for the next run; 0 only after a branch to an even address.
        address: What an access fault was about.
        executed: Instructions of the last run.
    """

    def __init__(self) -> None:
        self._layout = layout()
        self.engine = Engine()
        self.pc = 0
        self.thumb = 1
        self.address = 0
        self.executed = 0
        self._event: Event | None = None
        self._mpu_on = False
        engine = self.engine
        engine.hook_add(UC_HOOK_INTR, self._on_exception)
        engine.hook_add(UC_HOOK_INSN_INVALID, self._on_invalid)
        engine.hook_add(UC_HOOK_MEM_INVALID, self._on_bad_address)
        self._budget = (ctypes.c_size_t * 2).from_address(engine.handle + self._layout.budget)
        self._position = RegisterSet(engine, [arm.UC_ARM_REG_PC, arm.UC_ARM_REG_XPSR])
        self._syndrome = RegisterSet(engine, [arm.UC_ARM_REG_ESR])
        self._pristine = engine.context_save()
        self._context = engine.context_save()
        self._bind_context()

    def _bind_context(self) -> None:
        start = self._context.context.value
        assert isinstance(start, int)
        words = ctypes.c_uint32 * REGIONS
        at = start + self._layout.mpu_arrays + 4
        self._mpu_arrays = tuple(words.from_address(at + number * 4 * (REGIONS + 1)) for number in range(3))
        self._mpu_control = ctypes.c_uint32.from_address(start + self._layout.mpu_control)
        self._exclusive = ctypes.c_uint64.from_address(start + self._layout.exclusive)
        self._fault = (ctypes.c_uint32 * 2).from_address(start + self._layout.fault_status)

    # Callbacks

    def _on_exception(self, _uc: Uc, number: int, _: object) -> None:
        self._event = _EXCEPTIONS.get(number, Event.UNDEFINED)
        self.engine.stop()

    def _on_invalid(self, _uc: Uc, _data: object) -> bool:
        self._event = Event.UNDEFINED
        return False

    def _on_bad_address(
        self, _uc: Uc, _access: int, address: int, _size: int, _value: int, _data: object
    ) -> bool:
        self.address = address
        return False

    # Running

    @property
    def begun(self) -> int:
        """Instructions of the current run, with the one that runs now."""
        return self._budget[0]

    def cut_short(self) -> None:
        """End the current run after the current instruction."""
        self._budget[1] = min(self._budget[1], self._budget[0])

    def run(self, limit: int) -> Event:
        """Run from `pc` until something happens, at most `limit` instructions (a few more in an IT block)."""
        self._event = None
        error = self.engine.start(self.pc | self.thumb, limit)
        budget = self._budget
        begun, allowed = budget[0], budget[1]
        self.pc, xpsr = self._position.read()
        self.thumb = xpsr >> 24 & 1
        self.executed = begun
        event = self._happened()
        if event is None and not error:
            if begun <= allowed:
                return Event.WAIT_FOR_INTERRUPT
            self.executed = begun - 1
            return Event.LIMIT
        return self._explain(event, error)

    def _happened(self) -> Event | None:
        return self._event

    def _explain(self, event: Event | None, error: int) -> Event:
        if event is Event.UNDEFINED:
            return self._explain_undefined(error)
        if event is Event.ACCESS_DENIED:
            self.engine.fill_context(self._context)
            status, self.address = self._fault
            if status & 0xF == _FSR_ALIGNMENT:
                return Event.UNALIGNED
        if event is not None:
            self._syndrome.write(0)
            return event
        if error in _ERRORS:
            return _ERRORS[error]
        raise RuntimeError(f"Unicorn stopped with error {error} at {self.pc:#010x}")

    def _explain_undefined(self, error: int) -> Event:
        if error not in {UC_ERR_INSN_INVALID, UC_ERR_EXCEPTION}:
            raise RuntimeError(f"Unicorn stopped with error {error} at {self.pc:#010x}")
        if not self.thumb:
            return Event.INVALID_STATE
        (syndrome,) = self._syndrome.read()
        if not syndrome:
            return Event.WAIT_FOR_EVENT
        self._syndrome.write(0)
        return Event.UNDEFINED

    # State

    def reset(self) -> None:
        """Take the state of a processor fresh from reset; `pc` is the caller's."""
        self.engine.context_restore(self._pristine)
        if self._mpu_on:
            self.engine.flush_tlb()
        self._mpu_on, self.thumb = False, 1

    def save(self) -> SavedCore:
        """Return a copy of the state."""
        return SavedCore(self.engine.context_save(), self.pc, self.thumb, self._mpu_on)

    def load(self, saved: SavedCore) -> None:
        """Take a state that `save` returned."""
        self.engine.context_restore(saved.context)
        if self._mpu_on or saved.mpu_on:
            self.engine.flush_tlb()
        self.pc, self.thumb, self._mpu_on = saved.pc, saved.thumb, saved.mpu_on

    def set_mpu(self, mpu: Mpu, *, negative_priority: bool) -> None:
        """Let the engine check accesses by these regions. Only between runs.

        Args:
            mpu: The registers.
            negative_priority: Whether HardFault, NMI or FAULTMASK is active.
        """
        on = mpu.enabled(negative_priority)
        if not on and not self._mpu_on:
            return
        self.engine.fill_context(self._context)
        if on:
            bases, sizes, attributes = self._mpu_arrays
            for region in range(REGIONS):
                value = mpu.attributes[region] if mpu.usable(region) else 0
                bases[region] = mpu.base[region]
                sizes[region] = value & 0xFFFF
                attributes[region] = value >> 16
        self._mpu_control.value = (mpu.control | ENABLE) if on else 0
        self.engine.context_restore(self._context)
        self.engine.flush_tlb()
        self._mpu_on = on

    def clear_exclusive(self) -> None:
        """Clear the exclusive monitor, as CLREX does. Only between runs."""
        self.engine.fill_context(self._context)
        if self._exclusive.value != _ALL_ONES_64:
            self._exclusive.value = _ALL_ONES_64
            self.engine.context_restore(self._context)

    def code_changed(self, address: int, size: int) -> None:
        """Forget translations of memory that something else than the processor wrote."""
        self.engine.ctl_remove_cache(address, address + size)

    def map_device(
        self,
        base: int,
        size: int,
        read: Callable[[int, int], int],
        write: Callable[[int, int, int], None],
    ) -> None:
        """Map registers: `read(offset, size)` and `write(offset, size, value)`."""
        self.engine.mmio_map(
            base,
            size,
            lambda _uc, offset, octets, _data: read(offset, octets),
            None,
            lambda _uc, offset, octets, value, _data: write(offset, octets, value),
            None,
        )
