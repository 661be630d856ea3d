"""The private peripheral bus: NVIC, SysTick, system control block, MPU, cycle counter (Armv7-M B3.1 to B3.5).

Registers that are not implemented read as zero and ignore writes. Unprivileged code gets a BusFault, but for
STIR when CCR.USERSETMPEND allows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from fuseline.device.silicon.cortexm import scb as bits
from fuseline.device.silicon.cortexm.nvic import EXCEPTIONS, IRQ_LINES, Exc
from fuseline.device.silicon.cortexm.systick import CALIBRATION
from fuseline.device.silicon.engine import Stop, StopKind
from fuseline.device.silicon.memory_map import ResetReason

if TYPE_CHECKING:
    from fuseline.device.silicon.cortexm.cycle_counter import CycleCounter
    from fuseline.device.silicon.cortexm.exception_flow import ExceptionFlow
    from fuseline.device.silicon.cortexm.mpu import Mpu
    from fuseline.device.silicon.cortexm.nvic import Nvic
    from fuseline.device.silicon.cortexm.scb import SystemControl
    from fuseline.device.silicon.cortexm.systick import SysTick

BASE: Final = 0xE000_0000
SIZE: Final = 0x10_0000

_SCS = 0xE000
_DWT_CTRL, _DWT_CYCCNT = 0x1000, 0x1004
_CYCCNTENA, _TRCENA = 1, 1 << 24
_ICTR, _SYST_CSR, _SYST_RVR, _SYST_CVR, _SYST_CALIB = 0x004, 0x010, 0x014, 0x018, 0x01C
_ISER, _ICER, _ISPR, _ICPR, _IABR, _IPR = 0x100, 0x180, 0x200, 0x280, 0x300, 0x400
_CPUID, _ICSR, _VTOR, _AIRCR, _SCR, _CCR = 0xD00, 0xD04, 0xD08, 0xD0C, 0xD10, 0xD14
_SHPR, _SHCSR, _CFSR, _HFSR, _DFSR, _MMFAR, _BFAR = 0xD18, 0xD24, 0xD28, 0xD2C, 0xD30, 0xD34, 0xD38
_CPACR, _MPU_TYPE, _MPU_CTRL, _MPU_RNR, _MPU_RBAR, _MPU_RASR = 0xD88, 0xD90, 0xD94, 0xD98, 0xD9C, 0xDA0
_MPU_ALIASES = range(0xD9C, 0xDBC, 4)
_DEMCR, _STIR, _FPCCR, _FPCAR, _FPDSCR = 0xDFC, 0xF00, 0xF34, 0xF38, 0xF3C

_VECTKEY, _VECTKEYSTAT = 0x05FA, 0xFA05
_SYSRESETREQ = 1 << 2
_ALL_LINES = (1 << IRQ_LINES) - 1

# ID registers of a Cortex-M4 r0p0 with MPU and FPU (its technical reference manual, 3.2 and 7.2).
_IDENTIFICATION: dict[int, int] = {
    0xD40: 0x0000_0030, 0xD44: 0x0000_0200, 0xD48: 0x0010_0000, 0xD50: 0x0000_0030, 0xD60: 0x0114_1110,
    0xD64: 0x0211_1000, 0xD68: 0x2111_2231, 0xD6C: 0x0111_1110, 0xD70: 0x0131_0102,
    0xF40: 0x1011_0021, 0xF44: 0x1100_0011,
}  # fmt: skip

# SHCSR: bit of each exception that is active, and of each that is pending (B3.2.13).
_SHCSR_ACTIVE = {
    0: Exc.MEM_MANAGE, 1: Exc.BUS_FAULT, 3: Exc.USAGE_FAULT, 7: Exc.SVCALL, 8: Exc.DEBUG_MONITOR,
    10: Exc.PENDSV, 11: Exc.SYSTICK,
}  # fmt: skip
_SHCSR_PENDING = {12: Exc.USAGE_FAULT, 13: Exc.MEM_MANAGE, 14: Exc.BUS_FAULT, 15: Exc.SVCALL}
_SHCSR_ENABLE = {16: Exc.MEM_MANAGE, 17: Exc.BUS_FAULT, 18: Exc.USAGE_FAULT}
_RESERVED = frozenset({7, 8, 9, 10, 13})
_CCR_WRITABLE = 0x31B

_Read = Callable[[], int]
_Write = Callable[[int], None]


class Processor(Protocol):
    """What the registers show and change of the processor that they belong to."""

    nvic: Nvic
    mpu: Mpu
    system: SystemControl
    systick: SysTick
    cycle_counter: CycleCounter
    exceptions: ExceptionFlow

    @property
    def now(self) -> int:
        """Clock cycles since the processor was made."""

    def privileged(self) -> bool:
        """Whether the code that runs is privileged."""

    def refuse_access(self, address: int) -> None:
        """Let the current access end in a BusFault."""

    def exceptions_changed(self) -> None:
        """Look whether an exception is to be taken, after the current instruction."""

    def timing_changed(self) -> None:
        """Ask all timers anew when they fire next."""

    def protection_changed(self) -> None:
        """Let the MPU's registers take effect after the current instruction."""

    def request_stop(self, stop: Stop) -> None:
        """End the run after the current instruction."""


