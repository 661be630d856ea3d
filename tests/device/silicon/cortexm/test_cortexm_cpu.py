"""The processor as a host sees it: stops, limits, snapshots, access, interrupts from devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from unicorn import arm_const as arm

from fuseline.device.silicon.cortexm import Access, BusDevice, CortexM4, MemoryRegion
from fuseline.device.silicon.engine import Limits, Stop, StopKind
from fuseline.device.silicon.memory_map import ResetReason
from fuseline.device.silicon.power import PowerLost

CODE, DATA, SIZE = 0x0000_0000, 0x2000_0000, 0x1_0000
START, HANDLER = 0x100, 0x200

NOP, WFI, LOOP = 0xBF00, 0xBF30, 0xE7FE
CPSID_I, CPSIE_I = 0xB672, 0xB662
ADDS_R0_1, BX_LR, UDF = 0x3001, 0x4770, 0xDE00
MOVS_R0_0 = 0x2000
STR_R0_R1, LDR_R0_R1 = 0x6008, 0x6808
MOV_R1_DEVICE = (0xF04F, 0x4180)  # mov.w r1, #0x40000000


class Tiny:
    """A processor with 64 KiB of code at 0 and 64 KiB of data at 0x20000000, and a few instructions to run.

    The stack begins in the middle of the data; all exceptions lead to `HANDLER`.
    """

    def __init__(
        self, *code: int, handler: tuple[int, ...] = (0xE7FE,), devices: tuple[BusDevice, ...] = ()
    ) -> None:
        regions = [MemoryRegion(CODE, SIZE, Access.RWX), MemoryRegion(DATA, SIZE, Access.RWX)]
        self.console = bytearray()
        self.cpu = CortexM4(regions, devices, output=self.console.extend)
        self.code, self.data = self.cpu.memory.view(CODE), self.cpu.memory.view(DATA)
        vectors = (DATA + SIZE // 2, START | 1, *(HANDLER | 1,) * 46)
        self.code[: 4 * len(vectors)] = b"".join(word.to_bytes(4, "little") for word in vectors)
        self.place(START, *code)
        self.place(HANDLER, *handler)
        self.cpu.reset()

    def place(self, address: int, *halfwords: int) -> None:
        """Write code."""
        octets = b"".join(word.to_bytes(2, "little") for word in halfwords)
        self.code[address : address + len(octets)] = octets
        self.cpu.code_changed(address, len(octets))


@dataclass
class Recorder:
    """A device that notes what is written, and does something then."""

    base: int = 0x4000_0000
    size: int = 0x1000
    written: list[tuple[int, int, int]] = field(default_factory=list)
    reaction: Any = None

    def read(self, offset: int, size: int) -> int:
        self.written.append((offset, size, -1))
        return 0x1234_5678

    def write(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))
        if self.reaction is not None:
            self.reaction()


def test_sleep_without_any_interrupt_to_come_is_idle() -> None:
    stop = Tiny(WFI, LOOP).cpu.run()
    assert stop.kind is StopKind.IDLE
    assert stop.instructions == 1


def test_sleep_is_idle_although_a_timer_runs_whose_interrupt_is_not_enabled() -> None:
    tiny = Tiny(WFI, LOOP)
    tiny.cpu.systick.write_reload(0, 99)
    tiny.cpu.systick.write_control(0, 5)
    assert tiny.cpu.run().kind is StopKind.IDLE


def test_sleep_under_primask_ends_and_the_interrupt_waits() -> None:
    tiny = Tiny(CPSID_I, WFI, MOVS_R0_0, ADDS_R0_1, LOOP)
    tiny.cpu.run(Limits(instructions=1))
    tiny.cpu.nvic.enabled |= 1 << 16
    tiny.cpu.set_irq(0, True)
    tiny.cpu.run(Limits(instructions=10))
    assert (tiny.cpu.exceptions.current, tiny.cpu.pc) == (0, START + 8)


def test_a_processor_that_was_idle_sleeps_on_until_an_interrupt_comes() -> None:
    tiny = Tiny(WFI, LOOP)
    assert tiny.cpu.run().kind is StopKind.IDLE
    saved = tiny.cpu.snapshot()
    assert tiny.cpu.run().instructions == 0
    tiny.cpu.restore(saved)
    tiny.cpu.nvic.enabled |= 1 << 16
    tiny.cpu.set_irq(0, True)
    assert tiny.cpu.run(Limits(instructions=3)).instructions == 3
    assert tiny.cpu.exceptions.current == 16


def test_a_limit_of_instructions_is_exact_and_the_run_can_go_on() -> None:
    tiny = Tiny(MOVS_R0_0, *[ADDS_R0_1] * 50, WFI)
    for step in range(1, 20):
        stop = tiny.cpu.run(Limits(instructions=1))
        assert (stop.kind, stop.instructions) == (StopKind.TIMEOUT, 1)
        assert tiny.cpu.pc == START + 2 * step
    assert tiny.cpu.run().kind is StopKind.IDLE
    assert tiny.cpu.instructions == 52


def test_instructions_are_counted_in_a_page_that_the_mpu_divides() -> None:
    tiny = Tiny(MOVS_R0_0, *[ADDS_R0_1] * 8, 0x3C01, 0xD1F5, WFI)
    tiny.cpu.mpu.write_rbar(START)
    tiny.cpu.mpu.write_rasr(0x0600_0000 | 5 << 1 | 1)
    tiny.cpu.mpu.write_control(5)
    tiny.cpu.protection_changed()
    tiny.cpu.uc.reg_write(arm.UC_ARM_REG_R4, 3)
    for step in range(1, 9):
        tiny.cpu.run(Limits(instructions=1))
        assert tiny.cpu.pc == START + 2 * step
    stop = tiny.cpu.run()
    assert (stop.kind, stop.instructions) == (StopKind.IDLE, 1 + 3 * 10 + 1 - 8)


def test_a_limit_of_time_ends_an_endless_loop() -> None:
    stop = Tiny(LOOP).cpu.run(Limits(seconds=0.05))
    assert stop.kind is StopKind.TIMEOUT
    assert stop.instructions > 1_000


def test_a_fault_in_the_fault_handler_locks_up() -> None:
    stop = Tiny(UDF, handler=(UDF,)).cpu.run()
    assert stop.kind is StopKind.LOCKUP
    assert f"pc {HANDLER:#010x}" in stop.detail


def test_a_vector_table_outside_memory_locks_up_at_once() -> None:
    cpu = CortexM4([MemoryRegion(DATA, SIZE, Access.RWX)])
    cpu.reset()
    assert cpu.run(Limits(instructions=10)).kind is StopKind.LOCKUP


def test_a_stack_in_the_void_ends_in_the_fault_handler_and_not_in_a_traceback() -> None:
    tiny = Tiny(UDF, handler=(NOP, NOP, WFI))
    tiny.code[0:4] = (0x9000_0000).to_bytes(4, "little")
    tiny.cpu.reset()
    assert tiny.cpu.run(Limits(instructions=100)).kind is StopKind.IDLE
    assert tiny.cpu.system.cfsr & 0x1000


def test_a_device_sees_each_access_once_with_its_size() -> None:
    device = Recorder()
    tiny = Tiny(*MOV_R1_DEVICE, 0x2055, STR_R0_R1, 0x8048, 0x70C8, LDR_R0_R1, WFI, devices=(device,))
    assert tiny.cpu.run().kind is StopKind.IDLE
    assert device.written == [(0, 4, 0x55), (2, 2, 0x55), (3, 1, 0x55), (0, 4, -1)]
    assert tiny.cpu.uc.reg_read(arm.UC_ARM_REG_R0) == 0x1234_5678


def test_a_stop_asked_for_by_a_device_comes_right_behind_the_store() -> None:
    device = Recorder()
    tiny = Tiny(*MOV_R1_DEVICE, MOVS_R0_0, STR_R0_R1, ADDS_R0_1, WFI, devices=(device,))
    device.reaction = lambda: tiny.cpu.request_stop(Stop(StopKind.EXIT, 42))
    stop = tiny.cpu.run()
    assert (stop.kind, stop.value, tiny.cpu.pc) == (StopKind.EXIT, 42, START + 8)
    device.reaction = None
    assert tiny.cpu.run().kind is StopKind.IDLE
    assert len(device.written) == 1
    assert tiny.cpu.uc.reg_read(arm.UC_ARM_REG_R0) == 1


def test_a_power_cut_in_a_device_ends_the_run() -> None:
    device = Recorder()

    def cut() -> None:
        raise PowerLost

    tiny = Tiny(*MOV_R1_DEVICE, STR_R0_R1, WFI, devices=(device,))
    device.reaction = cut
    with pytest.raises(PowerLost):
        tiny.cpu.run()


def test_an_access_that_no_device_takes_is_a_bus_fault_and_leaves_the_register() -> None:
    device = Recorder()
    tiny = Tiny(*MOV_R1_DEVICE, 0x2007, STR_R0_R1, WFI, handler=(NOP, WFI), devices=(device,))
    device.reaction = lambda: tiny.cpu.refuse_access(0x4000_0000)
    assert tiny.cpu.run().kind is StopKind.IDLE
    assert (tiny.cpu.system.cfsr, tiny.cpu.system.bfar) == (0x8200, 0x4000_0000)
    assert tiny.cpu.uc.reg_read(arm.UC_ARM_REG_R0) == 7


def test_memory_becomes_executable_for_the_instruction_behind_the_store() -> None:
    device = Recorder()
    tiny = Tiny(*MOV_R1_DEVICE, STR_R0_R1, 0x4710, handler=(NOP, WFI), devices=(device,))
    tiny.data[0:2] = WFI.to_bytes(2, "little")
    tiny.cpu.set_access(DATA, Access.RW)
    tiny.cpu.uc.reg_write(arm.UC_ARM_REG_R2, DATA | 1)
    before = tiny.cpu.snapshot()
    assert tiny.cpu.run().kind is StopKind.IDLE
    assert tiny.cpu.system.cfsr == 0x100
    tiny.cpu.restore(before)
    device.reaction = lambda: tiny.cpu.set_access(DATA, Access.RWX)
    assert tiny.cpu.run().kind is StopKind.IDLE
    assert (tiny.cpu.system.cfsr, tiny.cpu.pc) == (0, DATA + 2)


@pytest.mark.parametrize("access", [Access.NONE, Access.W])
def test_memory_that_was_locked_cannot_be_read(access: Access) -> None:
    tiny = Tiny(0x6810, WFI, handler=(NOP, WFI))
    tiny.cpu.uc.reg_write(arm.UC_ARM_REG_R2, DATA + SIZE - 64)
    extra = CortexM4([MemoryRegion(CODE, SIZE, Access.RWX, tiny.code), MemoryRegion(DATA, SIZE, Access.RWX)])
    extra.reset()
    extra.uc.reg_write(arm.UC_ARM_REG_R2, DATA)
    extra.set_access(DATA, access)
    extra.run(Limits(instructions=20))
    assert extra.system.cfsr & 0x200
    assert extra.system.bfar == DATA


def test_code_written_by_a_host_runs_once_it_is_announced() -> None:
    tiny = Tiny(MOVS_R0_0, ADDS_R0_1, WFI)
    tiny.cpu.run()
    tiny.code[START + 2 : START + 4] = (0x3005).to_bytes(2, "little")
    tiny.cpu.code_changed(START, 4)
    tiny.cpu.reset()
    tiny.cpu.run()
    assert tiny.cpu.uc.reg_read(arm.UC_ARM_REG_R0) == 5


def test_code_that_the_processor_writes_over_itself_runs_anew() -> None:
    # loop twice: execute the instruction at `target`, then overwrite it with adds r0, #5
    code = (0x2002, 0x3001, 0x8011, 0x3C01, 0xD1FB, WFI)
    tiny = Tiny(*code)
    tiny.cpu.uc.reg_write(arm.UC_ARM_REG_R1, 0x3005)
    tiny.cpu.uc.reg_write(arm.UC_ARM_REG_R2, START + 2)
    tiny.cpu.uc.reg_write(arm.UC_ARM_REG_R4, 2)
    assert tiny.cpu.run(Limits(instructions=100)).kind is StopKind.IDLE
    assert tiny.cpu.uc.reg_read(arm.UC_ARM_REG_R0) == 2 + 1 + 5


def test_a_snapshot_brings_back_registers_interrupts_and_time() -> None:
    tiny = Tiny(CPSID_I, *[ADDS_R0_1] * 20, CPSIE_I, *[ADDS_R0_1] * 5, WFI, handler=(0x3064, BX_LR))
    tiny.cpu.nvic.enabled |= 1 << 20
    tiny.cpu.run(Limits(instructions=5))
    tiny.cpu.set_irq(4, True)
    tiny.cpu.set_irq(4, False)
    saved = tiny.cpu.snapshot()
    results = []
    for _ in range(3):
        tiny.cpu.restore(saved)
        stop = tiny.cpu.run()
        results.append((stop, tiny.cpu.uc.reg_read(arm.UC_ARM_REG_PC), tiny.cpu.now))
    assert results[0] == results[1] == results[2]
    assert results[0][0].kind is StopKind.IDLE


def test_a_line_that_stays_high_interrupts_again_and_again() -> None:
    tiny = Tiny(*[NOP] * 3, LOOP, handler=(0x3401, BX_LR))
    tiny.cpu.uc.reg_write(arm.UC_ARM_REG_R4, 0)
    tiny.cpu.nvic.enabled |= 1 << 19
    tiny.cpu.set_irq(3, True)
    tiny.cpu.run(Limits(instructions=41))
    assert tiny.cpu.uc.reg_read(arm.UC_ARM_REG_R4) > 10
    tiny.cpu.set_irq(3, False)
    tiny.cpu.run(Limits(instructions=100))
    assert tiny.cpu.nvic.active == 0


def test_an_interrupt_line_that_does_not_exist_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="no interrupt line 32"):
        Tiny(LOOP).cpu.set_irq(32, True)


def test_masks_are_seen_although_the_code_is_unprivileged() -> None:
    # cpsid i; msr control, r0 (r0 = 1); isb; adds r0, #1; b .
    tiny = Tiny(0x2001, CPSID_I, 0xF380, 0x8814, 0xF3BF, 0x8F6F, LOOP, handler=(WFI, LOOP))
    tiny.cpu.run(Limits(instructions=5))
    tiny.cpu.nvic.enabled |= 1 << 16
    tiny.cpu.set_irq(0, True)
    stop = tiny.cpu.run(Limits(instructions=50))
    assert (stop.kind, tiny.cpu.pc, tiny.cpu.privileged()) == (StopKind.TIMEOUT, START + 12, False)


def test_the_exclusive_monitor_is_cleared_by_an_exception() -> None:
    # ldrex r0, [r2]; svc 0; strex r3, r0, [r2]
    tiny = Tiny(0xE852, 0x0F00, 0xDF00, 0xE842, 0x0300, WFI, handler=(BX_LR,))
    tiny.cpu.uc.reg_write(arm.UC_ARM_REG_R2, DATA)
    tiny.cpu.run()
    assert tiny.cpu.uc.reg_read(arm.UC_ARM_REG_R3) == 1


def test_the_cycle_counter_counts_instructions() -> None:
    # ldr r0, [r2]; nop x 10; ldr r1, [r2]; subs r1, r0
    tiny = Tiny(0x6810, *[NOP] * 10, 0x6811, 0x1A09, WFI)
    tiny.cpu.cycle_counter.enable(tiny.cpu.now, on=True)
    tiny.cpu.uc.reg_write(arm.UC_ARM_REG_R2, 0xE000_1004)
    tiny.cpu.run()
    assert tiny.cpu.uc.reg_read(arm.UC_ARM_REG_R1) == 11


def test_reset_request_ends_the_run_as_a_warm_reset() -> None:
    tiny = Tiny(STR_R0_R1, LOOP)
    tiny.cpu.uc.reg_write(arm.UC_ARM_REG_R0, 0x05FA_0004)
    tiny.cpu.uc.reg_write(arm.UC_ARM_REG_R1, 0xE000_ED0C)
    stop = tiny.cpu.run()
    assert (stop.kind, stop.value) == (StopKind.RESET, ResetReason.WARM)


def test_a_reset_leaves_nothing_of_the_run_before() -> None:
    tiny = Tiny(MOVS_R0_0, *[ADDS_R0_1] * 9, UDF, handler=(NOP, WFI))
    tiny.cpu.mpu.write_control(5)
    tiny.cpu.nvic.enabled |= 0xFF << 16
    first = tiny.cpu.run()
    for _ in range(3):
        tiny.cpu.reset()
        assert (tiny.cpu.mpu.control, tiny.cpu.nvic.active, tiny.cpu.system.cfsr) == (0, 0, 0)
        assert tiny.cpu.run() == first
