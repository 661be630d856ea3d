"""The first engine: the chip's machine code on the emulated Cortex-M4, every window guarded.

One engine runs any number of chips, one after another. It keeps the processor and its translated code, and
shows it the memory of the chip at hand; nothing else of a chip stays in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon import memory_map as m
from fuseline.device.silicon.cortexm import Access, BusDevice, CortexM4, MemoryRegion
from fuseline.device.silicon.peripherals.timer import CmsdkTimer
from fuseline.device.silicon.peripherals.uart import CmsdkUart
from fuseline.device.silicon.peripherals.watchdog import CmsdkWatchdog
from fuseline.device.silicon.psram_window import PsramWindow, SramWindow
from fuseline.device.silicon.run import CONSOLE_LIMIT, Doorbell, Run

if TYPE_CHECKING:
    from fuseline.device.silicon.cortexm import CpuSnapshot
    from fuseline.device.silicon.engine import Limits
    from fuseline.device.silicon.silicon import Silicon, SiliconSnapshot

_WINDOWS: Final = (
    (m.FLASH_BASE, m.FLASH_SIZE, Access.R),
    (m.RAM_BASE, m.RAM_SIZE, Access.RW),
    (m.FUSE_SHADOW, m.FUSE_SHADOW_SIZE, Access.R),
    (m.MAILBOX, m.MAILBOX_SIZE, Access.RW),
    (m.SYSTEM, m.SYSTEM_SIZE, Access.R),
    (m.RETENTION, m.RETENTION_SIZE, Access.RW),
)
"""Windows of the chip's memory, and what the processor may do in them. Between them is nothing.

