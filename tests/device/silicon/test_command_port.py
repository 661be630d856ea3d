"""The command port against machine code that is not to be trusted."""

from __future__ import annotations

import hashlib
import hmac
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from fuseline.device.silicon import fuse_map
from fuseline.device.silicon.command_port import Answer
from fuseline.device.silicon.commands import EXEC_ENABLE_WORD, Command, KeySlot, Lock, Stage, Status
from fuseline.device.silicon.engine import StopKind
from fuseline.device.silicon.fuse_map import Counter, KeyType, LifeCycle
from fuseline.device.silicon.fuse_plans import (
    FusePlan,
    plan_counter,
    plan_debug_authority,
    plan_key,
    plan_life_cycle,
    plan_puf_check,
)
from fuseline.device.silicon.fuse_view import read_fuses
from fuseline.device.silicon.machine_state import ALL_LOCKS
from fuseline.device.silicon.memory_map import (
    DOORBELL,
    FLASH_BASE,
    FUSE_SHADOW,
    HELPER_A,
    MAILBOX,
    MAILBOX_DATA,
    PUF_ROWS,
    PUF_ROWS_SIZE,
    RAM_BASE,
    RAM_SIZE,
    ROM_BASE,
    SRAM_BASE,
    SYSTEM,
    DebugState,
    ResetReason,
    SystemWord,
)
from fuseline.device.silicon.power import PowerLost
from fuseline.device.silicon.puf import HELPER_SIZE
from fuseline.device.silicon.silicon import Silicon
from fuseline.device.silicon.trng import NoiseFault
from fuseline.errors import FuseLocked, PortAddress, TrngFailed

DATA = MAILBOX + MAILBOX_DATA
HELPER = RAM_BASE + 0x8000
LABEL = RAM_BASE + 0x100
OUT = RAM_BASE + 0x1000
FREE = 0x4_0000


def put(chip: Silicon, address: int, data: bytes) -> None:
    chip.psram.view(address, len(data))[:] = data


def get(chip: Silicon, address: int, size: int) -> bytes:
    return bytes(chip.psram.view(address, size))


def ask(chip: Silicon, command: Command | int, *arguments: int) -> Answer:
    return chip.port.request(command, *arguments)


def done(chip: Silicon, command: Command, *arguments: int) -> Answer:
    answer = ask(chip, command, *arguments)
    assert answer.status is Status.OK, chip.port.last_error
    return answer


def debug_of(chip: Silicon) -> DebugState:
    return chip.debug


def stop_of(chip: Silicon) -> tuple[StopKind, int] | None:
    return (chip.stop.kind, chip.stop.value) if chip.stop is not None else None


@pytest.fixture
def chip() -> Silicon:
    """In life cycle TEST, with a label in RAM."""
    silicon = Silicon(21)
    silicon.fuses.blow_all(plan_life_cycle(LifeCycle.TEST))
    silicon.reset()
    put(silicon, LABEL, b"label")
    return silicon


@pytest.fixture
def ladder(chip: Silicon) -> Silicon:
    """Enrolled, with the IDevID's keys and the loader's in their slots."""
    done(chip, Command.PUF_ENROL, HELPER)
    climb(chip)
    return chip


def climb(chip: Silicon) -> None:
    done(chip, Command.KEY_DERIVE, KeySlot.UDS, KeySlot.IDEVID_CDI, LABEL, 5, 0, 0)
    done(chip, Command.KEY_PAIR, KeySlot.IDEVID_CDI, KeySlot.IDEVID_KEY, LABEL, 5, OUT)
    done(chip, Command.KEY_DERIVE, KeySlot.IDEVID_CDI, KeySlot.LOADER_CDI, LABEL, 5, LABEL, 5)


def blow(chip: Silicon, *plans: FusePlan) -> None:
    for plan in plans:
        chip.fuses.blow_all(plan)


