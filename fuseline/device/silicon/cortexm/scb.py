"""Registers of the system control block that hold state (Armv7-M B3.2), and the words in them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

CCR_NONBASETHRDENA: Final = 1 << 0
CCR_USERSETMPEND: Final = 1 << 1
CCR_STKALIGN: Final = 1 << 9

SCR_SLEEPONEXIT: Final = 1 << 1

CFSR_IACCVIOL: Final = 1 << 0
CFSR_DACCVIOL: Final = 1 << 1
CFSR_MUNSTKERR: Final = 1 << 3
CFSR_MSTKERR: Final = 1 << 4
CFSR_MMARVALID: Final = 1 << 7
CFSR_IBUSERR: Final = 1 << 8
CFSR_PRECISERR: Final = 1 << 9
CFSR_UNSTKERR: Final = 1 << 11
CFSR_STKERR: Final = 1 << 12
CFSR_BFARVALID: Final = 1 << 15
CFSR_UNDEFINSTR: Final = 1 << 16
CFSR_INVSTATE: Final = 1 << 17
CFSR_INVPC: Final = 1 << 18
CFSR_NOCP: Final = 1 << 19
CFSR_UNALIGNED: Final = 1 << 24

HFSR_VECTTBL: Final = 1 << 1
HFSR_FORCED: Final = 1 << 30
HFSR_DEBUGEVT: Final = 1 << 31

DFSR_BKPT: Final = 1 << 1

FPCCR_LSPEN: Final = 1 << 30
FPCCR_ASPEN: Final = 1 << 31

# Cortex-M4 r0p0, as QEMU's and Unicorn's cortex-m4 report it.
CPUID: Final = 0x410F_C240


@dataclass(slots=True)
class SystemControl:
    """State of the system control block; names are the architecture's.

    Attributes:
        vtor: Vector table offset.
        scr: Sleep control.
        ccr: Configuration and control; only STKALIGN is set after reset.
        cfsr: Fault status.
        hfsr: HardFault status.
        dfsr: Debug fault status.
        mmfar: Address of the last MPU fault.
        bfar: Address of the last bus fault.
        cpacr: Coprocessor access; kept, not obeyed (see `unicorn_core`).
        fpccr: Floating-point context control. Frames are always filled at once, so LSPACT stays 0.
        fpcar: Where the last floating-point frame stands.
        fpdscr: Default FPSCR; kept, not obeyed.
        demcr: Debug exception and monitor control; kept for DWT.
    """

    vtor: int = 0
    scr: int = 0
    ccr: int = CCR_STKALIGN
    cfsr: int = 0
    hfsr: int = 0
    dfsr: int = 0
    mmfar: int = 0
    bfar: int = 0
    cpacr: int = 0
    fpccr: int = FPCCR_ASPEN | FPCCR_LSPEN
    fpcar: int = 0
    fpdscr: int = 0
    demcr: int = 0

    def copy(self) -> SystemControl:
        """Return an equal one that shares nothing."""
        return dataclasses.replace(self)
