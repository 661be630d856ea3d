"""The second engine: QEMU's mps2-an386 runs the chip's machine code, Python answers as its blocks.

QEMU maps the chip's memory (`Psram`) as the board's PSRAM, so both see the same octets. Machine code
writes its command and rings the doorbell; this process polls the doorbell and lets the command port
answer. Nothing is copied, and the machine code is the one that the first engine runs.

It is a cross-check of the first engine by an independent processor model, and no place for attacks: the
board's memory is plain RAM, so QEMU cannot enforce

- write-once and read-only windows: a plain store overwrites flash, fuse shadow, system page and ROM;
- the exec gate: main RAM is executable from the start;
- the PUF lock: after `Command.PUF_CLEAR` the rows read as erased, they do not fault;
- the edges of the windows: what lies between them, and behind ROM and SRAM, is RAM.

What goes through the command port is refused here as it is there: fuses, keys, locks, life cycle. QEMU
counts no instructions, does not tell a processor that sleeps for ever from one that waits (both end as
`TIMEOUT`), keeps translations of code that a block has overwritten, and executes some more instructions
after the command that ends a run, until it is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.engine import Limits, Stop, StopKind
from fuseline.device.silicon.memory_map import DOORBELL, PSRAM_SIZE, ROM_BASE, SRAM_BASE, ResetReason
from fuseline.device.silicon.run import CONSOLE_LIMIT, Doorbell, Run, sram_at_power_up
from fuseline.errors import QemuFailed, QemuMissing

if TYPE_CHECKING:
    from fuseline.device.silicon.silicon import Silicon

QEMU: Final = "qemu-system-arm"
DEFAULT_SECONDS: Final = 60.0
"""When a run ends if the caller names no time: without counted instructions, nothing else might end it."""

# Linux uapi, include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG = 1
_START_SECONDS = 20.0
# The doorbell is polled without a pause while the program uses the port; one that computes for long is asked
# less and less often, so that polling does not take a core from it.
_EAGER_POLLS = 2_000
_SHORTEST_NAP_SECONDS = 50e-6
_LONGEST_NAP_SECONDS = 1e-3

_libc = ctypes.CDLL(None)


class _Monitor:
    """QEMU's control socket (QMP): starts the processor, and tells why it stopped."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._pending = b""
        self.closed = False
        self.running = False
        self.ended_by: StopKind | None = None

    def start(self) -> None:
        """Let the processor run; returns when it does, or when QEMU has given up or not answered."""
        # One that has ended already takes nothing; `poll` finds that out.
        with contextlib.suppress(ConnectionError):
            self._link.sendall(b'{"execute":"qmp_capabilities"}\n{"execute":"cont"}\n')
        self._link.setblocking(False)
        give_up = time.monotonic() + _START_SECONDS
        while not (self.running or self.closed) and time.monotonic() < give_up:
            select.select([self._link], [], [], 1)
            self.poll()

    def poll(self) -> None:
        """Take in what QEMU has said since the last time."""
        while not self.closed:
            try:
                octets = self._link.recv(65_536)
            except BlockingIOError:
                return
            except ConnectionError:
                octets = b""
            self.closed = not octets
            *lines, self._pending = (self._pending + octets).split(b"\n")
            for line in lines:
                self._hear(json.loads(line))

    def _hear(self, message: dict[str, object]) -> None:
        match message.get("event"), message.get("data"):
            case "RESUME", _:
                self.running = True
            case "WATCHDOG", _:
                self.ended_by = StopKind.WATCHDOG
            case "SHUTDOWN", {"reason": "guest-reset"} if self.ended_by is None:
                self.ended_by = StopKind.RESET


class _Console:
    """What the program prints: a pipe, drained as it fills."""

    def __init__(self, reader: int) -> None:
        self._reader = reader
        self.text = bytearray()
        os.set_blocking(reader, False)

    def drain(self) -> None:
        """Take in what was printed since the last time."""
        with contextlib.suppress(BlockingIOError):
            while octets := os.read(self._reader, 65_536):
                self.text += octets[: CONSOLE_LIMIT - len(self.text)]


@dataclass(frozen=True, slots=True)
class _Machine:
    """One QEMU process, and our ends of its channels."""

    process: subprocess.Popen[bytes]
    monitor: _Monitor
    console: _Console
    complaints: int

    def ended(self) -> Stop | None:
        """How the processor's run ended by itself, if it has."""
        status = self.process.poll()
        self.monitor.poll()
        self.console.drain()
        if self.monitor.ended_by is StopKind.RESET:
            return Stop(StopKind.RESET, ResetReason.WARM, "SYSRESETREQ")
        if self.monitor.ended_by is not None:
            return Stop(self.monitor.ended_by)
        if status is None:
            return None
        complaint = self.complaint()
        if status == -signal.SIGABRT and (found := re.search("Lockup: .*", complaint)):
            return Stop(StopKind.LOCKUP, detail=found[0])
        if status >= 0:
            return Stop(StopKind.EXIT, status, "semihosting")
        raise QemuFailed("QEMU ended in the middle of a run", status=status, complaint=complaint)

    def complaint(self) -> str:
        """The beginning of what QEMU wrote to its standard error."""
        return os.pread(self.complaints, 600, 0).decode(errors="replace").strip()