The PUF's rows are none of them but registers: to take a window away and to give it back, Unicorn makes its
whole map anew, twice a boot.
"""

_RUNS_BETWEEN_FLUSHES: Final = 1000
"""Translations of one chip's loader are dead at the next chip's: 7 KiB a run, until 64 MiB are full."""

# mps2-an386 (QEMU 7.2 hw/arm/mps2.c); the chip has a part of that board's peripherals.
_TIMERS = ((0x4000_0000, 8), (0x4000_1000, 9))
_UART_RX_IRQ, _UART_TX_IRQ = 0, 1


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """A chip in the engine at one moment, processor and all.

    Attributes:
        cpu: Processor and peripherals.
        sram: Private SRAM.
        silicon: Everything else of the chip.
        console: What was printed.
        handover: See `Run.handover`.
    """

    cpu: CpuSnapshot
    sram: bytes = field(repr=False)
    silicon: SiliconSnapshot = field(repr=False)
    console: bytes
    handover: bytes | None = field(repr=False)


class UnicornEngine:
    """Runs the machine code of one chip after another.

    Attributes:
        cpu: The processor; for fault campaigns.
        sram: Its private SRAM.
    """

    name = "unicorn"

    def __init__(self) -> None:
        self._psram, self._sram = PsramWindow(), SramWindow()
        self._rom = b""
        self._silicon: Silicon | None = None
        self._doorbell: Doorbell | None = None
        self._console = bytearray()
        self._runs = 0
        windows = [
            MemoryRegion(base, size, access, self._psram.view(base, size)) for base, size, access in _WINDOWS
        ]
        own = [
            MemoryRegion(m.ROM_BASE, m.ROM_SIZE, Access.RX),
            MemoryRegion(m.SRAM_BASE, m.SRAM_SIZE, Access.RWX, self._sram.view()),
        ]
        devices: tuple[BusDevice, ...] = (
            _DoorbellPage(self),
            _PufRows(self, self._psram.view(m.PUF_ROWS, m.PUF_ROWS_SIZE)),
            CmsdkUart(m.UART0, self._print, rx_irq=_UART_RX_IRQ, tx_irq=_UART_TX_IRQ),
            CmsdkWatchdog(m.WATCHDOG),
            *(CmsdkTimer(base, irq) for base, irq in _TIMERS),
        )
        self.cpu = CortexM4([*own, *windows], devices, output=self._print)
        self.sram = self.cpu.memory.view(m.SRAM_BASE)

    def run(self, silicon: Silicon, rom: bytes, limits: Limits) -> Run:
        """Start the processor at the ROM's reset vector and run until something ends it.

        Args:
            silicon: The chip, fresh from its reset.
            rom: What stands at address 0.
            limits: When to give up.
        """
        self.start(silicon, rom)
        return self.resume(limits)

    def start(self, silicon: Silicon, rom: bytes) -> None:
        """Put a chip in the engine, its processor at its first instruction.

        Args:
            silicon: The chip, fresh from its reset.
            rom: What stands at address 0.

        Raises:
            RuntimeError: The ROM is too large.
        """
        self._runs += 1
        if self._runs % _RUNS_BETWEEN_FLUSHES == 0:
            self.cpu.uc.ctl_flush_tb()
        if rom is not self._rom:
            self._load_rom(rom)
        if silicon is not self._silicon:
            self._psram.show(silicon.psram)
            self._silicon = silicon
        self._doorbell = Doorbell(silicon)
        self._console.clear()
        self._sram.power_up()
        self.cpu.code_changed(m.SRAM_BASE, m.SRAM_SIZE)
        # A device that is reset lets go of its line; the processor's own reset does not know that.
        self.cpu.nvic.level = 0
        self.cpu.reset(m.ROM_BASE)
        self._guard(silicon)

    def resume(self, limits: Limits) -> Run:
        """Let the processor go on until something ends the run, or the limit.

        Raises:
            RuntimeError: No chip was put in by `start`.
        """
        _, doorbell = self._chip()
        stop = self.cpu.run(limits)
        return Run(stop, bytes(self._console), doorbell.handover)

    def snapshot(self) -> EngineSnapshot:
        """Return everything at this moment. Only between two calls of `resume`.

        Raises:
            RuntimeError: No chip was put in by `start`.
        """
        silicon, doorbell = self._chip()
        return EngineSnapshot(
            self.cpu.snapshot(),
            bytes(self.sram),
            silicon.snapshot(ram=True),
            bytes(self._console),
            doorbell.handover,
        )

    def restore(self, snapshot: EngineSnapshot) -> None:
        """Go back to a snapshot of the chip in the engine.

        Raises:
            RuntimeError: No chip was put in by `start`.
        """
        silicon, doorbell = self._chip()
        self.cpu.restore(snapshot.cpu)
        self.set_sram(snapshot.sram)
        silicon.restore(snapshot.silicon)
        self.cpu.code_changed(m.RAM_BASE, m.RAM_SIZE)
        self._console[:] = snapshot.console
        doorbell.handover = snapshot.handover

    def _chip(self) -> tuple[Silicon, Doorbell]:
        if self._silicon is None or self._doorbell is None:
            raise RuntimeError("`start` comes first")
        return self._silicon, self._doorbell

    def set_sram(self, content: bytes) -> None:
        """Set the processor's private SRAM, which may have held code."""
        self.sram[:] = content
        self.cpu.code_changed(m.SRAM_BASE, m.SRAM_SIZE)

    def rung(self) -> None:
        """Answer the doorbell: the processor has written to it."""
        silicon, doorbell = self._chip()
        executable, written = silicon.state.exec_enabled, silicon.port.dma.writes
        stop = doorbell.answer()
        if stop is not None:
            self.cpu.request_stop(stop)
        elif silicon.state.exec_enabled and not executable:
            # What was translated here is of another run, or of another chip.
            self.cpu.code_changed(m.RAM_BASE, m.RAM_SIZE)
            self._guard(silicon)
        elif executable and silicon.port.dma.writes != written:
            # A block may have written where code was translated; the processor sees its own stores only.
            self.cpu.code_changed(m.RAM_BASE, m.RAM_SIZE)

    def refuse_puf(self, address: int) -> bool:
        """Return whether the PUF is locked; if so the access ends in a BusFault."""
        silicon, _ = self._chip()
        if silicon.puf_locked:
            self.cpu.refuse_access(address)
        return silicon.puf_locked

    def _guard(self, silicon: Silicon) -> None:
        """Open or close the window over which the chip's state decides."""
        access = Access.RWX if silicon.exec_enabled else Access.RW
        # Each change of access ends a stretch of translated code: none is asked for in vain.
        if self.cpu.memory.access(m.RAM_BASE) != access:
            self.cpu.set_access(m.RAM_BASE, access)

    def _load_rom(self, rom: bytes) -> None:
        if len(rom) > m.ROM_SIZE:
            raise RuntimeError(f"the ROM has {m.ROM_SIZE} octets, not {len(rom)}")
        self.cpu.memory.view(m.ROM_BASE)[:] = rom.ljust(m.ROM_SIZE, b"\0")
        self.cpu.code_changed(m.ROM_BASE, m.ROM_SIZE)
        self._rom = rom

    def _print(self, octets: bytes) -> None:
        self._console += octets[: CONSOLE_LIMIT - len(self._console)]


class _DoorbellPage:
    """The doorbell as the processor sees it: the answer is there before its next instruction."""

    base, size = m.DOORBELL, m.DOORBELL_SIZE

    def __init__(self, engine: UnicornEngine) -> None:
        self._engine = engine

    def read(self, _offset: int, _size: int) -> int:
        """Return 0: the block has cleared it already."""
        return 0

    def write(self, offset: int, _size: int, value: int) -> None:
        """Ring."""
        if offset < 4 and value:
            self._engine.rung()


class _PufRows:
    """The PUF's rows as the processor sees them: memory until they are locked, and then nothing."""

    base, size = m.PUF_ROWS, m.PUF_ROWS_SIZE

    def __init__(self, engine: UnicornEngine, rows: memoryview) -> None:
        self._engine = engine
        self._rows = rows

    def read(self, offset: int, size: int) -> int:
        """Return what stands there."""
        if self._engine.refuse_puf(self.base + offset):
            return 0
        return int.from_bytes(self._rows[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Overwrite what stands there."""
        if not self._engine.refuse_puf(self.base + offset):
            self._rows[offset : offset + size] = value.to_bytes(size, "little")
