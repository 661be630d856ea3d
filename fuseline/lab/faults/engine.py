"""The engine that fault campaigns run chips on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.cortexm import Access
from fuseline.device.silicon.memory_map import UART0
from fuseline.device.silicon.unicorn_engine import UnicornEngine

if TYPE_CHECKING:
    from fuseline.device.silicon.unicorn_engine import EngineSnapshot

_UART_SIZE: Final = 4096


class WatchedEngine(UnicornEngine):
    """An engine for many short boots, with an eye on main RAM.

    Where the UART stands there is plain memory, as if characters left at once and nobody listened: half of a
    refused boot would otherwise go into polling it.

    Attributes:
        opened: Main RAM was executable at some time, which a chip forgets when it fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self.opened = False
        self.cpu.uc.mem_unmap(UART0, _UART_SIZE)
        self.cpu.uc.mem_map(UART0, _UART_SIZE, Access.RW)

    def rung(self) -> None:
        """Answer the doorbell."""
        super().rung()
        if self._silicon is not None and self._silicon.exec_enabled:
            self.opened = True

    def restore(self, snapshot: EngineSnapshot) -> None:
        """Go back to a snapshot of the chip in the engine, taken before main RAM was executable."""
        super().restore(snapshot)
        # Whatever a fault wrote to the UART's state must not make the next boot wait for ever.
        self.cpu.uc.mem_write(UART0, bytes(_UART_SIZE))
        self.opened = False
