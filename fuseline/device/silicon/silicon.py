"""One chip without its processor: its blocks, wired together, and what a reset does to them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from fuseline.device.silicon import fuse_map, memory_map
from fuseline.device.silicon.command_port import CommandPort
from fuseline.device.silicon.commands import Lock, Stage
from fuseline.device.silicon.engine import Stop, StopKind
from fuseline.device.silicon.flash import Flash, FlashContent
from fuseline.device.silicon.fuse_map import LifeCycle
from fuseline.device.silicon.fuses import FuseArray, FuseContent
from fuseline.device.silicon.key_manager import KeyContent, KeyManager
from fuseline.device.silicon.machine_state import ALL_LOCKS, MachineState
from fuseline.device.silicon.memory_map import CHIP_REVISION, DebugState, ResetReason, Strap, SystemWord
from fuseline.device.silicon.power import Power
from fuseline.device.silicon.psram import Psram
from fuseline.device.silicon.puf import Conditions, Puf
from fuseline.device.silicon.trng import NoiseFault, Trng
from fuseline.errors import PortLocked

_SEED_BITS: Final = 128
_BLOCKS_STREAM: Final = 0x5175
"""Keeps the random stream of fuses, flash and noise source apart from all others made of the same seed."""
_CONTROL_BASE: Final = memory_map.MAILBOX
_CONTROL_SIZE: Final = memory_map.RETENTION + memory_map.RETENTION_SIZE - memory_map.MAILBOX
"""Mailbox, doorbell, system page and retention stand side by side."""
_ALWAYS_OPEN: Final = frozenset({LifeCycle.BLANK, LifeCycle.TEST, LifeCycle.RMA})


@dataclass(frozen=True, slots=True)
class NonVolatile:
    """What a chip keeps without power.

    Attributes:
        boot_count: Resets in its life.
        fuses: Its fuses.
        flash: The flash beside it.
    """

    boot_count: int = 0
    fuses: FuseContent = field(default_factory=FuseContent)
    flash: FlashContent = field(default_factory=FlashContent)


@dataclass(frozen=True, slots=True)
class SiliconSnapshot:
    """Everything of a chip but its processor, at one moment. Good for any `Silicon` of the same process.

    Attributes:
        seed: Of the chip.
        non_volatile: Fuses, flash, boot count.
        sensed: The fuses as sensed.
        puf: The array; chips of equal seed share it.
        conditions: Temperature and age.
        keys: Key slots.
        state: Locks, stages, debug and so on.
        trng: State of the health tests.
        noise: Fault of the noise source.
        stuck_fuses: Defective fuses.
        random: State of the random stream of this boot; None if it was not used.
        power: Operations begun, and the one at which the supply fails.
        control: Mailbox, doorbell, system page, retention.
        rows: The PUF's rows.
        ram: Main RAM; None if it was left out.
    """

    seed: int
    non_volatile: NonVolatile
    sensed: bytes
    puf: Puf
    conditions: Conditions
    keys: KeyContent
    state: MachineState
    trng: tuple[bool, bool, int, int]
    noise: NoiseFault | None
    stuck_fuses: frozenset[int]
    random: dict[str, object] | None
    power: tuple[int, int | None]
    control: bytes = field(repr=False)
    rows: bytes = field(repr=False)
    ram: bytes | None = field(repr=False)


class Silicon:
    """The physics of one chip. Deterministic: equal seed and history give equal behaviour.

    After construction the chip is powered and its processor held in reset: a tester can read and blow fuses
    and write flash. Nothing runs before `reset`.

    Args:
        seed: What this piece of silicon is like, not negative; a random one by default.
        non_volatile: What it kept without power; a blank chip by default.
        puf: Its PUF, if made before or under special conditions.
        retention: Content of retention RAM, up to `RETENTION_SIZE` octets, where the supply stayed on.

    Attributes:
        seed: What this piece of silicon is like.
        boot_count: Resets in its life.
        psram: The memory that processor and blocks share.
        state: Locks, stages, debug state, shared by all blocks.
        power: The supply.
        fuses: One-time fuses behind their controller.
        flash: The flash beside the chip.
        puf: The SRAM PUF.
        keys: The key slots.
        trng: The random number generator.
        port: The machine code's way to all of these.
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        non_volatile: NonVolatile | None = None,
        puf: Puf | None = None,
        retention: bytes = b"",
    ) -> None:
        kept = non_volatile or NonVolatile()
        self.seed = secrets.randbits(_SEED_BITS) if seed is None else seed
        self.boot_count = kept.boot_count
        self.psram = Psram()
        self.state = MachineState()
        self.power = Power()
        self._generator: np.random.Generator | None = None
        shadow = self.psram.view(memory_map.FUSE_SHADOW, memory_map.FUSE_SHADOW_SIZE)
        self.fuses = FuseArray(self.power, self.state, self._random, shadow, kept.fuses)
        window = self.psram.view(memory_map.FLASH_BASE, memory_map.FLASH_SIZE)
        self.flash = Flash(window, self.power, self.state, self._random, kept.flash)
        self.puf = puf or Puf(self.seed)
        self.keys = KeyManager(self.state)
        self.trng = Trng(self._random)
        self._rows = self.psram.view(memory_map.PUF_ROWS, memory_map.PUF_ROWS_SIZE)
        self._ram = self.psram.view(memory_map.RAM_BASE, memory_map.RAM_SIZE)
        self._control = self.psram.view(_CONTROL_BASE, _CONTROL_SIZE)
        self._mailbox = self.psram.view(memory_map.MAILBOX, memory_map.MAILBOX_SIZE)
        self._system = self.psram.view(memory_map.SYSTEM, memory_map.SYSTEM_SIZE).cast("I")
        self.retention = self.psram.view(memory_map.RETENTION, memory_map.RETENTION_SIZE)
        self.retention[: len(retention)] = retention
        self.port = CommandPort(self)
        self.state.debug = self._default_debug()

    def __repr__(self) -> str:
        return f"Silicon({self.fuses.life_cycle.name}, boots={self.boot_count})"

    @property
    def locks(self) -> Lock:
        """What is locked until the next reset."""
        return self.state.locks

    @property
    def stages(self) -> list[Stage]:
        """What the machine code noted since the last reset, in order."""
        return self.state.stages

    @property
    def error_word(self) -> int | None:
        """Why the machine code gave up; None if it did not."""
        return self.state.error_word

    @property
    def debug(self) -> DebugState:
        """Whether the debug port is open."""
        return self.state.debug

    @property
    def reset_reason(self) -> ResetReason:
        """Of the last reset."""
        return self.state.reset_reason

    @property
    def strap(self) -> Strap:
        """Of the last reset."""
        return self.state.strap

    @property
    def exec_enabled(self) -> bool:
        """Main RAM is executable."""
        return self.state.exec_enabled

    @property
    def puf_locked(self) -> bool:
        """The processor cannot reach the PUF's rows any more."""
        return bool(self.state.locks & Lock.PUF)

    @property
    def stop(self) -> Stop | None:
        """The run must end, and how; None to go on."""
        return self.state.stop

    def reset(
        self,
        reason: ResetReason = ResetReason.COLD,
        strap: Strap = Strap.NORMAL,
        *,
        watchdog: bool = False,
    ) -> None:
        """Reset the chip and fill the windows that the processor sees.

        | | COLD | WARM | UPDATE |
        | --- | --- | --- | --- |
        | locks, stages, error word, debug, executable RAM | cleared | cleared | cleared |
        | key slots | emptied | emptied | the IDevID's two stay |
        | PUF rows | fresh readout | fresh readout | zero, and the PUF stays locked |
        | retention, mailbox | zero | stay | stay |
        | fuse shadow | sensed | sensed | sensed |

        Main RAM keeps whatever was in it over every reset: no machine code may rely on either.

        Args:
            reason: Why.
            strap: What the pins ask.
            watchdog: The watchdog asked for it.
        """
        update = reason is ResetReason.UPDATE
        self.boot_count += 1
        self._generator = None
        self.state.assign(MachineState(reset_reason=reason, strap=strap))
        self.keys.reset(update=update)
        self.trng.reset()
        self.fuses.sense()
        self.state.debug = self._default_debug()
        if reason is ResetReason.COLD:
            self._control[:] = bytes(_CONTROL_SIZE)
        else:
            self._mailbox[: memory_map.MAILBOX_DATA] = bytes(memory_map.MAILBOX_DATA)
            self.psram.view(memory_map.DOORBELL, 4)[:] = bytes(4)
        if update:
            self.clear_puf()
        else:
            self.puf.power_up(self._rows, self.boot_count)
        self._write_system(watchdog=watchdog)

    def _write_system(self, *, watchdog: bool) -> None:
        self._system[SystemWord.RESET_REASON] = self.state.reset_reason
        self._system[SystemWord.STRAP] = self.state.strap
        self._system[SystemWord.REVISION] = CHIP_REVISION
        self._system[SystemWord.DEBUG] = self.state.debug
        self._system[SystemWord.BOOT_COUNT] = self.boot_count & 0xFFFF_FFFF
        self._system[SystemWord.WATCHDOG_RESET] = int(watchdog)

    def _default_debug(self) -> DebugState:
        reached = self.fuses.life_cycle
        if self.fuses.life_cycle_begun > reached:
            # A step that was cut short: whatever the chip is about to become decides, and that may be PROD.
            return DebugState.LOCKED
        if reached in _ALWAYS_OPEN or (reached is LifeCycle.DEV and not self._has_debug_authority()):
            return DebugState.OPEN
        return DebugState.LOCKED

    def _has_debug_authority(self) -> bool:
        words = range(fuse_map.DEBUG_AUTHORITY, fuse_map.DEBUG_AUTHORITY + fuse_map.DEBUG_AUTHORITY_WORDS + 1)
        return any(self.fuses.read(word) | self.fuses.margin(word) for word in words)

    def open_debug(self) -> None:
        """Open the debug port until the next reset, as machine code asks after it checked the unlock.

        Raises:
            PortLocked: Nobody can unlock this chip: no authority stands in its fuses, or it is scrap.
        """
        if self.state.debug is DebugState.OPEN:
            return
        if not self._has_debug_authority() or self.fuses.life_cycle_begun is LifeCycle.SCRAP:
            raise PortLocked("no debug authority can unlock this chip")
        self.state.debug = DebugState.OPEN
        self._system[SystemWord.DEBUG] = DebugState.OPEN

    def clear_puf(self) -> None:
        """Erase the PUF's rows and lock it until the next cold or warm reset."""
        self._rows[:] = bytes(memory_map.PUF_ROWS_SIZE)
        self.state.locks |= Lock.PUF

    def fail(self, error_word: int) -> None:
        """Give up as machine code asks: keep the error word, forget all secrets, lock everything, stop."""
        self.state.error_word = error_word
        self.keys.zeroise()
        self.clear_puf()
        self.state.locks = ALL_LOCKS
        self.state.exec_enabled = False
        self.state.stop = Stop(StopKind.FAIL, error_word, "FAIL command")

    def non_volatile(self) -> NonVolatile:
        """Return what the chip keeps without power, for a file; the seed stands beside it."""
        return NonVolatile(self.boot_count, self.fuses.content(), self.flash.content())

    def snapshot(self, *, ram: bool = False) -> SiliconSnapshot:
        """Return everything at this moment.

        Args:
            ram: Main RAM too (256 KiB).
        """
        generator = self._generator
        return SiliconSnapshot(
            seed=self.seed,
            non_volatile=self.non_volatile(),
            sensed=self.fuses.sensed(),
            puf=self.puf,
            conditions=self.puf.conditions,
            keys=self.keys.content(),
            state=self.state.copy(),
            trng=self.trng.snapshot(),
            noise=self.trng.fault,
            stuck_fuses=self.fuses.stuck,
            random=dict(generator.bit_generator.state) if generator is not None else None,
            power=(self.power.operations, self.power.cut_at),
            control=bytes(self._control),
            rows=bytes(self._rows),
            ram=bytes(self._ram) if ram else None,
        )

    def restore(self, snapshot: SiliconSnapshot) -> None:
        """Go back to a snapshot, of this chip or of another one.

        Main RAM is left as it is if the snapshot does not hold it.
        """
        self.seed = snapshot.seed
        self.boot_count = snapshot.non_volatile.boot_count
        self.power.operations, self.power.cut_at = snapshot.power
        self.state.assign(snapshot.state)
        self._generator = None
        if snapshot.random is not None:
            self._random().bit_generator.state = snapshot.random
        self.fuses.restore(snapshot.non_volatile.fuses, snapshot.sensed)
        self.fuses.stuck = snapshot.stuck_fuses
        self.flash.restore(snapshot.non_volatile.flash)
        self.puf = snapshot.puf
        self.puf.conditions = snapshot.conditions
        self.keys.restore(snapshot.keys)
        self.trng.restore(snapshot.trng)
        self.trng.fault = snapshot.noise
        self._control[:] = snapshot.control
        self._rows[:] = snapshot.rows
        if snapshot.ram is not None:
            self._ram[:] = snapshot.ram

    def _random(self) -> np.random.Generator:
        """Return the random stream of this boot, made when it is first asked for."""
        if self._generator is None:
            sequence = np.random.SeedSequence(self.seed, spawn_key=(_BLOCKS_STREAM, self.boot_count))
            self._generator = np.random.Generator(np.random.PCG64(sequence))
        return self._generator