class QemuEngine:
    """Runs a chip's machine code in a QEMU process per run.

    Args:
        program: QEMU's name or path.
        semihosting: Whether BKPT 0xAB reaches QEMU. Only for programs you trust: semihosting gives them
            your files and a shell. Without it the instruction faults.
    """

    name = "qemu"

    def __init__(self, program: str = QEMU, *, semihosting: bool = False) -> None:
        self._program = program
        self._semihosting = semihosting

    def run(self, silicon: Silicon, rom: bytes, limits: Limits) -> Run:
        """Start the processor at the ROM's reset vector and run until something ends it.

        Args:
            silicon: The chip, fresh from its reset.
            rom: What stands at address 0.
            limits: When to give up; only `seconds` count here, `DEFAULT_SECONDS` if None.

        Raises:
            QemuMissing: There is no QEMU for Arm.
            QemuFailed: It did not start the board, or died.
        """
        path = shutil.which(self._program)
        if path is None:
            raise QemuMissing("There is no QEMU for Arm on this machine", program=self._program)
        with contextlib.ExitStack() as resources:
            machine = self._start(path, silicon.psram.fd, rom, resources)
            doorbell = Doorbell(silicon)
            rung = silicon.psram.view(DOORBELL, 4).cast("I")
            seconds = DEFAULT_SECONDS if limits.seconds is None else limits.seconds
            stop = _serve(machine, doorbell, rung, seconds)
            _kill(machine.process)
            machine.console.drain()
            return Run(stop, bytes(machine.console.text), doorbell.handover)

    def _start(self, path: str, psram: int, rom: bytes, resources: contextlib.ExitStack) -> _Machine:
        rom_file, sram_file, complaints = (_memory_file(resources) for _ in range(3))
        os.pwrite(rom_file, rom, 0)
        os.pwrite(sram_file, sram_at_power_up(), 0)
        reader, writer = os.pipe()
        resources.callback(os.close, reader)
        resources.callback(os.close, writer)
        ours, theirs = socket.socketpair()
        resources.enter_context(ours)
        with theirs:
            inherited = (psram, rom_file, sram_file, writer, theirs.fileno())
            process = subprocess.Popen(
                [path, *_board(*inherited), *self._semihosting_options()],
                stdin=subprocess.DEVNULL,
                stdout=complaints,
                stderr=complaints,
                pass_fds=inherited,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - calls libc alone; nothing else sets PDEATHSIG
            )
        resources.callback(_kill, process)
        machine = _Machine(process, _Monitor(ours), _Console(reader), complaints)
        machine.monitor.start()
        if not machine.monitor.running:
            status = _kill(process)
            raise QemuFailed("QEMU did not start the board", status=status, complaint=machine.complaint())
        return machine

    def _semihosting_options(self) -> list[str]:
        if not self._semihosting:
            return []
        return ["-semihosting-config", "enable=on,target=native,chardev=console"]


def _board(psram: int, rom: int, sram: int, console: int, monitor: int) -> list[str]:
    """QEMU's options for the board, its memory and its channels: file descriptors that it inherits."""
    backend = f"memory-backend-file,id=psram,mem-path=/proc/self/fd/{psram},size={PSRAM_SIZE},share=on"
    return [
        *("-nodefaults", "-display", "none", "-S"),
        *("-machine", "mps2-an386,memory-backend=psram", "-object", backend),
        *("-device", f"loader,file=/proc/self/fd/{rom},addr={ROM_BASE:#x},force-raw=on"),
        *("-device", f"loader,file=/proc/self/fd/{sram},addr={SRAM_BASE:#x},force-raw=on"),
        *("-chardev", f"file,id=console,path=/proc/self/fd/{console},mux=on", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"),
        *("-action", "reboot=shutdown,watchdog=pause"),
    ]


def _serve(machine: _Machine, doorbell: Doorbell, rung: memoryview, seconds: float) -> Stop:
    """Answer the doorbell, whose word is `rung[0]`, until the run ends."""
    give_up = time.monotonic() + seconds
    nap = _SHORTEST_NAP_SECONDS
    while time.monotonic() < give_up:
        busy = False
        for _ in range(_EAGER_POLLS):
            if rung[0]:
                busy = True
                stop = doorbell.answer()
                if stop is not None:
                    return stop
        ended = machine.ended()
        if ended is not None:
            return ended
        nap = _SHORTEST_NAP_SECONDS if busy else min(2 * nap, _LONGEST_NAP_SECONDS)
        if not busy:
            time.sleep(nap)
    return Stop(StopKind.TIMEOUT, detail=f"after {seconds:g} s")


def _memory_file(resources: contextlib.ExitStack) -> int:
    descriptor = os.memfd_create("fuseline-qemu")
    resources.callback(os.close, descriptor)
    return descriptor


def _kill(process: subprocess.Popen[bytes]) -> int:
    process.kill()
    return process.wait()


def _die_with_parent() -> None:
    # Between fork and exec: the kernel ends QEMU when the thread that started it ends, however that happens.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
