"""What every engine takes and gives, whichever processor model stands behind it."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from fuseline.device.silicon.commands import Stage
from fuseline.device.silicon.engine import Stop, StopKind
from fuseline.device.silicon.memory_map import HANDOVER, HANDOVER_SIZE, SRAM_SIZE
from fuseline.device.silicon.power import PowerLost

if TYPE_CHECKING:
    from fuseline.device.silicon.engine import Limits
    from fuseline.device.silicon.silicon import Silicon

CONSOLE_LIMIT: Final = 1024 * 1024
"""Octets of console output that are kept of one run; what a program prints beyond them is dropped."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the processor, from a reset to whatever ended it.

    Attributes:
        stop: How it ended.
        console: What was written to UART0, and by semihosting; up to `CONSOLE_LIMIT` octets.
        handover: `HANDOVER_SIZE` octets as the ROM left them for the loader, before its first instruction;
            None if it did not come so far.
    """

    stop: Stop
    console: bytes
    handover: bytes | None


class Engine(Protocol):
    """Runs machine code on a chip. `Silicon.reset` comes first: it decides what the code finds."""

    name: str

    def run(self, silicon: Silicon, rom: bytes, limits: Limits) -> Run:
        """Start the processor at the ROM's reset vector and run until something ends it.

        Args:
            silicon: The chip, fresh from its reset.
            rom: What stands at address 0, at most `ROM_SIZE` octets.
            limits: When to give up.
        """
        ...


class Doorbell:
    """Has the command port answer, whichever engine heard the bell.

    Args:
        silicon: The chip.

    Attributes:
        handover: See `Run.handover`.
    """

    def __init__(self, silicon: Silicon) -> None:
        self._silicon = silicon
        self.handover: bytes | None = None

    def answer(self) -> Stop | None:
        """Do what the mailbox asks.

        Returns:
            How the run ends; None to go on.
        """
        try:
            self._silicon.port.ring()
        except PowerLost as lost:
            return Stop(StopKind.POWER_LOST, detail=str(lost))
        state = self._silicon.state
        # The loader can note this stage too, but only after the ROM has.
        if self.handover is None and Stage.LOADER in state.stages:
            self.handover = bytes(self._silicon.psram.view(HANDOVER, HANDOVER_SIZE))
        return state.stop


@functools.cache
def sram_at_power_up() -> bytes:
    """What the processor's private SRAM holds when it starts, on every engine: always the same noise.

    Not zeros, so that machine code which reads before it writes does not work by luck.
    """
    return hashlib.shake_256(b"SRAM at power-up").digest(SRAM_SIZE)