def in_prod(chip: Silicon, *, authority: bool = True) -> None:
    blow(chip, plan_key(0, b"\x11" * 32, KeyType.PROD), plan_life_cycle(LifeCycle.DEV))
    if authority:
        blow(chip, plan_debug_authority(b"\x22" * 32))
    blow(chip, plan_life_cycle(LifeCycle.PROD))


def test_an_answer_clears_the_doorbell_and_unused_results(chip: Silicon) -> None:
    put(chip, MAILBOX + 0x40, b"\xee" * 64)
    answer = done(chip, Command.OTP_READ, fuse_map.LIFE_CYCLE_A)
    assert (answer.r0, answer.r1) == (fuse_map.LIFE_CYCLE_WORDS_A[0], 0)
    assert get(chip, MAILBOX + 0x48, 56) == bytes(56)
    assert get(chip, DOORBELL, 4) == bytes(4)


def test_every_command_has_a_handler_and_nothing_else_has_one(chip: Silicon) -> None:
    assert set(chip.port._handlers) == {int(command) for command in Command}
    for number in {*range(0x100), 0xFFFF_FFFF} - set(Command):
        assert ask(chip, number).status is Status.BAD_ARGUMENT


def test_stop_and_reset_end_the_run(chip: Silicon) -> None:
    done(chip, Command.STOP, 7)
    assert stop_of(chip) == (StopKind.EXIT, 7)
    chip.reset()
    assert stop_of(chip) is None
    done(chip, Command.RESET, ResetReason.UPDATE)
    assert stop_of(chip) == (StopKind.RESET, ResetReason.UPDATE)


@pytest.mark.parametrize("reason", [0, ResetReason.COLD, 0xFFFF_FFFF])
def test_machine_code_cannot_pretend_a_cold_reset(chip: Silicon, reason: int) -> None:
    assert ask(chip, Command.RESET, reason).status is Status.BAD_ARGUMENT
    assert chip.stop is None


def test_stages_are_noted_in_order_and_bounded(chip: Silicon) -> None:
    done(chip, Command.STAGE, Stage.ROM)
    done(chip, Command.STAGE, Stage.FUSES)
    assert chip.stages == [Stage.ROM, Stage.FUSES]
    assert ask(chip, Command.STAGE, 1).status is Status.BAD_ARGUMENT
    for _ in range(100):
        ask(chip, Command.STAGE, Stage.LOADER)
    assert len(chip.stages) == 64


def test_ram_is_executable_only_by_the_right_word_and_before_the_lock(chip: Silicon) -> None:
    assert ask(chip, Command.EXEC_ENABLE, EXEC_ENABLE_WORD ^ 1).status is Status.BAD_ARGUMENT
    assert not chip.exec_enabled
    done(chip, Command.LOCK, Lock.EXEC)
    assert ask(chip, Command.EXEC_ENABLE, EXEC_ENABLE_WORD).status is Status.REFUSED
    chip.reset(ResetReason.WARM)
    done(chip, Command.EXEC_ENABLE, EXEC_ENABLE_WORD)
    assert chip.exec_enabled


def test_locks_are_only_ever_added(chip: Silicon) -> None:
    done(chip, Command.LOCK, Lock.DEBUG | Lock.PUF)
    done(chip, Command.LOCK, 0)
    assert chip.locks == Lock.DEBUG | Lock.PUF
    assert ask(chip, Command.LOCK, 0x200).status is Status.BAD_ARGUMENT
    assert ask(chip, Command.LOCK, 0xFFFF_FFFF).status is Status.BAD_ARGUMENT
    assert chip.locks == Lock.DEBUG | Lock.PUF


def test_fuses_are_blown_and_read_and_their_margin_told(chip: Silicon) -> None:
    assert done(chip, Command.OTP_BLOW, fuse_map.PRODUCT, 0x11).r0 == 0x11
    assert get(chip, FUSE_SHADOW + 4 * fuse_map.PRODUCT, 1) == b"\x11"
    chip.power.cut_at = chip.power.operations + 1
    with pytest.raises(PowerLost):
        ask(chip, Command.OTP_BLOW, fuse_map.PRODUCT, 0x100)
    chip.power.cut_at = None
    chip.reset()
    assert done(chip, Command.OTP_READ, fuse_map.PRODUCT).r1 == 0x100
    assert done(chip, Command.OTP_BLOW, fuse_map.PRODUCT, 0x100).r0 == 0x111
    assert done(chip, Command.OTP_READ, fuse_map.PRODUCT) == Answer(Status.OK, 0x111, 0)


