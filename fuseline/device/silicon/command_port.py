"""The command port: one mailbox, one doorbell, and what each command does.

The machine code is not trusted here. Every argument is checked, every address belongs to a window that blocks
can reach, and each block keeps its own locks.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from fuseline.device.silicon import fuse_map, memory_map
from fuseline.device.silicon.commands import EXEC_ENABLE_WORD, Command, KeySlot, Lock, Stage, Status
from fuseline.device.silicon.crypto_block import (
    HKDF_MAX,
    aes_ctr,
    ecdsa_p256_recover,
    ed25519_recover,
    hkdf_expand,
    hkdf_extract,
)
from fuseline.device.silicon.dma import Dma
from fuseline.device.silicon.engine import Stop, StopKind
from fuseline.device.silicon.fuse_map import LifeCycle
from fuseline.device.silicon.fuses import Origin
from fuseline.device.silicon.machine_state import ALL_LOCKS
from fuseline.device.silicon.memory_map import ResetReason
from fuseline.device.silicon.puf import HELPER_SIZE
from fuseline.errors import (
    FlashArgument,
    FlashLocked,
    FlashNotErased,
    FuseArgument,
    FuseDebug,
    FuseLastKey,
    FuseLifeCycle,
    FuseLocked,
    FuseOrder,
    FuseStuck,
    KeySlotEmpty,
    KeySlotKind,
    KeySlotLocked,
    PortAddress,
    PortArgument,
    PortHalted,
    PortLocked,
    PufEnrolled,
    PufFailure,
    PufLocked,
    SiliconError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuseline.device.silicon.flash import Flash
    from fuseline.device.silicon.fuses import FuseArray
    from fuseline.device.silicon.key_manager import KeyManager
    from fuseline.device.silicon.machine_state import MachineState
    from fuseline.device.silicon.psram import Psram
    from fuseline.device.silicon.puf import Puf
    from fuseline.device.silicon.trng import Trng

Arguments = tuple[int, ...]
Results = tuple[int, int]

_REQUEST: Final = struct.Struct("<16I")
"""Command, status, then `MAILBOX_ARGUMENT_COUNT` arguments."""
_RESULTS: Final = struct.Struct("<2I56x")
"""`MAILBOX_RESULT_COUNT` words, of which commands use two."""
_NOTHING: Final[Results] = (0, 0)
_NO_CODE_WORD: Final = b"fuseline puf: no code word near"
_MAX_STAGES: Final = 64
"""There are eight stages; machine code that notes more is in a loop."""

_REFUSALS: Final = (
    FlashLocked,
    FuseDebug,
    FuseLastKey,
    FuseLifeCycle,
    FuseLocked,
    FuseOrder,
    KeySlotEmpty,
    KeySlotKind,
    KeySlotLocked,
    PortHalted,
    PortLocked,
    PufEnrolled,
    PufLocked,
)
_BAD_ARGUMENTS: Final = (FlashArgument, FuseArgument, PortAddress, PortArgument)

_SLOTS: Final = {int(slot): slot for slot in KeySlot}
_STAGES: Final = {int(stage): stage for stage in Stage}
_RESETS: Final = {int(ResetReason.WARM), int(ResetReason.UPDATE)}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the mailbox held after a command.

    Attributes:
        status: What became of it.
        r0: First result.
        r1: Second result.
    """

    status: Status
    r0: int
    r1: int


class Blocks(Protocol):
    """What the port reaches behind it: the blocks of one chip, and what changes several of them at once."""

    psram: Psram
    state: MachineState
    fuses: FuseArray
    flash: Flash
    puf: Puf
    keys: KeyManager
    trng: Trng

    def fail(self, error_word: int) -> None:
        """Keep the error word, forget all secrets, lock everything, stop."""

    def open_debug(self) -> None:
        """Open the debug port until the next reset; PortLocked if nobody can."""

    def clear_puf(self) -> None:
        """Erase the PUF's rows and lock it until the next cold or warm reset."""


