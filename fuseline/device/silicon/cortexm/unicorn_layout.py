"""Where Unicorn keeps four things that its interface does not show, found by experiment at start-up.

Unicorn runs Cortex-M instructions with QEMU's processor model, MPU included, but exports no way to set the
MPU, to learn the address of an MPU fault, to clear the exclusive monitor, or to count instructions. All of
that stands in the engine's structure and in what `uc_context_save` returns. Nothing about their layout is
assumed here: each place is found by making the engine change it, and each finding is proved by using it.
Another build of Unicorn in which that fails is refused.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from dataclasses import dataclass
from typing import Final, Self

from unicorn.arm_const import (
    UC_ARM_REG_CONTROL,
    UC_ARM_REG_IPSR,
    UC_ARM_REG_PC,
    UC_ARM_REG_R0,
    UC_ARM_REG_R1,
    UC_CPU_ARM_CORTEX_M4,
)
from unicorn.unicorn_const import (
    UC_ARCH_ARM,
    UC_CTL_IO_WRITE,
    UC_CTL_TLB_FLUSH,
    UC_HOOK_INTR,
    UC_MODE_THUMB,
)
from unicorn.unicorn_py3.arch.arm import UcAArch32
from unicorn.unicorn_py3.unicorn import Uc, UcContext, UcError, uclib

from fuseline.device.silicon.cortexm.mpu import ENABLE, PRIVDEFENA, REGIONS
from fuseline.errors import EngineUnsupported

# The tail of a saved context (unicorn 2.1.4, qemu/target/arm/unicorn_arm.c, uc_arm_context_save): the number
# of MPU regions, then as many words, for each of DRBAR, DRSR and DRACR; then six empty arrays.
_ARRAY_WORDS: Final = REGIONS + 1
_EMPTY_ARRAYS: Final = 6
_TAIL_WORDS: Final = 3 * _ARRAY_WORDS + _EMPTY_ARRAYS
# Same source, qemu/target/arm/cpu.h, CPUARMState.v7m: MPU_CTRL of two security states, then IPSR.
_MPU_CONTROL_BEFORE_EXCEPTION: Final = 8
# Same, CPUARMState.exception: fault status, then the fault's address.
_FAULT_STATUS_BEFORE_ADDRESS: Final = 4

_CODE = 0x0000_0000
_DATA = 0x2000_0000
_PROBE = _DATA + 0x164
_NOP = 0xBF00
_BRANCH_TO_SELF = 0xE7FE
_STR_R1_R0 = 0x6001
_LDREX_R1_R0 = (0xE850, 0x1F00)
_CLREX = (0xF3BF, 0x8F2F)
_EXCEPTION_MARK = 0x15A
_SCAN_OCTETS: Final = 4096
_TRANSLATIONS: Final = 64 * 1024 * 1024
"""Address space for translated code; Unicorn would take a GiB, and uses a few hundred KiB."""


class Engine(UcAArch32):
    """Unicorn as a Cortex-M4, with its handle.

    `UC_MODE_MCLASS` is not used: with it Unicorn 2.1.4 makes a Cortex-M33 whatever model is asked for
    (qemu/target/arm/cpu.c, cpu_arm_init).
    """

    def __new__(cls) -> Self:
        """Make an instance of this class; the binding's own method would make one of its own."""
        return object.__new__(cls)

    def __init__(self) -> None:
        super().__init__(UC_ARCH_ARM, UC_MODE_THUMB, UC_CPU_ARM_CORTEX_M4)
        # Otherwise `until` of emu_start is compared with every block's address.
        self.ctl_set_tcg_buffer_size(_TRANSLATIONS)
        self.ctl_exits_enabled(True)
        self.ctl_set_exits([])

    @property
    def handle(self) -> int:
        """Address of the engine's structure."""
        address = self._uch.value
        assert isinstance(address, int)
        return address

    def start(self, address: int, count: int) -> int:
        """Run `count` instructions from `address` (bit 0: Thumb); returns Unicorn's error number.

        Raises:
            BaseException: What a callback raised.
        """
        self._hook_exception = None
        status: int = uclib.uc_emu_start(self._uch, address, 0, 0, count)
        if self._hook_exception is not None:
            raise self._hook_exception
        return status

    def fill_context(self, context: UcContext) -> None:
        """Save the state into a context that exists."""
        uclib.uc_context_save(self._uch, context.context)

    def stop(self) -> None:
        """End the run. In a memory callback the current instruction is not completed."""
        uclib.uc_emu_stop(self._uch)

    def flush_tlb(self) -> None:
        """Forget every page's permissions. The binding has no method for it."""
        self.ctl(UC_CTL_TLB_FLUSH, UC_CTL_IO_WRITE)


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets in octets: `budget` from the engine's handle, all others from the start of a saved context.

    Attributes:
        budget: Instructions begun since the run started, then the limit of the run (two machine words).
        mpu_arrays: DRBAR, DRSR, DRACR: three arrays of eight words, each behind a word with the number 8.
        mpu_control: MPU_CTRL.
        exclusive: Address of the exclusive monitor (64 bits, all ones if it is clear).
        fault_status: Fault status of the last denied access.
        fault_address: Address of the last denied access.
    """

    budget: int
    mpu_arrays: int
    mpu_control: int
    exclusive: int
    fault_status: int
    fault_address: int


def _context_octets(engine: Engine) -> bytes:
    return bytes(engine.context_save())


def _unsupported(what: str) -> EngineUnsupported:
    return EngineUnsupported(f"this build of Unicorn keeps {what} somewhere else", missing=what)


def _only(candidates: set[int], what: str) -> int:
    if len(candidates) != 1:
        raise _unsupported(what)
    return candidates.pop()


def _find_all(haystack: bytes, needle: bytes) -> set[int]:
    return {at for at in range(len(haystack) - len(needle) + 1) if haystack.startswith(needle, at)}


def _place(engine: Engine, *halfwords: int) -> None:
    """Write code; mem_write alone would leave what was translated before."""
    code = struct.pack(f"<{len(halfwords)}H", *halfwords)
    engine.mem_write(_CODE, code)
    engine.ctl_remove_cache(_CODE, _CODE + len(code))


def _run(engine: Engine, address: int, count: int) -> None:
    if status := engine.start(address | 1, count):
        raise UcError(status)


def _find_budget(engine: Engine) -> int:
    """Find the two adjacent counters: after a run that reached its limit of n they hold n + 1 and n."""
    _place(engine, _BRANCH_TO_SELF)
    usable = ctypes.CDLL(None).malloc_usable_size
    usable.restype, usable.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    size = min(_SCAN_OCTETS, usable(engine.handle))
    places: set[int] | None = None
    for count in (1_237, 3_771):
        _run(engine, _CODE, count)
        pair = bytes((ctypes.c_size_t * 2)(count + 1, count))
        found = _find_all(ctypes.string_at(engine.handle, size), pair)
        places = found if places is None else places & found
    return _only(places or set(), "its instruction counter")


def _find_exception(engine: Engine) -> int:
    before = _context_octets(engine)
    engine.reg_write(UC_ARM_REG_IPSR, _EXCEPTION_MARK)
    after = _context_octets(engine)
    engine.reg_write(UC_ARM_REG_IPSR, 0)
    mark = struct.pack("<I", _EXCEPTION_MARK)
    places = {at for at in _find_all(after, mark) if not at % 4 and before[at : at + 4] == bytes(4)}
    return _only(places, "the exception number")


def _find_exclusive(engine: Engine) -> int:
    _place(engine, *_LDREX_R1_R0, *_CLREX)
    engine.reg_write(UC_ARM_REG_R0, _PROBE)
    _run(engine, _CODE, 1)
    taken = _find_all(_context_octets(engine), struct.pack("<Q", _PROBE))
    _run(engine, _CODE + 4, 1)
    cleared = _find_all(_context_octets(engine), b"\xff" * 8)
    return _only(taken & cleared, "the exclusive monitor")


def _check_tail(octets: bytes) -> int:
    start = len(octets) - 4 * _TAIL_WORDS
    words = struct.unpack_from(f"<{_TAIL_WORDS}I", octets, start)
    expected = ((REGIONS, *[0] * REGIONS) * 3) + (0,) * _EMPTY_ARRAYS
    if start % 4 or words != expected:
        raise _unsupported("the MPU's regions")
    return start


def _denied_store(engine: Engine, mpu_arrays: int, mpu_control: int) -> bytes:
    """Make 32 octets read-only by the MPU and store to them; returns the context after the fault."""
    context = engine.context_save()
    address = context.context.value
    assert isinstance(address, int)
    arrays = (ctypes.c_uint32 * (3 * _ARRAY_WORDS)).from_address(address + mpu_arrays)
    arrays[1], arrays[1 + _ARRAY_WORDS], arrays[1 + 2 * _ARRAY_WORDS] = _PROBE & ~0x1F, 4 << 1 | 1, 5 << 8
    ctypes.c_uint32.from_address(address + mpu_control).value = ENABLE | PRIVDEFENA
    engine.context_restore(context)
    engine.flush_tlb()
    faults: list[int] = []

    def on_exception(_uc: Uc, number: int, _: object) -> None:
        faults.append(number)
        engine.stop()

    hook = engine.hook_add(UC_HOOK_INTR, on_exception)
    _place(engine, _STR_R1_R0, _NOP)
    engine.reg_write(UC_ARM_REG_R1, 0)
    for target, expected in ((_PROBE | 0x1F) + 1, []), (_PROBE, [4]):
        engine.reg_write(UC_ARM_REG_R0, target)
        _run(engine, _CODE, 1)
        if faults != expected:
            raise _unsupported("MPU_CTRL")
    engine.hook_del(hook)
    if engine.reg_read(UC_ARM_REG_PC) != _CODE:
        raise _unsupported("the address of a fault")
    return _context_octets(engine)


def _examine() -> Layout:
    engine = Engine()
    engine.mem_map(_CODE, 0x1000)
    engine.mem_map(_DATA, 0x1000)
    budget = _find_budget(engine)
    engine.reg_write(UC_ARM_REG_CONTROL, 0)
    mpu_arrays = _check_tail(_context_octets(engine))
    exception = _find_exception(engine)
    exclusive = _find_exclusive(engine)
    mpu_control = exception - _MPU_CONTROL_BEFORE_EXCEPTION
    engine.reg_write(UC_ARM_REG_R0, 0)
    octets = _denied_store(engine, mpu_arrays, mpu_control)
    address = struct.pack("<Q", _PROBE)
    fault_address = _only(
        {at for at in _find_all(octets, address) if exception < at < exclusive}, "the address of a fault"
    )
    return Layout(
        budget=budget,
        mpu_arrays=mpu_arrays,
        mpu_control=mpu_control,
        exclusive=exclusive,
        fault_status=fault_address - _FAULT_STATUS_BEFORE_ADDRESS,
        fault_address=fault_address,
    )


@functools.cache
def layout() -> Layout:
    """Return the layout of the Unicorn that is installed; found once per process, in some milliseconds.

    Raises:
        EngineUnsupported: This build is made differently.
    """
    try:
        return _examine()
    except UcError as error:
        raise EngineUnsupported(f"Unicorn refused an experiment: {error}") from error