def test_fuse_rules_hold_at_the_port(chip: Silicon) -> None:
    assert ask(chip, Command.OTP_BLOW, 512, 1).status is Status.BAD_ARGUMENT
    assert ask(chip, Command.OTP_READ, 0xFFFF_FFFF).status is Status.BAD_ARGUMENT
    for word, bits in plan_life_cycle(LifeCycle.PROD):
        assert ask(chip, Command.OTP_BLOW, word, bits).status is Status.REFUSED
    done(chip, Command.LOCK, Lock.FUSES_COUNTERS)
    for word, bits in plan_counter(Counter.LOADER, 1):
        assert ask(chip, Command.OTP_BLOW, word, bits).status is Status.REFUSED
    assert isinstance(chip.port.last_error, FuseLocked)


def test_machine_code_in_prod_raises_counters_though_debug_is_closed(chip: Silicon) -> None:
    in_prod(chip)
    chip.reset()
    assert chip.debug is DebugState.LOCKED
    for word, bits in plan_counter(Counter.LOADER, 2):
        done(chip, Command.OTP_BLOW, word, bits)
    assert read_fuses(chip.fuses.words()).counters[Counter.LOADER] == 2


def test_a_defective_fuse_is_a_failure_with_what_it_reads_as(chip: Silicon) -> None:
    chip.fuses.stuck = frozenset({32 * fuse_map.PRODUCT})
    assert ask(chip, Command.OTP_BLOW, fuse_map.PRODUCT, 3) == Answer(Status.FAILED, 2, 0)


def test_enrolment_and_reconstruction_give_the_same_uds_over_boots(chip: Silicon) -> None:
    done(chip, Command.PUF_ENROL, HELPER)
    done(chip, Command.KEY_CHECK_VALUE, KeySlot.UDS, OUT)
    first = get(chip, OUT, 16)
    for reason in (ResetReason.COLD, ResetReason.WARM):
        chip.reset(reason)
        done(chip, Command.PUF_RECONSTRUCT, HELPER)
        done(chip, Command.KEY_CHECK_VALUE, KeySlot.UDS, OUT)
        assert get(chip, OUT, 16) == first


def check_value(silicon: Silicon) -> bytes:
    done(silicon, Command.KEY_CHECK_VALUE, KeySlot.UDS, OUT)
    return get(silicon, OUT, 16)


def test_a_clone_with_copied_fuses_and_flash_has_no_uds_of_the_original(ladder: Silicon) -> None:
    helper = get(ladder, HELPER, HELPER_SIZE)
    clone = Silicon(22, non_volatile=ladder.non_volatile())
    clone.reset()
    put(clone, HELPER, helper)
    done(clone, Command.PUF_RECONSTRUCT, HELPER)
    assert check_value(clone) != check_value(ladder)


