"""Exception entry and return (Armv7-M B1.5.6 to B1.5.15): frames, stacks, modes, escalation and lockup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from unicorn import arm_const as arm

from fuseline.device.silicon.cortexm import scb as bits
from fuseline.device.silicon.cortexm.bus import Access
from fuseline.device.silicon.cortexm.nvic import Exc, Masks, Nvic
from fuseline.device.silicon.cortexm.unicorn_core import (
    CONTROL_FPCA,
    CONTROL_NPRIV,
    CONTROL_SPSEL,
    XPSR_T,
    RegisterSet,
    UnicornCore,
)

if TYPE_CHECKING:
    from fuseline.device.silicon.cortexm.memory import Memory
    from fuseline.device.silicon.cortexm.mpu import Mpu
    from fuseline.device.silicon.cortexm.scb import SystemControl

_NEGATIVE = (Exc.NMI, Exc.HARD_FAULT)
_BASIC_WORDS: Final = 8
_EXTENDED_WORDS: Final = 26
_FLAGS = 0xF800_0000
_PADDED = 1 << 9  # xPSR bit of a frame below which four octets were left out (B1.5.7)
_EXCEPTION_NUMBER = 0x1FF
_TO_THREAD, _TO_PSP, _BASIC_FRAME = 8, 4, 0x10
# B1.5.8, tables B1-8 and B1-9: the values that a branch may hold.
_VALID_RETURNS = frozenset({0xFFFFFFE1, 0xFFFFFFE9, 0xFFFFFFED, 0xFFFFFFF1, 0xFFFFFFF9, 0xFFFFFFFD})
# The smallest grain of protection: regions have at least 32 octets.
_GRAIN = 32

_ENTRY = [arm.UC_ARM_REG_R0 + n for n in range(4)] + [
    arm.UC_ARM_REG_R12,
    arm.UC_ARM_REG_LR,
    arm.UC_ARM_REG_XPSR,
    arm.UC_ARM_REG_SP,
    arm.UC_ARM_REG_CONTROL,
]
# CONTROL.SPSEL can only be written in Thread mode, CONTROL only by privileged code, and the stack pointers
# are banked by both: hence the detour through Handler mode, privileged Thread mode, and back. The condition
# flags come last; see `unicorn_core`.
_TO_HANDLER = [
    arm.UC_ARM_REG_SP,
    arm.UC_ARM_REG_XPSR,
    arm.UC_ARM_REG_CONTROL,
    arm.UC_ARM_REG_XPSR,
    arm.UC_ARM_REG_CONTROL,
    arm.UC_ARM_REG_XPSR,
    arm.UC_ARM_REG_CONTROL,
    arm.UC_ARM_REG_LR,
    arm.UC_ARM_REG_APSR_NZCV,
]
_FROM_HANDLER = [
    arm.UC_ARM_REG_CONTROL,
    arm.UC_ARM_REG_XPSR,
    arm.UC_ARM_REG_CONTROL,
    arm.UC_ARM_REG_SP,
    arm.UC_ARM_REG_XPSR_NZCVQG,
    *(arm.UC_ARM_REG_R0 + n for n in range(4)),
    arm.UC_ARM_REG_R12,
    arm.UC_ARM_REG_LR,
    arm.UC_ARM_REG_CONTROL,
    arm.UC_ARM_REG_APSR_NZCV,
]
_STACKS = [arm.UC_ARM_REG_MSP, arm.UC_ARM_REG_PSP]
_MASKS = [arm.UC_ARM_REG_CONTROL, arm.UC_ARM_REG_PRIMASK, arm.UC_ARM_REG_BASEPRI, arm.UC_ARM_REG_FAULTMASK]


class ExceptionFlow:
    """Enters and leaves exceptions.

    Attributes:
        current: The exception number in IPSR; 0 in Thread mode.
        lockup: Why the processor is locked up; None as long as it is not.
    """

    def __init__(
        self, core: UnicornCore, nvic: Nvic, mpu: Mpu, system: SystemControl, memory: Memory
    ) -> None:
        self._core, self._memory = core, memory
        self.nvic, self.mpu, self.system = nvic, mpu, system
        self.current = 0
        self.lockup: str | None = None
        engine = core.engine
        self._entry = RegisterSet(engine, _ENTRY)
        self._to_handler = RegisterSet(engine, _TO_HANDLER)
        self._from_handler = RegisterSet(engine, _FROM_HANDLER)
        self._mask_registers = RegisterSet(engine, _MASKS)
        self._faultmask = RegisterSet(engine, [arm.UC_ARM_REG_FAULTMASK])
        self._control = RegisterSet(engine, [arm.UC_ARM_REG_CONTROL])
        self._ipsr = RegisterSet(engine, [arm.UC_ARM_REG_IPSR])
        self._leaving = RegisterSet(engine, [*_STACKS, *_MASKS])
        self._float = RegisterSet(engine, [*(arm.UC_ARM_REG_S0 + n for n in range(16)), arm.UC_ARM_REG_FPSCR])

    # Questions

    def privileged(self) -> bool:
        """Return whether the code that runs is privileged."""
        return self.current != 0 or not self._control.read()[0] & CONTROL_NPRIV

    def masks(self) -> Masks:
        """Return the mask registers, which Unicorn shows as 0 to unprivileged code."""
        control, *masks = self._mask_registers.read()
        if control & CONTROL_NPRIV and not self.current:
            self._ipsr.write(Exc.HARD_FAULT)
            _, *masks = self._mask_registers.read()
            self._ipsr.write(Exc.THREAD)
        return Masks(*masks)

    def negative_priority(self) -> bool:
        """Return whether HardFault or NMI is active."""
        return bool(self.nvic.active & (1 << Exc.NMI | 1 << Exc.HARD_FAULT))

    # Entry

    def take_pending(self) -> bool:
        """Enter the exception that preempts now, if there is one."""
        exception = self.nvic.to_take(self.masks())
        if exception is None or self.lockup is not None:
            return False
        self.take(exception)
        return True

    def raise_synchronous(self, exception: int) -> None:
        """Enter an exception that an instruction caused, or escalate it to HardFault (B1.5.11)."""
        self.take(self._escalated(exception, self.masks()))

    def _escalated(self, exception: int, masks: Masks) -> int:
        if self.nvic.preempts(exception, masks):
            return exception
        forced = bits.HFSR_DEBUGEVT if exception == Exc.DEBUG_MONITOR else bits.HFSR_FORCED
        self.system.hfsr |= forced
        if not self.nvic.preempts(Exc.HARD_FAULT, masks):
            self.lockup = f"{Exc(exception).name} at priority {self.nvic.execution_priority(masks)}"
        return Exc.HARD_FAULT

    def take(self, exception: int) -> None:
        """Stack the interrupted context and enter `exception`; `core.pc` is where it goes on afterwards."""
        if self.lockup is not None:
            return
        *low, lr, xpsr, sp, control = self._entry.read()
        # Unicorn learns of the T bit when it starts to run.
        xpsr = xpsr & ~XPSR_T | self._core.thumb << 24
        thread = self.current == 0
        extended = bool(control & CONTROL_FPCA)
        frame, padded = self._frame(sp, extended)
        words = [*low, lr, self._core.pc, xpsr & ~_PADDED | (_PADDED if padded else 0)]
        if extended:
            self.system.fpcar = frame + 4 * _BASIC_WORDS
            words += [*self._float.read(), 0]
        failure = self._store(frame, words, privileged=not thread or not control & CONTROL_NPRIV)
        back = 0xFFFFFFE1 | (0 if extended else _BASIC_FRAME) | (_TO_THREAD if thread else 0)
        back |= _TO_PSP if thread and control & CONTROL_SPSEL else 0
        if failure is not None:
            exception = self._derived(exception, failure)
        self._enter(exception, back, frame, xpsr, control)

    def _frame(self, sp: int, extended: bool) -> tuple[int, bool]:
        size = 4 * (_EXTENDED_WORDS if extended else _BASIC_WORDS)
        align = self.system.ccr & bits.CCR_STKALIGN or extended
        return (sp - size) & (~7 if align else ~3) & 0xFFFF_FFFF, bool(align and sp & 4)

    def _allowed(self, address: int, octets: int, access: Access, privileged: bool) -> bool:
        negative = self.negative_priority()
        if not self.mpu.enabled(negative):
            return True
        places = {*range(address, address + octets, _GRAIN), address + octets - 1}
        return all(
            access in self.mpu.allowed(place, privileged=privileged, negative_priority=negative)
            for place in places
        )

    def _store(self, address: int, words: list[int], *, privileged: bool) -> Exc | None:
        if not self._allowed(address, 4 * len(words), Access.W, privileged):
            self.system.cfsr |= bits.CFSR_MSTKERR
            return Exc.MEM_MANAGE
        if not self._memory.store(address, words):
            self.system.cfsr |= bits.CFSR_STKERR
            return Exc.BUS_FAULT
        return None

    def _derived(self, exception: int, failure: Exc) -> int:
        """Choose between an exception and the fault of stacking for it; the other one waits (B1.5.12)."""
        nvic = self.nvic
        derived = self._escalated(failure, self.masks())
        first, second = exception, derived
        if nvic.group(nvic.priority[derived]) <= nvic.group(nvic.priority[exception]):
            first, second = derived, exception
        if second != first:
            nvic.pend(second)
        return first

    def _enter(self, exception: int, back: int, sp: int, xpsr: int, control: int) -> None:
        """Go to the handler: mode, stack, link register, program counter (B1.5.6, ExceptionTaken())."""
        vector = self._memory.fetch_vector(self.system.vtor + 4 * exception)
        if vector is None:
            self.system.hfsr |= bits.HFSR_VECTTBL
            if exception in {Exc.HARD_FAULT, Exc.NMI}:
                self.lockup = "no vector for HardFault"
            vector = self._memory.fetch_vector(self.system.vtor + 4 * Exc.HARD_FAULT) or 0
            exception = Exc.HARD_FAULT
        self.nvic.activate(exception)
        state = xpsr & _FLAGS | (XPSR_T if vector & 1 else 0)
        handler = state | exception
        privilege = control & CONTROL_NPRIV
        self._to_handler.write(sp, handler, 0, state, 0, handler, privilege, back, xpsr)
        self._core.pc, self._core.thumb = vector & ~1, vector & 1
        self._changed_mode(exception)

    def _changed_mode(self, exception: int) -> None:
        before = self.current
        self.current = exception
        self._core.clear_exclusive()
        if before in _NEGATIVE or exception in _NEGATIVE:
            self._core.set_mpu(self.mpu, negative_priority=self.negative_priority())

    # Return

    def leave(self, back: int) -> bool:
        """Return from the current exception by EXC_RETURN value `back` (B1.5.8).

        Returns:
            Whether the processor is in Thread mode now.
        """
        nvic, returning = self.nvic, self.current
        main, process, control, primask, basepri, faultmask = self._leaving.read()
        valid = back in _VALID_RETURNS and bool(nvic.active >> returning & 1)
        base_level = nvic.nested() == 1 or bool(self.system.ccr & bits.CCR_NONBASETHRDENA)
        valid = valid and (base_level if back & _TO_THREAD else nvic.nested() > 1)
        if faultmask and returning != Exc.NMI:
            self._faultmask.write(0)
            faultmask = 0
        nvic.deactivate(returning)
        if not valid:
            self._chain(self._usage_fault(bits.CFSR_INVPC), back | 0xF000_0000)
            return False
        following = nvic.to_take(Masks(primask, basepri, faultmask))
        if following is not None:
            self._chain(following, back)
            return False
        return self._unstack(back, process if back & _TO_PSP else main, control & CONTROL_NPRIV)

    def _usage_fault(self, cause: int) -> int:
        self.system.cfsr |= cause
        return self._escalated(Exc.USAGE_FAULT, self.masks())

    def _chain(self, exception: int, back: int) -> None:
        """Enter an exception on the frame that is there already (tail-chaining, B1.5.9)."""
        if self.lockup is not None:
            return
        *_, xpsr, sp, control = self._entry.read()
        self._enter(exception, back, sp, xpsr, control & ~CONTROL_FPCA)

    def _unstack(self, back: int, sp: int, privilege: int) -> bool:
        """Restore the stacked context; `privilege` is CONTROL.nPRIV."""
        to_thread = bool(back & _TO_THREAD)
        count = _BASIC_WORDS if back & _BASIC_FRAME else _EXTENDED_WORDS
        words = self._load(sp, count, privileged=not to_thread or not privilege)
        if isinstance(words, Exc):
            self._chain(self._escalated(words, self.masks()), back)
            return False
        xpsr = words[7]
        number = xpsr & _EXCEPTION_NUMBER
        if to_thread != (number == 0):
            self._chain(self._usage_fault(bits.CFSR_INVPC), back)
            return False
        align = self.system.ccr & bits.CCR_STKALIGN or count == _EXTENDED_WORDS
        sp = sp + 4 * count & 0xFFFF_FFFF | (4 if align and xpsr & _PADDED else 0)
        if count == _EXTENDED_WORDS:
            self._float.write(*words[8:25])
        final = privilege | (CONTROL_SPSEL if back & _TO_PSP else 0)
        final |= CONTROL_FPCA if count == _EXTENDED_WORDS else 0
        state = xpsr & ~_PADDED
        self._from_handler.write(
            0, state & ~_FLAGS, final & CONTROL_SPSEL, sp, state, *words[:6], final, state
        )
        self._core.pc, self._core.thumb = words[6] & ~1, xpsr >> 24 & 1
        self._changed_mode(number)
        return to_thread

    def _load(self, address: int, count: int, *, privileged: bool) -> tuple[int, ...] | Exc:
        if not self._allowed(address, 4 * count, Access.R, privileged):
            self.system.cfsr |= bits.CFSR_MUNSTKERR
            return Exc.MEM_MANAGE
        words = self._memory.load(address, count)
        if words is None:
            self.system.cfsr |= bits.CFSR_UNSTKERR
            return Exc.BUS_FAULT
        return words
