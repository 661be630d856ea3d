"""The board mps2-an385 / mps2-an386: runs any bare-metal or RTOS program, with no chain of trust.

Memory and devices stand where QEMU's machine of that name has them (hw/arm/mps2.c). What that machine leaves
unimplemented reads as zero here too; so do its Ethernet, SPI, I2C and I2S. The processor is always a
Cortex-M4 with floating point, which runs the Cortex-M3 programs of an385 as well.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.cortexm import Access, CortexM4, MemoryRegion
from fuseline.device.silicon.engine import Limits, Stop
from fuseline.device.silicon.memory_map import PSRAM_BASE, PSRAM_SIZE, UART0, WATCHDOG
from fuseline.device.silicon.peripherals.dual_timer import CmsdkDualTimer
from fuseline.device.silicon.peripherals.fpga import Absent, BitBand, BoardControl, FpgaIo
from fuseline.device.silicon.peripherals.timer import CmsdkTimer
from fuseline.device.silicon.peripherals.uart import CmsdkUart, OverrunLine
from fuseline.device.silicon.peripherals.watchdog import CmsdkWatchdog
from fuseline.device.silicon.program import MemoryWindow, Program, read_program

if TYPE_CHECKING:
    from fuseline.device.silicon.cortexm import BusDevice

_MIB = 1024 * 1024
CODE_BASE: Final = 0x0000_0000
CODE_SIZE: Final = 4 * _MIB
SSRAM_BASE: Final = 0x2000_0000
SSRAM_SIZE: Final = 4 * _MIB
_BLOCK_RAM, _BLOCK_RAM_SIZE = 0x0100_0000, 16 * 1024

# Address, then interrupt lines for sending and receiving, of UART0 to UART4.
_UARTS = (
    (UART0, 1, 0), (0x4000_5000, 3, 2), (0x4000_6000, 5, 4), (0x4000_7000, 18, 19), (0x4000_9000, 20, 21),
)  # fmt: skip
_UART_OVERRUN_IRQ = 12
_TIMERS = ((0x4000_0000, 8), (0x4000_1000, 9))
_DUAL_TIMER = (0x4000_2000, 10)
_FPGA_IO, _BOARD_CONTROL = 0x4002_8000, 0x4002_F000
# SCC_ID and SCC_AID of the image AN386 (QEMU hw/arm/mps2.c).
_IDENTITY = (0x4104_3860, 0x0020_0008)
# QEMU: unimplemented, or (0x40020000 to 0x4002A000, 0x40200000) SPI, I2C, I2S and Ethernet.
_ABSENT = (
    (0x4000_3000, 0x1000), (0x4000_A000, 0x6000), (0x4001_0000, 0x1_8000), (0x4002_9000, 0x6000),
    (0x4003_0000, 0x1D_0000), (0x4020_0000, 0x1000), (0x4100_0000, 0x20_0000),
    (0x0080_0000, 0x80_0000), (0x0101_0000, 0x1EFF_0000), (0x2080_0000, 0x80_0000),
)  # fmt: skip
_BIT_BANDS = ((0x2200_0000, 0x2000_0000), (0x4200_0000, 0x4000_0000))

WINDOWS: Final = (
    MemoryWindow(CODE_BASE, CODE_SIZE),
    MemoryWindow(_BLOCK_RAM, _BLOCK_RAM_SIZE),
    MemoryWindow(SSRAM_BASE, SSRAM_SIZE),
    MemoryWindow(PSRAM_BASE, PSRAM_SIZE),
)
"""Where a program may stand."""


class Board:
    """One board. Make a new one for each program.

    Args:
        output: Takes what the program prints: UART0 and semihosting.
        source: Gives what is typed into UART0.

    Attributes:
        cpu: The processor.
        uarts: UART0 to UART4; what UART1 to UART4 send is dropped.
    """

    def __init__(self, output: Callable[[bytes], None], *, source: Callable[[], bytes] | None = None) -> None:
        overrun = OverrunLine(_UART_OVERRUN_IRQ)
        self.uarts = tuple(
            CmsdkUart(
                base,
                output if base == UART0 else _drop,
                tx_irq=tx,
                rx_irq=rx,
                overrun=overrun,
                source=source if base == UART0 else None,
            )
            for base, tx, rx in _UARTS
        )
        devices: list[BusDevice] = [
            *self.uarts,
            *(CmsdkTimer(base, irq) for base, irq in _TIMERS),
            CmsdkDualTimer(*_DUAL_TIMER),
            CmsdkWatchdog(WATCHDOG),
            FpgaIo(_FPGA_IO),
            BoardControl(_BOARD_CONTROL, _IDENTITY),
            *(Absent(base, size) for base, size in _ABSENT),
            *(BitBand(base, target) for base, target in _BIT_BANDS),
        ]
        self.cpu = CortexM4(_regions(), devices, output=output)

    def load(self, program: Program) -> None:
        """Put a program into memory and reset the processor."""
        for segment in program.segments:
            for window in WINDOWS:
                offset = segment.address - window.base
                if 0 <= offset < window.size:
                    view = self.cpu.memory.view(window.base)
                    view[offset : offset + len(segment.data)] = segment.data
                    self.cpu.code_changed(segment.address, len(segment.data))
        self.cpu.reset()


def _regions() -> list[MemoryRegion]:
    regions: list[MemoryRegion] = []
    mirrored = ((CODE_BASE, CODE_SIZE, 2), (_BLOCK_RAM, _BLOCK_RAM_SIZE, 4), (SSRAM_BASE, SSRAM_SIZE, 2))
    for base, size, copies in mirrored:
        memory = memoryview(mmap.mmap(-1, size))
        regions += [MemoryRegion(base + copy * size, size, Access.RWX, memory) for copy in range(copies)]
    regions.append(MemoryRegion(PSRAM_BASE, PSRAM_SIZE, Access.RWX))
    return regions


def _drop(_: bytes) -> None:
    """What the board's other UARTs send goes nowhere."""


def run_program(
    path: Path,
    *,
    output: Callable[[bytes], None],
    limits: Limits,
    source: Callable[[], bytes] | None = None,
) -> Stop:
    """Run a program until it ends, or a limit is reached.

    Args:
        path: An ELF file, or a raw image for address 0.
        output: Takes what it prints.
        limits: When to give up.
        source: Gives what is typed into UART0; with one, a program that sleeps is never idle.

    Raises:
        SiliconError: The file is no program for this board; see `read_program`.
    """
    board = Board(output, source=source)
    board.load(read_program(path, WINDOWS))
    return board.cpu.run(limits)