class SystemSpace:
    """The registers of one processor."""

    def __init__(self, cpu: Processor) -> None:
        self._cpu = cpu
        self._reads: dict[int, _Read] = self._make_reads()
        self._writes: dict[int, _Write] = self._make_writes()

    # The bus

    def read(self, offset: int, size: int) -> int:
        """Read a register, or part of one."""
        if not self._cpu.privileged():
            self._cpu.refuse_access(BASE + offset)
            return 0
        shift = 8 * (offset & 3)
        return self._read_word(offset & ~3) >> shift & ((1 << 8 * size) - 1)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register; parts of one only where the architecture allows it (B3.1.1)."""
        cpu = self._cpu
        if not cpu.privileged() and not (offset == _SCS + _STIR and cpu.system.ccr & bits.CCR_USERSETMPEND):
            cpu.refuse_access(BASE + offset)
            return
        word, shift = offset & ~3, 8 * (offset & 3)
        if size < 4:
            value <<= shift
            if self._keeps_other_octets(word - _SCS):
                value |= self._read_word(word) & ~(((1 << 8 * size) - 1) << shift)
        self._write_word(word, value)

    @staticmethod
    def _keeps_other_octets(register: int) -> bool:
        return _IPR <= register < _IPR + EXCEPTIONS or _SHPR <= register < _SHCSR

    def _read_word(self, offset: int) -> int:
        register = offset - _SCS
        if _IPR <= register < _IPR + IRQ_LINES:
            return self._priorities(Exc.IRQ0 + register - _IPR)
        if _SHPR <= register < _SHCSR:
            return self._priorities(4 + register - _SHPR)
        read = self._reads.get(offset)
        return read() if read else _IDENTIFICATION.get(register, 0)

    def _write_word(self, offset: int, value: int) -> None:
        register = offset - _SCS
        if _IPR <= register < _IPR + IRQ_LINES:
            self._set_priorities(Exc.IRQ0 + register - _IPR, value)
        elif _SHPR <= register < _SHCSR:
            self._set_priorities(4 + register - _SHPR, value)
        elif write := self._writes.get(offset):
            write(value)

    def _make_reads(self) -> dict[int, _Read]:
        cpu = self._cpu
        nvic, system = cpu.nvic, cpu.system
        registers: dict[int, _Read] = {
            _ICTR: lambda: (IRQ_LINES + 31) // 32 - 1,
            _SYST_CSR: self._systick_control,
            _SYST_RVR: lambda: cpu.systick.reload,
            _SYST_CVR: lambda: cpu.systick.counter.value(cpu.now),
            _SYST_CALIB: lambda: CALIBRATION,
            _ISER: lambda: nvic.enabled >> Exc.IRQ0,
            _ICER: lambda: nvic.enabled >> Exc.IRQ0,
            _ISPR: lambda: nvic.pending >> Exc.IRQ0,
            _ICPR: lambda: nvic.pending >> Exc.IRQ0,
            _IABR: lambda: nvic.active >> Exc.IRQ0,
            _CPUID: lambda: bits.CPUID,
            _ICSR: self._icsr,
            _VTOR: lambda: system.vtor,
            _AIRCR: lambda: _VECTKEYSTAT << 16 | nvic.priority_group << 8,
            _SCR: lambda: system.scr,
            _CCR: lambda: system.ccr,
            _SHCSR: self._shcsr,
            _CFSR: lambda: system.cfsr,
            _HFSR: lambda: system.hfsr,
            _DFSR: lambda: system.dfsr,
            _MMFAR: lambda: system.mmfar,
            _BFAR: lambda: system.bfar,
            _CPACR: lambda: system.cpacr,
            _DEMCR: lambda: system.demcr,
            _FPCCR: lambda: system.fpccr,
            _FPCAR: lambda: system.fpcar,
            _FPDSCR: lambda: system.fpdscr,
            _MPU_TYPE: lambda: 8 << 8,
            _MPU_CTRL: lambda: cpu.mpu.control,
            _MPU_RNR: lambda: cpu.mpu.number,
        }
        for register in _MPU_ALIASES:
            even = not (register - _MPU_RBAR) % 8
            registers[register] = (lambda: cpu.mpu.rbar) if even else (lambda: cpu.mpu.rasr)
        reads = {_SCS + register: read for register, read in registers.items()}
        reads[_DWT_CTRL] = lambda: 0x4000_0000 | int(cpu.cycle_counter.enabled)
        reads[_DWT_CYCCNT] = lambda: cpu.cycle_counter.value(cpu.now)
        return reads

    def _make_writes(self) -> dict[int, _Write]:
        cpu = self._cpu
        registers: dict[int, _Write] = {
            _SYST_CSR: self._write_systick_control,
            _SYST_RVR: self._write_systick_reload,
            _SYST_CVR: self._write_systick_value,
            _ISER: lambda value: self._enable(value, on=True),
            _ICER: lambda value: self._enable(value, on=False),
            _ISPR: self._set_pending,
            _ICPR: self._clear_pending,
            _ICSR: self._write_icsr,
            _AIRCR: self._write_aircr,
            _SHCSR: self._write_shcsr,
            _CFSR: lambda value: self._clear_status("cfsr", value),
            _HFSR: lambda value: self._clear_status("hfsr", value),
            _DFSR: lambda value: self._clear_status("dfsr", value),
            _STIR: lambda value: self._set_pending(1 << (value & 0x1FF) & _ALL_LINES),
            _MPU_CTRL: self._write_mpu_control,
            _MPU_RNR: self._write_mpu_number,
        }
        for register in _MPU_ALIASES:
            even = not (register - _MPU_RBAR) % 8
            registers[register] = self._write_rbar if even else self._write_rasr
        for register, (name, mask) in {
            _VTOR: ("vtor", 0xFFFF_FF80),
            _SCR: ("scr", 0x16),
            _CCR: ("ccr", _CCR_WRITABLE),
            _MMFAR: ("mmfar", 0xFFFF_FFFF),
            _BFAR: ("bfar", 0xFFFF_FFFF),
            _CPACR: ("cpacr", 0x00F0_0000),
            _DEMCR: ("demcr", 0x0100_0000),
            _FPCCR: ("fpccr", 0xC000_0000),
            _FPCAR: ("fpcar", 0xFFFF_FFF8),
            _FPDSCR: ("fpdscr", 0x07C0_0000),
        }.items():
            registers[register] = self._plain(name, mask)
        writes = {_SCS + register: write for register, write in registers.items()}
        writes[_DWT_CTRL] = lambda value: cpu.cycle_counter.enable(cpu.now, on=bool(value & _CYCCNTENA))
        writes[_DWT_CYCCNT] = lambda value: cpu.cycle_counter.set(cpu.now, value)
        return writes

    def _plain(self, name: str, mask: int) -> _Write:
        system = self._cpu.system
        return lambda value: setattr(system, name, value & mask)

    def _clear_status(self, name: str, ones: int) -> None:
        system = self._cpu.system
        setattr(system, name, getattr(system, name) & ~ones)

    # SysTick

    def _systick_control(self) -> int:
        cpu = self._cpu
        value, pend = cpu.systick.read_control(cpu.now)
        if pend:
            cpu.nvic.pend(Exc.SYSTICK)
            cpu.exceptions_changed()
        return value

    def _write_systick_control(self, value: int) -> None:
        self._cpu.systick.write_control(self._cpu.now, value)
        self._cpu.timing_changed()

    def _write_systick_reload(self, value: int) -> None:
        self._cpu.systick.write_reload(self._cpu.now, value)
        self._cpu.timing_changed()

    def _write_systick_value(self, _: int) -> None:
        self._cpu.systick.write_value(self._cpu.now)
        self._cpu.timing_changed()

    # NVIC

    def _priorities(self, first: int) -> int:
        return int.from_bytes(bytes(self._cpu.nvic.priority[first : first + 4]), "little")

    def _set_priorities(self, first: int, value: int) -> None:
        priorities = self._cpu.nvic.priority
        for exception, priority in enumerate(value.to_bytes(4, "little"), first):
            if exception not in _RESERVED:
                priorities[exception] = priority
        self._cpu.exceptions_changed()

    def _enable(self, lines: int, *, on: bool) -> None:
        nvic, lines = self._cpu.nvic, (lines & _ALL_LINES) << Exc.IRQ0
        nvic.enabled = nvic.enabled | lines if on else nvic.enabled & ~lines
        self._cpu.exceptions_changed()

    def _set_pending(self, lines: int) -> None:
        self._cpu.nvic.pending |= (lines & _ALL_LINES) << Exc.IRQ0
        self._cpu.exceptions_changed()

    def _clear_pending(self, lines: int) -> None:
        self._cpu.nvic.pending &= ~((lines & _ALL_LINES) << Exc.IRQ0)

    def _icsr(self) -> int:
        """B3.2.4."""
        nvic, current = self._cpu.nvic, self._cpu.exceptions.current
        value = current | (nvic.highest_pending() or 0) << 12
        if not nvic.active & ~(1 << current):
            value |= 1 << 11  # RETTOBASE
        value |= (1 << 22) if nvic.pending >> Exc.IRQ0 else 0
        value |= (1 << 26) if nvic.pending >> Exc.SYSTICK & 1 else 0
        value |= (1 << 28) if nvic.pending >> Exc.PENDSV & 1 else 0
        return value | ((1 << 31) if nvic.pending >> Exc.NMI & 1 else 0)

    def _write_icsr(self, value: int) -> None:
        nvic = self._cpu.nvic
        if value & 1 << 31:
            nvic.pend(Exc.NMI)
        for exception, set_bit, clear_bit in ((Exc.PENDSV, 28, 27), (Exc.SYSTICK, 26, 25)):
            if value >> set_bit & 1:
                nvic.pend(exception)
            elif value >> clear_bit & 1:
                nvic.unpend(exception)
        self._cpu.exceptions_changed()

    # System control block

    def _write_aircr(self, value: int) -> None:
        """B3.2.6: ignored without the key."""
        if value >> 16 != _VECTKEY:
            return
        self._cpu.nvic.priority_group = value >> 8 & 7
        self._cpu.exceptions_changed()
        if value & _SYSRESETREQ:
            self._cpu.request_stop(Stop(StopKind.RESET, ResetReason.WARM, "AIRCR.SYSRESETREQ"))

    def _shcsr(self) -> int:
        nvic = self._cpu.nvic
        value = sum((nvic.active >> number & 1) << bit for bit, number in _SHCSR_ACTIVE.items())
        value += sum((nvic.pending >> number & 1) << bit for bit, number in _SHCSR_PENDING.items())
        return value + sum((nvic.enabled >> number & 1) << bit for bit, number in _SHCSR_ENABLE.items())

    def _write_shcsr(self, value: int) -> None:
        nvic = self._cpu.nvic
        nvic.set_fault_enables(sum((value >> bit & 1) << number for bit, number in _SHCSR_ENABLE.items()))
        for table, name in ((_SHCSR_ACTIVE, "active"), (_SHCSR_PENDING, "pending")):
            kept = getattr(nvic, name) & ~sum(1 << number for number in table.values())
            given = sum((value >> bit & 1) << number for bit, number in table.items())
            setattr(nvic, name, kept | given)
        self._cpu.exceptions_changed()

    # MPU

    def _write_mpu_control(self, value: int) -> None:
        self._cpu.mpu.write_control(value)
        self._cpu.protection_changed()

    def _write_mpu_number(self, value: int) -> None:
        if value < 8:
            self._cpu.mpu.number = value

    def _write_rbar(self, value: int) -> None:
        if self._cpu.mpu.write_rbar(value):
            self._cpu.protection_changed()

    def _write_rasr(self, value: int) -> None:
        if self._cpu.mpu.write_rasr(value):
            self._cpu.protection_changed()