def test_changed_helper_data_never_give_the_same_uds_and_are_never_told_apart(ladder: Silicon) -> None:
    genuine, helper = check_value(ladder), get(ladder, HELPER, HELPER_SIZE)
    answers = set()
    for bit in range(0, 8 * HELPER_SIZE, 997):
        changed = bytearray(helper)
        changed[bit // 8] ^= 1 << bit % 8
        put(ladder, HELPER, bytes(changed))
        ladder.keys.clear(KeySlot.UDS)
        answers.add(ask(ladder, Command.PUF_RECONSTRUCT, HELPER))
        assert check_value(ladder) != genuine
    assert answers == {Answer(Status.OK, 0, 0)}, "a failure to decode looks like another secret (ADR 0012)"


def test_what_is_derived_from_the_uds_belongs_to_this_life_cycle_and_debug_state(chip: Silicon) -> None:
    derived = set()
    done(chip, Command.PUF_ENROL, HELPER)
    helper = get(chip, HELPER, HELPER_SIZE)
    blow(chip, plan_debug_authority(bytes(range(32))))
    for life_cycle in (LifeCycle.TEST, LifeCycle.DEV, LifeCycle.PROD):
        if life_cycle is not LifeCycle.TEST:
            blow(chip, plan_life_cycle(life_cycle))
        for opened in (False, True):
            chip.reset()
            if opened:
                done(chip, Command.DEBUG_OPEN)
            put(chip, HELPER, helper)
            done(chip, Command.PUF_RECONSTRUCT, HELPER)
            put(chip, DATA, b"label")
            done(chip, Command.KEY_DERIVE, KeySlot.UDS, KeySlot.GENERAL_0, DATA, 5, DATA, 0)
            done(chip, Command.KEY_CHECK_VALUE, KeySlot.GENERAL_0, OUT)
            derived.add((life_cycle, chip.debug, get(chip, OUT, 16)))
    assert len({secret for *_, secret in derived}) == len({state[:2] for state in derived}) == 5


def test_a_second_enrolment_is_refused(ladder: Silicon) -> None:
    done(ladder, Command.KEY_CHECK_VALUE, KeySlot.UDS, OUT)
    blow(ladder, plan_puf_check(get(ladder, OUT, 16)))
    ladder.reset()
    assert ask(ladder, Command.PUF_ENROL, HELPER).status is Status.REFUSED


@pytest.mark.parametrize("life_cycle", [LifeCycle.BLANK, LifeCycle.DEV, LifeCycle.PROD])
def test_enrolment_outside_test_is_refused(life_cycle: LifeCycle) -> None:
    silicon = Silicon(23)
    for number in range(1, life_cycle + 1):
        blow(silicon, plan_life_cycle(LifeCycle(number)))
    silicon.reset()
    assert ask(silicon, Command.PUF_ENROL, HELPER).status is Status.REFUSED
    assert silicon.keys.filled() == frozenset()


def test_a_cleared_puf_has_no_rows_and_does_nothing_until_reset(ladder: Silicon) -> None:
    done(ladder, Command.PUF_CLEAR)
    assert get(ladder, PUF_ROWS, PUF_ROWS_SIZE) == bytes(PUF_ROWS_SIZE)
    assert ladder.puf_locked
    assert ask(ladder, Command.PUF_RECONSTRUCT, HELPER).status is Status.REFUSED
    assert ask(ladder, Command.PUF_ENROL, HELPER).status is Status.REFUSED
    ladder.reset(ResetReason.WARM)
    done(ladder, Command.PUF_RECONSTRUCT, HELPER)


def test_the_uds_is_out_of_reach_after_an_update_reset(ladder: Silicon) -> None:
    done(ladder, Command.KEY_SIGN, KeySlot.IDEVID_KEY, OUT, DATA)
    signature = get(ladder, DATA, 64)
    digest = get(ladder, OUT, 32)
    ladder.reset(ResetReason.UPDATE)
    assert get(ladder, PUF_ROWS, PUF_ROWS_SIZE) == bytes(PUF_ROWS_SIZE)
    assert ask(ladder, Command.PUF_RECONSTRUCT, HELPER).status is Status.REFUSED
    assert ask(ladder, Command.PUF_ENROL, HELPER).status is Status.REFUSED
    assert ask(ladder, Command.KEY_CHECK_VALUE, KeySlot.UDS, OUT).status is Status.REFUSED
    assert ask(ladder, Command.KEY_CHECK_VALUE, KeySlot.LOADER_CDI, OUT).status is Status.REFUSED
    put(ladder, OUT, digest)
    done(ladder, Command.KEY_SIGN, KeySlot.IDEVID_KEY, OUT, DATA)
    assert get(ladder, DATA, 64) == signature


@pytest.mark.parametrize("reason", [ResetReason.COLD, ResetReason.WARM])
def test_no_secret_outlives_a_cold_or_warm_reset(ladder: Silicon, reason: ResetReason) -> None:
    ladder.reset(reason)
    assert ladder.keys.filled() == frozenset()
    ladder.reset(ResetReason.UPDATE)
    assert ladder.keys.filled() == frozenset()


def test_nothing_works_and_no_secret_is_left_after_fail(ladder: Silicon) -> None:
    done(ladder, Command.EXEC_ENABLE, EXEC_ENABLE_WORD)
    done(ladder, Command.FAIL, 0xE001_0203)
    assert (ladder.error_word, ladder.exec_enabled) == (0xE001_0203, False)
    assert stop_of(ladder) == (StopKind.FAIL, 0xE001_0203)
    for command in Command:
        assert ask(ladder, command, *(0,) * 8).status is Status.REFUSED
    assert ladder.error_word == 0xE001_0203
    assert ladder.keys.filled() == frozenset()
    assert get(ladder, PUF_ROWS, PUF_ROWS_SIZE) == bytes(PUF_ROWS_SIZE)
    ladder.reset(ResetReason.UPDATE)
    assert ladder.keys.filled() == frozenset()


def test_locked_roots_stay_out_of_reach_through_every_key_command(ladder: Silicon) -> None:
    done(ladder, Command.LOCK, Lock.KEY_ROOTS)
    for slot in (KeySlot.UDS, KeySlot.IDEVID_CDI, KeySlot.IDEVID_KEY):
        for command, arguments in (
            (Command.KEY_DERIVE, (slot, KeySlot.GENERAL_0, LABEL, 5, 0, 0)),
            (Command.KEY_DERIVE, (KeySlot.LOADER_CDI, slot, LABEL, 5, 0, 0)),
            (Command.KEY_PAIR, (slot, KeySlot.GENERAL_0, LABEL, 5, OUT)),
            (Command.KEY_PAIR, (KeySlot.LOADER_CDI, slot, LABEL, 5, OUT)),
            (Command.KEY_SIGN, (slot, LABEL, OUT)),
            (Command.KEY_CHECK_VALUE, (slot, OUT)),
            (Command.KEY_HMAC, (slot, LABEL, 5, OUT)),
            (Command.KEY_AES_CTR, (slot, LABEL, LABEL, 5, OUT)),
        ):
            put(ladder, OUT, b"\xa5" * 64)
            assert ask(ladder, command, *arguments).status is Status.REFUSED
            assert get(ladder, OUT, 64) == b"\xa5" * 64
    # The PUF cannot be used to fill the slot again either.
    assert ask(ladder, Command.PUF_RECONSTRUCT, HELPER).status is Status.REFUSED


def test_a_locked_slot_is_refused_and_a_cleared_one_too(ladder: Silicon) -> None:
    done(ladder, Command.KEY_LOCK, KeySlot.LOADER_CDI)
    assert ask(ladder, Command.KEY_HMAC, KeySlot.LOADER_CDI, LABEL, 5, OUT).status is Status.REFUSED
    assert (
        ask(ladder, Command.KEY_DERIVE, KeySlot.IDEVID_CDI, KeySlot.LOADER_CDI, LABEL, 5, 0, 0).status
        is Status.REFUSED
    )
    done(ladder, Command.KEY_CLEAR, KeySlot.IDEVID_KEY)
    assert ask(ladder, Command.KEY_SIGN, KeySlot.IDEVID_KEY, OUT, DATA).status is Status.REFUSED


@pytest.mark.parametrize("slot", [7, 12, 0xFFFF_FFFF])
def test_a_slot_that_does_not_exist_is_refused(chip: Silicon, slot: int) -> None:
    for command in (Command.KEY_CLEAR, Command.KEY_LOCK, Command.KEY_CHECK_VALUE):
        assert ask(chip, command, slot, OUT).status is Status.BAD_ARGUMENT


BAD_TO_READ = (
    ROM_BASE + 4,
    SRAM_BASE,
    PUF_ROWS,
    MAILBOX,
    DOORBELL,
    SYSTEM,
    RAM_BASE + RAM_SIZE - 1,
    0xFFFF_FFFF,
)
BAD_TO_WRITE = (*BAD_TO_READ, FLASH_BASE, FUSE_SHADOW)

# Which arguments of each command are addresses: (good arguments, positions read, positions written).
POINTERS: dict[Command, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    Command.PUF_ENROL: ((HELPER,), (), (0,)),
    Command.PUF_RECONSTRUCT: ((HELPER,), (0,), ()),
    Command.KEY_DERIVE: ((KeySlot.IDEVID_CDI, KeySlot.GENERAL_0, LABEL, 5, LABEL, 5), (2, 4), ()),
    Command.KEY_PAIR: ((KeySlot.IDEVID_CDI, KeySlot.GENERAL_0, LABEL, 5, OUT), (2,), (4,)),
    Command.KEY_SIGN: ((KeySlot.IDEVID_KEY, LABEL, OUT), (1,), (2,)),
    Command.KEY_CHECK_VALUE: ((KeySlot.IDEVID_CDI, OUT), (), (1,)),
    Command.KEY_HMAC: ((KeySlot.IDEVID_CDI, LABEL, 5, OUT), (1,), (3,)),
    Command.KEY_AES_CTR: ((KeySlot.IDEVID_CDI, LABEL, LABEL, 5, OUT), (1, 2), (4,)),
    Command.SHA256: ((LABEL, 5, OUT), (0,), (2,)),
    Command.SHA512: ((LABEL, 5, OUT), (0,), (2,)),
    Command.HKDF: ((LABEL, 5, LABEL, 5, LABEL, 5, OUT, 32), (0, 2, 4), (6,)),
    Command.AES_CTR: ((LABEL, 16, LABEL, LABEL, 5, OUT), (0, 2, 3), (5,)),
    Command.ECDSA_RECOVER: ((LABEL, LABEL, LABEL, OUT), (0, 1, 2), (3,)),
    Command.ED25519_RECOVER: ((LABEL, LABEL, 5, LABEL, OUT), (0, 1, 3), (4,)),
    Command.TRNG_READ: ((OUT, 32), (), (0,)),
    Command.FLASH_PROGRAM: ((FREE, OUT, 8), (1,), ()),
}


@pytest.mark.parametrize("command", POINTERS, ids=lambda command: command.name)
def test_dma_every_address_argument_of_every_command_is_confined(ladder: Silicon, command: Command) -> None:
    good, read, written = POINTERS[command]
    for positions, addresses in ((read, BAD_TO_READ), (written, BAD_TO_WRITE)):
        for position in positions:
            for address in addresses:
                arguments = (*good[:position], address, *good[position + 1 :])
                ladder.fuses.sense()
                before = ladder.snapshot()
                assert ask(ladder, command, *arguments).status is Status.BAD_ARGUMENT, hex(address)
                assert isinstance(ladder.port.last_error, PortAddress)
                after = ladder.snapshot()
                assert after.rows == before.rows
                assert after.sensed == before.sensed
                assert after.non_volatile == before.non_volatile
                assert after.control[0x1000:] == before.control[0x1000:], "nothing beyond the mailbox"


@pytest.mark.parametrize("length", [RAM_SIZE + 1, 0x8000_0000, 0xFFFF_FFFF, 0x1_0000_0000 - RAM_BASE])
def test_dma_a_length_that_leaves_the_window_or_wraps_is_refused(chip: Silicon, length: int) -> None:
    for command, arguments in (
        (Command.SHA256, (RAM_BASE, length, OUT)),
        (Command.TRNG_READ, (RAM_BASE, length)),
        (Command.AES_CTR, (RAM_BASE, 16, RAM_BASE, RAM_BASE, length, RAM_BASE)),
        (Command.FLASH_PROGRAM, (FREE, RAM_BASE, length)),
    ):
        assert ask(chip, command, *arguments).status is Status.BAD_ARGUMENT


def test_hashes_ciphers_and_derivations_are_the_standard_ones(chip: Silicon) -> None:
    put(chip, RAM_BASE + 0x200, bytes(range(256)))
    done(chip, Command.SHA256, RAM_BASE + 0x200, 256, DATA)
    assert get(chip, DATA, 32) == hashlib.sha256(bytes(range(256))).digest()
    done(chip, Command.SHA512, RAM_BASE + 0x200, 0, DATA)
    assert get(chip, DATA, 64) == hashlib.sha512().digest()
    done(chip, Command.HKDF, LABEL, 5, 0, 0, LABEL, 5, DATA, 32)
    prk = hmac.digest(bytes(32), b"label", "sha256")
    assert get(chip, DATA, 32) == hmac.digest(prk, b"label\x01", "sha256")
    assert ask(chip, Command.HKDF, LABEL, 5, 0, 0, 0, 0, RAM_BASE, 255 * 32 + 1).status is Status.BAD_ARGUMENT
    done(chip, Command.AES_CTR, RAM_BASE + 0x200, 32, RAM_BASE + 0x200, LABEL, 5, OUT)
    done(chip, Command.AES_CTR, RAM_BASE + 0x200, 32, RAM_BASE + 0x200, OUT, 5, OUT)
    assert get(chip, OUT, 5) == b"label"
    for length in (0, 15, 24, 33):
        assert ask(chip, Command.AES_CTR, LABEL, length, LABEL, LABEL, 5, OUT).status is Status.BAD_ARGUMENT


def test_blocks_read_flash_and_the_fuse_shadow(chip: Silicon) -> None:
    chip.flash.external_write(FREE, b"in flash")
    done(chip, Command.SHA256, FLASH_BASE + FREE, 8, OUT)
    assert get(chip, OUT, 32) == hashlib.sha256(b"in flash").digest()
    done(chip, Command.SHA256, FUSE_SHADOW, 2048, OUT)
    assert get(chip, OUT, 32) == chip.fuses.digest()


def test_recovered_values_are_written_and_zero_where_there_is_none(chip: Silicon) -> None:
    key = ec.derive_private_key(77, ec.SECP256R1())
    numbers, digest = key.public_key().public_numbers(), hashlib.sha256(b"m").digest()
    r, s = decode_dss_signature(key.sign(digest, ec.ECDSA(Prehashed(SHA256()))))
    words = [number.to_bytes(32, "big") for number in (numbers.x, numbers.y, r, s)]
    put(chip, RAM_BASE, b"".join(words) + digest)
    done(chip, Command.ECDSA_RECOVER, RAM_BASE, RAM_BASE + 128, RAM_BASE + 64, OUT)
    assert get(chip, OUT, 32) == words[2]
    put(chip, RAM_BASE + 64, bytes(32))
    answer = ask(chip, Command.ECDSA_RECOVER, RAM_BASE, RAM_BASE + 128, RAM_BASE + 64, OUT)
    assert (answer.status, get(chip, OUT, 32)) == (Status.FAILED, bytes(32))


def test_ed25519_values_are_written_and_zero_where_there_is_none(chip: Silicon) -> None:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    signature = key.sign(b"label")
    put(chip, RAM_BASE + 0x200, key.public_key().public_bytes_raw() + signature)
    done(chip, Command.ED25519_RECOVER, RAM_BASE + 0x200, LABEL, 5, RAM_BASE + 0x220, OUT)
    assert get(chip, OUT, 32) == signature[:32]
    put(chip, RAM_BASE + 0x240, b"\xff" * 32)
    answer = ask(chip, Command.ED25519_RECOVER, RAM_BASE + 0x200, LABEL, 5, RAM_BASE + 0x220, OUT)
    assert (answer.status, get(chip, OUT, 32)) == (Status.FAILED, bytes(32))


def test_a_stuck_noise_source_fails_reads_and_enrolment(chip: Silicon) -> None:
    put(chip, OUT, b"\xa5" * 32)
    chip.trng.fault = NoiseFault(0.0)
    assert ask(chip, Command.TRNG_READ, OUT, 32).status is Status.FAILED
    assert isinstance(chip.port.last_error, TrngFailed)
    assert get(chip, OUT, 32) == b"\xa5" * 32
    assert ask(chip, Command.PUF_ENROL, HELPER).status is Status.FAILED
    assert chip.keys.filled() == frozenset()


def test_flash_is_erased_and_programmed_under_locks(chip: Silicon) -> None:
    put(chip, OUT, b"01234567")
    done(chip, Command.FLASH_PROGRAM, HELPER_A, OUT, 8)
    assert ask(chip, Command.FLASH_PROGRAM, HELPER_A - 4, OUT, 8) == Answer(Status.FAILED, HELPER_A, 0)
    assert done(chip, Command.FLASH_ERASE, HELPER_A).r0 == 1
    assert done(chip, Command.FLASH_WEAR, HELPER_A).r0 == 1
    assert ask(chip, Command.FLASH_PROGRAM, HELPER_A + 2, OUT, 8).status is Status.BAD_ARGUMENT
    assert ask(chip, Command.FLASH_ERASE, 0x10_0000).status is Status.BAD_ARGUMENT
    done(chip, Command.LOCK, Lock.FLASH_IDENTITY)
    assert ask(chip, Command.FLASH_PROGRAM, HELPER_A, OUT, 8).status is Status.REFUSED
    assert ask(chip, Command.FLASH_ERASE, HELPER_A).status is Status.REFUSED


@pytest.mark.parametrize("seed", range(8))
def test_any_words_in_the_mailbox_get_an_answer_and_reach_nothing_locked(ladder: Silicon, seed: int) -> None:
    random = Random(seed)
    interesting = (0, 1, 5, 32, 64, RAM_BASE, LABEL, OUT, HELPER, DATA, FLASH_BASE, HELPER_A, PUF_ROWS,
                   SRAM_BASE, 0x7FFF_FFFF, 0xFFFF_FFFC, 0xFFFF_FFFF)  # fmt: skip
    ending = {Command.STOP, Command.FAIL, Command.RESET}
    commands = [command for command in Command if command not in ending]
    ladder.state.locks = ALL_LOCKS
    before = ladder.snapshot()
    for _ in range(600):
        words = [random.choice((random.choice(interesting), random.getrandbits(32))) for _ in range(14)]
        assert ask(ladder, random.choice(commands), *words).status is not Status.BUSY
    after = ladder.snapshot()
    assert after.rows in {before.rows, bytes(PUF_ROWS_SIZE)}
    assert after.non_volatile.fuses == before.non_volatile.fuses
    assert ladder.flash.read(0, HELPER_A + 0x3000) == b"\xff" * (HELPER_A + 0x3000)
    assert after.control[0x1000:] == before.control[0x1000:]
    assert (after.state.exec_enabled, after.state.locks) == (False, ALL_LOCKS)


def test_debug_opens_before_the_lock_and_closes_with_the_reset(chip: Silicon) -> None:
    in_prod(chip)
    chip.reset()
    assert debug_of(chip) is DebugState.LOCKED
    done(chip, Command.DEBUG_OPEN)
    assert debug_of(chip) is DebugState.OPEN
    assert chip.psram.view(SYSTEM + 4 * SystemWord.DEBUG, 4).cast("I")[0] == DebugState.OPEN
    chip.reset(ResetReason.UPDATE)
    assert debug_of(chip) is DebugState.LOCKED
    done(chip, Command.LOCK, Lock.DEBUG)
    assert ask(chip, Command.DEBUG_OPEN).status is Status.REFUSED
    assert debug_of(chip) is DebugState.LOCKED


def test_debug_without_an_authority_in_the_fuses_never_opens(chip: Silicon) -> None:
    in_prod(chip, authority=False)
    chip.reset()
    assert ask(chip, Command.DEBUG_OPEN).status is Status.REFUSED
    assert debug_of(chip) is DebugState.LOCKED