class CommandPort:
    """The machine code's way to the blocks of one chip.

    Args:
        blocks: The blocks.

    Attributes:
        last_error: Why the last command was not done; None if it was. For a person: the machine code sees its
            `Status` only.
        dma: How the commands reach memory.
    """

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._state = blocks.state
        self.dma = Dma(blocks.psram)
        self._mailbox = blocks.psram.view(memory_map.MAILBOX, memory_map.MAILBOX_SIZE)
        self._words = self._mailbox.cast("I")
        self._doorbell = blocks.psram.view(memory_map.DOORBELL, 4).cast("I")
        self._rows = blocks.psram.view(memory_map.PUF_ROWS, memory_map.PUF_ROWS_SIZE)
        self.last_error: SiliconError | None = None
        self._handlers: dict[int, Callable[[Arguments], Results]] = {
            Command.STOP: self._stop,
            Command.FAIL: self._fail,
            Command.RESET: self._reset,
            Command.STAGE: self._stage,
            Command.EXEC_ENABLE: self._exec_enable,
            Command.LOCK: self._lock,
            Command.OTP_BLOW: self._otp_blow,
            Command.OTP_READ: self._otp_read,
            Command.PUF_ENROL: self._puf_enrol,
            Command.PUF_RECONSTRUCT: self._puf_reconstruct,
            Command.PUF_CLEAR: self._puf_clear,
            Command.KEY_DERIVE: self._key_derive,
            Command.KEY_PAIR: self._key_pair,
            Command.KEY_SIGN: self._key_sign,
            Command.KEY_CLEAR: self._key_clear,
            Command.KEY_LOCK: self._key_lock,
            Command.KEY_CHECK_VALUE: self._key_check_value,
            Command.KEY_HMAC: self._key_hmac,
            Command.KEY_AES_CTR: self._key_aes_ctr,
            Command.SHA256: self._sha256,
            Command.SHA512: self._sha512,
            Command.HKDF: self._hkdf,
            Command.AES_CTR: self._aes_ctr,
            Command.ECDSA_RECOVER: self._ecdsa_recover,
            Command.ED25519_RECOVER: self._ed25519_recover,
            Command.TRNG_READ: self._trng_read,
            Command.FLASH_ERASE: self._flash_erase,
            Command.FLASH_PROGRAM: self._flash_program,
            Command.FLASH_WEAR: self._flash_wear,
            Command.DEBUG_OPEN: self._debug_open,
        }

    def request(self, command: Command | int, *arguments: int) -> Answer:
        """Ask as machine code would, through the mailbox; for testers and studies.

        Args:
            command: What to do.
            *arguments: Up to `MAILBOX_ARGUMENT_COUNT` words.

        Raises:
            PowerLost: The supply failed.
        """
        padding = (0,) * (memory_map.MAILBOX_ARGUMENT_COUNT - len(arguments))
        _REQUEST.pack_into(self._mailbox, 0, command, Status.BUSY, *arguments, *padding)
        self._doorbell[0] = 1
        self.ring()
        r0, r1 = _RESULTS.unpack_from(self._mailbox, memory_map.MAILBOX_RESULTS)
        return Answer(Status(self._words[memory_map.MAILBOX_STATUS // 4]), r0, r1)

    def ring(self) -> None:
        """Do what the mailbox asks, answer there, and clear the doorbell. The status is written last.

        Raises:
            PowerLost: The supply failed.
        """
        request = _REQUEST.unpack_from(self._mailbox)
        command = request[0]
        results = _NOTHING
        self.last_error = None
        try:
            if self._state.error_word is not None:
                raise PortHalted("the chip has failed", error_word=f"{self._state.error_word:#010x}")
            handler = self._handlers.get(command)
            if handler is None:
                raise PortArgument(f"there is no command {command:#x}", command=command)
            results = handler(request[2:])
            status = Status.OK
        except _BAD_ARGUMENTS as error:
            status, self.last_error = Status.BAD_ARGUMENT, error
        except _REFUSALS as error:
            status, self.last_error = Status.REFUSED, error
        except FlashNotErased as error:
            status, self.last_error = Status.FAILED, error
            results = (error.evidence["offset"], 0)
        except FuseStuck as error:
            status, self.last_error = Status.FAILED, error
            results = (error.evidence["reads_as"], 0)
        except SiliconError as error:
            status, self.last_error = Status.FAILED, error
        _RESULTS.pack_into(self._mailbox, memory_map.MAILBOX_RESULTS, *results)
        self._doorbell[0] = 0
        self._words[memory_map.MAILBOX_STATUS // 4] = status

    def _stop(self, a: Arguments) -> Results:
        self._state.stop = Stop(StopKind.EXIT, a[0], "STOP command")
        return _NOTHING

    def _fail(self, a: Arguments) -> Results:
        self._blocks.fail(a[0])
        return _NOTHING

    def _reset(self, a: Arguments) -> Results:
        if a[0] not in _RESETS:
            raise PortArgument("machine code can only ask for a warm or an update reset", reason=f"{a[0]:#x}")
        self._state.stop = Stop(StopKind.RESET, a[0], "RESET command")
        return _NOTHING

    def _stage(self, a: Arguments) -> Results:
        stage = _STAGES.get(a[0])
        if stage is None or len(self._state.stages) >= _MAX_STAGES:
            raise PortArgument("no such stage, or too many", stage=f"{a[0]:#x}")
        self._state.stages.append(stage)
        return _NOTHING

    def _exec_enable(self, a: Arguments) -> Results:
        self._require_unlocked(Lock.EXEC)
        if a[0] != EXEC_ENABLE_WORD:
            raise PortArgument("wrong word to make main RAM executable")
        self._state.exec_enabled = True
        return _NOTHING

    def _lock(self, a: Arguments) -> Results:
        if a[0] & ~int(ALL_LOCKS):
            raise PortArgument("there are no such locks", locks=f"{a[0]:#x}")
        self._state.locks |= Lock(a[0])
        return _NOTHING

    def _debug_open(self, _a: Arguments) -> Results:
        self._require_unlocked(Lock.DEBUG)
        self._blocks.open_debug()
        return _NOTHING

    def _require_unlocked(self, lock: Lock) -> None:
        if self._state.locks & lock:
            raise PortLocked(f"{lock.name} is locked until the next reset", lock=lock.name)

    def _otp_blow(self, a: Arguments) -> Results:
        return self._blocks.fuses.blow(a[0], a[1], Origin.MACHINE_CODE), 0

    def _otp_read(self, a: Arguments) -> Results:
        return self._blocks.fuses.read(a[0]), self._blocks.fuses.margin(a[0])

    def _require_puf(self) -> None:
        if self._state.locks & Lock.PUF:
            raise PufLocked("the PUF is locked until the next cold or warm reset")

    def _puf_enrol(self, a: Arguments) -> Results:
        self._require_puf()
        fuses = self._blocks.fuses
        if not (fuses.life_cycle is LifeCycle.TEST and fuses.life_cycle_begun is LifeCycle.TEST):
            raise PufEnrolled("the PUF is enrolled in life cycle TEST", life_cycle=fuses.life_cycle.name)
        if fuses.read(fuse_map.PUF_ENROLLED) | fuses.margin(fuse_map.PUF_ENROLLED):
            raise PufEnrolled("the PUF has been enrolled")
        self.dma.require_writable(a[0], HELPER_SIZE)
        enrolment = self._blocks.puf.enrol(self._rows, self._blocks.trng.read)
        self._fill_uds(enrolment.helper, enrolment.secret)
        self.dma.write(a[0], enrolment.helper)
        return _NOTHING

    def _puf_reconstruct(self, a: Arguments) -> Results:
        self._require_puf()
        helper = self.dma.read(a[0], HELPER_SIZE)
        try:
            secret = self._blocks.puf.reconstruct(self._rows, helper).secret
        except PufFailure:
            # Whoever edits helper data and learns whether it still decodes learns the secret bit by bit.
            # The address is in it so that two copies that both fail never agree: then the ROM enrols. Else it
            # would blow its fuses for whatever somebody planted in flash before.
            secret = hashlib.sha256(_NO_CODE_WORD + a[0].to_bytes(4, "little") + self._rows).digest()
        self._fill_uds(helper, secret)
        return _NOTHING

    def _fill_uds(self, helper: bytes, secret: bytes) -> None:
        # With the helper's digest in the key, whoever changes the helper gets another secret and no hint.
        self._blocks.keys.fill_uds(hkdf_extract(hashlib.sha256(helper).digest(), secret))

    def _puf_clear(self, _a: Arguments) -> Results:
        self._blocks.clear_puf()
        return _NOTHING

    def _key_derive(self, a: Arguments) -> Results:
        source = _slot(a[0])
        label, context = self.dma.read(a[2], a[3]), self.dma.read(a[4], a[5])
        if source is KeySlot.UDS:
            context = self._hardware_context() + context
        self._blocks.keys.derive(source, _slot(a[1]), label, context)
        return _NOTHING

    def _hardware_context(self) -> bytes:
        """Return what the block itself knows of the chip's state: life cycle and debug, 8 octets."""
        return struct.pack("<2I", self._blocks.fuses.life_cycle_begun, self._state.debug)

    def _key_pair(self, a: Arguments) -> Results:
        label = self.dma.read(a[2], a[3])
        self.dma.require_writable(a[4], 64)
        self.dma.write(a[4], self._blocks.keys.pair(_slot(a[0]), _slot(a[1]), label))
        return _NOTHING

    def _key_sign(self, a: Arguments) -> Results:
        digest = self.dma.read(a[1], 32)
        self.dma.write(a[2], self._blocks.keys.sign(_slot(a[0]), digest))
        return _NOTHING

    def _key_clear(self, a: Arguments) -> Results:
        self._blocks.keys.clear(_slot(a[0]))
        return _NOTHING

    def _key_lock(self, a: Arguments) -> Results:
        self._blocks.keys.lock(_slot(a[0]))
        return _NOTHING

    def _key_check_value(self, a: Arguments) -> Results:
        self.dma.write(a[1], self._blocks.keys.check_value(_slot(a[0])))
        return _NOTHING

    def _key_hmac(self, a: Arguments) -> Results:
        message = self.dma.read(a[1], a[2])
        self.dma.write(a[3], self._blocks.keys.authenticate(_slot(a[0]), message))
        return _NOTHING

    def _key_aes_ctr(self, a: Arguments) -> Results:
        counter, data = self.dma.read(a[1], 16), self.dma.read(a[2], a[3])
        self.dma.write(a[4], self._blocks.keys.encrypt_ctr(_slot(a[0]), counter, data))
        return _NOTHING

    def _sha256(self, a: Arguments) -> Results:
        self.dma.write(a[2], hashlib.sha256(self.dma.view(a[0], a[1])).digest())
        return _NOTHING

    def _sha512(self, a: Arguments) -> Results:
        self.dma.write(a[2], hashlib.sha512(self.dma.view(a[0], a[1])).digest())
        return _NOTHING

    def _hkdf(self, a: Arguments) -> Results:
        key, salt, info = self.dma.read(a[0], a[1]), self.dma.read(a[2], a[3]), self.dma.read(a[4], a[5])
        if a[7] > HKDF_MAX:
            raise PortArgument(f"HKDF gives at most {HKDF_MAX} octets", length=a[7])
        self.dma.write(a[6], hkdf_expand(hkdf_extract(salt, key), info, a[7]))
        return _NOTHING

    def _aes_ctr(self, a: Arguments) -> Results:
        if a[1] not in {16, 32}:
            raise PortArgument("an AES key has 16 or 32 octets here", length=a[1])
        key, counter = self.dma.read(a[0], a[1]), self.dma.read(a[2], 16)
        self.dma.write(a[5], aes_ctr(key, counter, self.dma.read(a[3], a[4])))
        return _NOTHING

    def _ecdsa_recover(self, a: Arguments) -> Results:
        key, digest, signature = self.dma.read(a[0], 64), self.dma.read(a[1], 32), self.dma.read(a[2], 64)
        # Zero first: no valid signature has r = 0, so a caller that overlooks the status still fails.
        self.dma.write(a[3], bytes(32))
        self.dma.write(a[3], ecdsa_p256_recover(key, digest, signature))
        return _NOTHING

    def _ed25519_recover(self, a: Arguments) -> Results:
        key, message, signature = (
            self.dma.read(a[0], 32),
            self.dma.read(a[1], a[2]),
            self.dma.read(a[3], 64),
        )
        self.dma.write(a[4], bytes(32))
        self.dma.write(a[4], ed25519_recover(key, message, signature))
        return _NOTHING

    def _trng_read(self, a: Arguments) -> Results:
        self.dma.require_writable(a[0], a[1])
        self.dma.write(a[0], self._blocks.trng.read(a[1]))
        return _NOTHING

    def _flash_erase(self, a: Arguments) -> Results:
        return self._blocks.flash.erase(a[0]), 0

    def _flash_program(self, a: Arguments) -> Results:
        self._blocks.flash.program(a[0], self.dma.read(a[1], a[2]))
        return _NOTHING

    def _flash_wear(self, a: Arguments) -> Results:
        return self._blocks.flash.wear(a[0]), 0


def _slot(number: int) -> KeySlot:
    slot = _SLOTS.get(number)
    if slot is None:
        raise PortArgument(f"there is no key slot {number}", slot=number)
    return slot
