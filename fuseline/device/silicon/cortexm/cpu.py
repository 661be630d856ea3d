"""A Cortex-M4 with its NVIC, SysTick, MPU and system control block, on a bus of memory and devices.

Instructions run on Unicorn (`unicorn_core`); all that happens between two instructions happens here:
interrupts, faults, time. Time is counted in instructions, so the same program on the same input takes
the same interrupts at the same instructions, every time.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from unicorn import arm_const as arm

from fuseline.device.silicon.cortexm import scb as bits
from fuseline.device.silicon.cortexm import semihosting
from fuseline.device.silicon.cortexm.bus import (
    Access,
    AttachedDevice,
    BusDevice,
    ClockedDevice,
    ListeningDevice,
    MemoryRegion,
    ResettableDevice,
    StatefulDevice,
)
from fuseline.device.silicon.cortexm.cycle_counter import CycleCounter
from fuseline.device.silicon.cortexm.exception_flow import ExceptionFlow
from fuseline.device.silicon.cortexm.memory import Memory
from fuseline.device.silicon.cortexm.mpu import Mpu
from fuseline.device.silicon.cortexm.nvic import IRQ_LINES, Exc, Masks, Nvic
from fuseline.device.silicon.cortexm.scb import SystemControl
from fuseline.device.silicon.cortexm.straight_line import WINDOW, straight_line
from fuseline.device.silicon.cortexm.system_space import BASE, SIZE, SystemSpace
from fuseline.device.silicon.cortexm.systick import SysTick
from fuseline.device.silicon.cortexm.unicorn_core import Event, RegisterSet, SavedCore, UnicornCore
from fuseline.device.silicon.engine import Limits, Stop, StopKind

if TYPE_CHECKING:
    from fuseline.device.silicon.cortexm.unicorn_layout import Engine

# So many instructions take about a millisecond; then the time is looked at.
_STRETCH: Final = 100_000
# No code runs while the processor sleeps: what so many timer events did not wake, none will.
_WAKELESS_EVENTS: Final = 10_000
_NO_MASKS: Final = Masks()
_WFE, _WIDE_WFE = 0xBF20, (0xF3AF, 0x8002)
_RESET_LINK_REGISTER = 0xFFFF_FFFF  # B1.5.5


@dataclass(slots=True)
class CpuSnapshot:
    """A copy of a processor and its devices, without the memory."""

    core: SavedCore
    nvic: Nvic
    mpu: Mpu
    system: SystemControl
    systick: SysTick
    cycle_counter: CycleCounter
    current: int
    lockup: str | None
    asleep: bool
    cycles: int
    instructions: int
    devices: tuple[object, ...]
    access: tuple[tuple[int, Access], ...]


class CortexM4:
    """A processor.

    Args:
        memory: Its memory; regions do not overlap.
        devices: Its devices; each base and size a multiple of 4 KiB.
        output: Takes what the program prints by semihosting.

    Attributes:
        nvic: Exceptions and interrupts.
        mpu: Memory protection unit.
        system: System control block.
        systick: System timer.
        cycle_counter: DWT_CYCCNT.
        exceptions: Entry and return.
        instructions: Executed since the processor was made.
    """

    def __init__(
        self,
        memory: Sequence[MemoryRegion],
        devices: Sequence[BusDevice] = (),
        *,
        output: Callable[[bytes], None] | None = None,
    ) -> None:
        self._core = UnicornCore()
        self._memory = Memory(self._core.engine, memory)
        self.nvic, self.mpu = Nvic(), Mpu()
        self.system, self.systick, self.cycle_counter = SystemControl(), SysTick(), CycleCounter()
        self.exceptions = ExceptionFlow(self._core, self.nvic, self.mpu, self.system, self._memory)
        self.instructions = 0
        self._cycles = 0
        self._running = False
        self._stop: Stop | None = None
        self._device_due: int | None = None
        self._systick_due: int | None = None
        self._due_known = False
        self._protection_changed = False
        self._refused: int | None = None
        self._asleep, self._dozed = False, 0
        self._access_changes: list[tuple[int, Access]] = []
        self._output = output or _nowhere
        self._semihosting = RegisterSet(self._core.engine, [arm.UC_ARM_REG_R0, arm.UC_ARM_REG_R1])
        self._start_registers = RegisterSet(self._core.engine, [arm.UC_ARM_REG_SP, arm.UC_ARM_REG_LR])
        space = SystemSpace(self)
        self._core.map_device(BASE, SIZE, space.read, space.write)
        self._devices = tuple(devices)
        self._listeners = [device for device in devices if isinstance(device, ListeningDevice)]
        # Sorted once: to ask whether an object has a protocol takes longer than to reset it.
        self._clocked = [device for device in devices if isinstance(device, ClockedDevice)]
        self._resettable = [device for device in devices if isinstance(device, ResettableDevice)]
        self._stateful = [device for device in devices if isinstance(device, StatefulDevice)]
        for device in devices:
            self._core.map_device(device.base, device.size, device.read, device.write)
            if isinstance(device, AttachedDevice):
                device.attach(self)
        self.nvic.reset()
        self._handlers = self._make_handlers()

    def _make_handlers(self) -> dict[Event, Callable[[], None]]:
        def fault(cause: int, exception: Exc) -> Callable[[], None]:
            return lambda: self._fault(cause, exception)

        return {
            Event.WAIT_FOR_INTERRUPT: self._sleep,
            Event.WAIT_FOR_EVENT: self._wait_for_event,
            Event.SUPERVISOR_CALL: self._supervisor_call,
            Event.BREAKPOINT: self._breakpoint,
            Event.EXCEPTION_RETURN: self._exception_return,
            Event.FETCH_DENIED: fault(bits.CFSR_IACCVIOL, Exc.MEM_MANAGE),
            Event.ACCESS_DENIED: self._memory_fault,
            Event.FETCH_FAILED: fault(bits.CFSR_IBUSERR, Exc.BUS_FAULT),
            Event.ACCESS_FAILED: lambda: self._bus_fault(self._core.address),
            Event.UNALIGNED: fault(bits.CFSR_UNALIGNED, Exc.USAGE_FAULT),
            Event.UNDEFINED: fault(bits.CFSR_UNDEFINSTR, Exc.USAGE_FAULT),
            Event.INVALID_STATE: fault(bits.CFSR_INVSTATE, Exc.USAGE_FAULT),
            Event.NO_COPROCESSOR: fault(bits.CFSR_NOCP, Exc.USAGE_FAULT),
        }

    # What devices and hosts may ask

    @property
    def uc(self) -> Engine:
        """Unicorn itself, for hooks. Hooks on instructions make everything several times slower."""
        return self._core.engine

    @property
    def pc(self) -> int:
        """Where the processor goes on. Only between runs."""
        return self._core.pc

    @pc.setter
    def pc(self, address: int) -> None:
        self._core.pc, self._core.thumb = address & ~1, 1

    @property
    def memory(self) -> Memory:
        """The memory."""
        return self._memory

    @property
    def now(self) -> int:
        """Clock cycles since the processor was made: instructions, and what was slept through."""
        if not self._running:
            return self._cycles
        return self._cycles + self._core.begun - 1

    def privileged(self) -> bool:
        """Return whether the code that runs is privileged."""
        return self.exceptions.privileged()

    def set_irq(self, number: int, level: bool) -> None:
        """Drive external interrupt line `number`."""
        if not 0 <= number < IRQ_LINES:
            raise RuntimeError(f"there is no interrupt line {number}")
        self.nvic.set_line(Exc.IRQ0 + number, level)
        self.exceptions_changed()

    def set_nmi(self, level: bool) -> None:
        """Drive the non-maskable interrupt."""
        self.nvic.set_line(Exc.NMI, level)
        self.exceptions_changed()

    def request_stop(self, stop: Stop) -> None:
        """End the run after the current instruction; the first request counts."""
        self._stop = self._stop or stop
        self._interrupt_run()

    def set_access(self, base: int, access: Access) -> None:
        """Change what the bus allows in the region at `base`, from the next instruction on."""
        if self._running:
            self._access_changes.append((base, access))
            self._interrupt_run()
        else:
            self._memory.set_access(base, access)

    def set_buffer(self, base: int, buffer: memoryview) -> None:
        """Put other memory in a region's place. Only between runs."""
        self._memory.replace(base, buffer)

    def code_changed(self, address: int, size: int) -> None:
        """Say that something else than the processor wrote to memory from which it may have run code."""
        self._core.code_changed(address, size)

    def read_word(self, address: int) -> int:
        """Read a word from memory or a device, 0 where there is none."""
        words = self._memory.load(address, 1)
        if words is not None:
            return words[0]
        device = self._device_at(address)
        return 0 if device is None else device.read(address - device.base, 4)

    def write_word(self, address: int, value: int) -> None:
        """Write a word to memory or a device; nothing happens where there is none."""
        if self._memory.store(address, (value,)):
            return
        device = self._device_at(address)
        if device is not None:
            device.write(address - device.base, 4, value)

    def _device_at(self, address: int) -> BusDevice | None:
        for device in self._devices:
            if device.base <= address < device.base + device.size:
                return device
        return None

    def timing_changed(self) -> None:
        """Ask all timers anew when they fire next."""
        self._due_known = False
        self._interrupt_run()

    # What the system control space asks

    def exceptions_changed(self) -> None:
        """Look whether an exception is to be taken, after the current instruction."""
        if self.nvic.pending:
            self._interrupt_run()

    def protection_changed(self) -> None:
        """Let the MPU's registers take effect after the current instruction."""
        self._protection_changed = True
        self._interrupt_run()

    def refuse_access(self, address: int) -> None:
        """Let the current access end in a BusFault: no device takes it."""
        self._refused = address
        self._core.engine.stop()

    def _interrupt_run(self) -> None:
        if self._running:
            self._core.cut_short()

    # Running

    def reset(self, vector_table: int = 0) -> None:
        """Reset the processor and its devices: stack pointer and start address come from the vector table.

        Memory and the bus's permissions stay as they are.
        """
        self._core.reset()
        self.nvic.level = 0
        self.nvic.reset()
        _assign(self.mpu, Mpu())
        _assign(self.system, SystemControl(vtor=vector_table))
        _assign(self.systick, SysTick())
        _assign(self.cycle_counter, CycleCounter())
        self.exceptions.current, self.exceptions.lockup = 0, None
        self._asleep = False
        self._stop, self._due_known, self._protection_changed, self._refused = None, False, False, None
        for device in self._resettable:
            device.reset()
        stack = self._memory.fetch_vector(vector_table)
        start = self._memory.fetch_vector(vector_table + 4)
        if stack is None or start is None:
            self.exceptions.lockup = f"no vector table at {vector_table:#010x}"
            return
        self._start_registers.write(stack & ~3, _RESET_LINK_REGISTER)
        self._core.pc, self._core.thumb = start & ~1, start & 1

    def run(self, limits: Limits | None = None) -> Stop:
        """Run until something ends it; may be called again to go on.

        Raises:
            PowerLost: A device had its supply cut.
        """
        limits = limits or Limits()
        first = self.instructions
        last = None if limits.instructions is None else first + limits.instructions
        deadline = None if limits.seconds is None else time.monotonic() + limits.seconds
        self._stop = None
        stop: Stop | None = None
        while stop is None:
            self._settle()
            if self._stop is None:
                self._go_on(last, deadline)
            stop = self._stop
        return Stop(stop.kind, stop.value, stop.detail, self.instructions - first)

    def _go_on(self, last: int | None, deadline: float | None) -> None:
        room = self._room(last)
        if room <= 0 or (deadline is not None and time.monotonic() > deadline):
            self._stop = self._timed_out(last)
        elif self._asleep:
            self._doze()
        else:
            self._run_for(room)

    def _settle(self) -> None:
        """Do what is due between two instructions."""
        if self._access_changes:
            for base, access in self._access_changes:
                self._memory.set_access(base, access)
            self._access_changes.clear()
        if self._protection_changed:
            self._protection_changed = False
            self._core.set_mpu(self.mpu, negative_priority=self.exceptions.negative_priority())
        self._let_time_pass()
        nvic = self.nvic
        while nvic.pending & nvic.enabled and self.exceptions.take_pending():
            self._asleep = False
        if self.exceptions.lockup is not None:
            where = f"{self.exceptions.lockup}, pc {self._core.pc:#010x}"
            self._stop = self._stop or Stop(StopKind.LOCKUP, 0, where)

    def _next_event(self) -> int | None:
        """Return when the time must be looked at again."""
        if not self._due_known:
            due = None
            for device in self._clocked:
                at = device.next_event()
                if at is not None and (due is None or at < due):
                    due = at
            self._device_due, self._due_known = due, True
            self._systick_due = self.systick.next_event()
        due, tick = self._device_due, self._systick_due
        return due if tick is None or (due is not None and due < tick) else tick

    def _let_time_pass(self) -> None:
        now = self._cycles
        due = self._next_event()
        if due is None or due > now:
            return
        if self._systick_due is not None and self._systick_due <= now:
            if self.systick.advance(now):
                self.nvic.pend(Exc.SYSTICK)
            self._systick_due = self.systick.next_event()
        if self._device_due is not None and self._device_due <= now:
            self._due_known = False
            for device in self._clocked:
                device.advance(now)

    def _room(self, last: int | None) -> int:
        """Return how many instructions may run before something else must be looked at.

        An interrupt that only waits for PRIMASK, BASEPRI or FAULTMASK must be taken right behind the
        instruction that unmasks it, and nothing tells when that one runs: so the run ends at every one that
        might.
        """
        room = _STRETCH if last is None else min(_STRETCH, last - self.instructions)
        due = self._next_event()
        if due is not None:
            room = min(room, due - self._cycles)
        nvic = self.nvic
        if nvic.pending & nvic.enabled and nvic.to_take(_NO_MASKS) is not None:
            room = min(room, straight_line(self._memory.code(self._core.pc, WINDOW)))
        return room

    def _timed_out(self, last: int | None) -> Stop:
        reached = last is not None and self.instructions >= last
        what = "instructions" if reached else "time"
        return Stop(StopKind.TIMEOUT, 0, f"limit of {what} reached at pc {self._core.pc:#010x}")

    def _run_for(self, room: int) -> None:
        self._running = True
        try:
            event = self._core.run(room)
        finally:
            self._running = False
            executed = self._core.executed
            self._cycles += executed
            self.instructions += executed
        if self._refused is not None:
            self._bus_fault(self._refused)
            self._refused = None
        elif event is not Event.LIMIT:
            self._handlers[event]()

    # What instructions ask for

    def _supervisor_call(self) -> None:
        self.exceptions.raise_synchronous(Exc.SVCALL)

    def _exception_return(self) -> None:
        back = self._core.pc | self._core.thumb
        if self.exceptions.leave(back) and self.system.scr & bits.SCR_SLEEPONEXIT:
            self._sleep()

    def _breakpoint(self) -> None:
        core = self._core
        if self._memory.halfword(core.pc) != semihosting.BREAKPOINT or not self.privileged():
            self.system.dfsr |= bits.DFSR_BKPT
            self.exceptions.raise_synchronous(Exc.DEBUG_MONITOR)
            return
        operation, argument = self._semihosting.read()
        answer = semihosting.call(operation, argument, self._memory, self._output)
        core.pc += 2
        if isinstance(answer, Stop):
            self.request_stop(answer)
        else:
            self._semihosting.write(answer, argument)

    def _wait_for_event(self) -> None:
        """WFE may end at any time (B1.5.18); it skips the time until a timer fires, at most."""
        pc = self._core.pc
        last = self._memory.halfword(pc - 2)
        if last == _WFE or (self._memory.halfword(pc - 4), last) == _WIDE_WFE:
            self._skip_to_event()

    def _skip_to_event(self) -> bool:
        due = self._next_event()
        if due is None:
            return False
        self._cycles = max(self._cycles, due)
        self._let_time_pass()
        return True

    def _sleep(self) -> None:
        self._asleep, self._dozed = True, 0

    def _doze(self) -> None:
        """Let time pass to the next event; an exception ends sleep, whatever PRIMASK says (B1.5.19)."""
        masks = self.exceptions.masks()
        if self.nvic.to_take(Masks(0, masks.basepri, masks.faultmask)) is not None:
            self._asleep = False
            return
        self._dozed += 1
        listening = any(device.listening for device in self._listeners)
        if not self._skip_to_event() or (self._dozed > _WAKELESS_EVENTS and not listening):
            self._stop = Stop(StopKind.IDLE, 0, f"sleeps for ever at pc {self._core.pc:#010x}")

    # Faults

    def _memory_fault(self) -> None:
        self.system.cfsr |= bits.CFSR_DACCVIOL | bits.CFSR_MMARVALID
        self.system.mmfar = self._core.address
        self.exceptions.raise_synchronous(Exc.MEM_MANAGE)

    def _bus_fault(self, address: int) -> None:
        self.system.cfsr |= bits.CFSR_PRECISERR | bits.CFSR_BFARVALID
        self.system.bfar = address
        self.exceptions.raise_synchronous(Exc.BUS_FAULT)

    def _fault(self, cause: int, exception: Exc) -> None:
        self.system.cfsr |= cause
        self.exceptions.raise_synchronous(exception)

    # Snapshots

    def snapshot(self) -> CpuSnapshot:
        """Return a copy of the processor and of its devices that can be copied. Only between runs."""
        return CpuSnapshot(
            self._core.save(),
            self.nvic.copy(),
            self.mpu.copy(),
            self.system.copy(),
            self.systick.copy(),
            self.cycle_counter.copy(),
            self.exceptions.current,
            self.exceptions.lockup,
            self._asleep,
            self._cycles,
            self.instructions,
            tuple(device.save() for device in self._stateful),
            self._memory.all_access(),
        )

    def restore(self, saved: CpuSnapshot) -> None:
        """Take the state of a snapshot; memory is the caller's. Only between runs."""
        self._core.load(saved.core)
        _assign(self.nvic, saved.nvic.copy())
        _assign(self.mpu, saved.mpu.copy())
        _assign(self.system, saved.system.copy())
        _assign(self.systick, saved.systick.copy())
        _assign(self.cycle_counter, saved.cycle_counter.copy())
        self.exceptions.current, self.exceptions.lockup = saved.current, saved.lockup
        self._asleep = saved.asleep
        self._cycles, self.instructions = saved.cycles, saved.instructions
        self._stop, self._due_known, self._protection_changed, self._refused = None, False, False, None
        for device, state in zip(self._stateful, saved.devices, strict=True):
            device.load(state)
        for base, access in saved.access:
            self._memory.set_access(base, access)


def _nowhere(_: bytes) -> None:
    """Output that nobody asked for."""


_STATES: tuple[Any, ...] = (Nvic, Mpu, SystemControl, SysTick, CycleCounter)
_NAMES = {state: tuple(field.name for field in dataclasses.fields(state)) for state in _STATES}


def _assign(target: object, source: object) -> None:
    """Give a state object that others hold the values of another one of its class."""
    for name in _NAMES[type(source)]:
        setattr(target, name, getattr(source, name))
