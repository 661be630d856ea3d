"""The MPU model, which the processor asks when it stacks, says what the engine's own MPU says."""

from __future__ import annotations

import functools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import arm_const as arm

from fuseline.device.silicon.cortexm.bus import Access
from fuseline.device.silicon.cortexm.mpu import PRIVDEFENA, REGIONS, Mpu
from fuseline.device.silicon.cortexm.unicorn_core import Event, UnicornCore

CODE, DATA, SIZE = 0x0000_0000, 0x2000_0000, 0x4000
LDRB, STRB, LDRBT, STRBT = (0x7810,), (0x7010,), (0xF812, 0x0E00), (0xF802, 0x0E00)
EXECUTE_AP_ONLY_CODE = (0, 0x0600_0000 | 13 << 1 | 1)  # the code itself: readable and executable by all


@functools.cache
def core() -> UnicornCore:
    made = UnicornCore()
    made.engine.mem_map(CODE, 0x1000)
    made.engine.mem_map(DATA, SIZE)
    octets = b"".join(word.to_bytes(2, "little") for word in (*LDRB, *STRB, *LDRBT, *STRBT))
    made.engine.mem_write(CODE, octets)
    return made


def engine_allows(mpu: Mpu, address: int) -> tuple[Access, Access]:
    """What the engine lets privileged and unprivileged code do with one octet."""
    made = core()
    made.set_mpu(mpu, negative_priority=False)
    made.engine.reg_write(arm.UC_ARM_REG_R2, address)
    verdicts = []
    for at in (0, 2, 4, 8):
        made.pc, made.thumb = CODE + at, 1
        verdicts.append(made.run(1) is Event.LIMIT)
        if not verdicts[-1]:
            assert made.address == address
    read, write, user_read, user_write = verdicts
    privileged = (Access.R if read else Access.NONE) | (Access.W if write else Access.NONE)
    return privileged, (Access.R if user_read else Access.NONE) | (Access.W if user_write else Access.NONE)


def random_mpu(random_: random.Random) -> Mpu:
    mpu = Mpu()
    mpu.write_control(1 | random_.choice([0, PRIVDEFENA]))
    for number in range(REGIONS - 1):
        size_field = random_.randint(0, 15)
        base = DATA + random_.randrange(SIZE) if random_.random() < 0.9 else random_.randrange(1 << 32)
        if random_.random() < 0.9:
            base &= -(2 << size_field) & 0xFFFF_FFFF
        mpu.number = number
        mpu.write_rbar(base & ~0x1F)
        attributes = random_.choice([0, 1, 2, 3, 5, 6, 7]) << 24 | random_.getrandbits(1) << 28
        subregions = random_.choice([0, 0, random_.randrange(256)])
        mpu.write_rasr(attributes | subregions << 8 | size_field << 1 | (random_.random() < 0.8))
    mpu.number = REGIONS - 1
    mpu.write_rbar(EXECUTE_AP_ONLY_CODE[0])
    mpu.write_rasr(EXECUTE_AP_ONLY_CODE[1])
    return mpu


def check(seed: int, probes: int) -> None:
    random_ = random.Random(seed)
    mpu = random_mpu(random_)
    edges = [
        base + (2 << (rasr >> 1 & 31)) // 8 * part
        for base, rasr in zip(mpu.base, mpu.attributes, strict=True)
        for part in range(9)
    ]
    near = [edge + offset for edge in edges for offset in (-1, 0, 31) if DATA <= edge + offset < DATA + SIZE]
    for _ in range(probes):
        address = random_.choice(near) if near and random_.random() < 0.8 else DATA + random_.randrange(SIZE)
        expected = tuple(mpu.allowed(address, privileged=who) & Access.RW for who in (True, False))
        assert engine_allows(mpu, address) == expected, hex(address)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32))
def test_model_and_engine_allow_the_same(seed: int) -> None:
    check(seed, 8)


@pytest.mark.sweep
def test_model_and_engine_allow_the_same_over_thousands_of_settings() -> None:
    for seed in range(5_000):
        check(seed, 20)


def test_execution_follows_read_permission_and_xn() -> None:
    mpu = Mpu()
    mpu.write_control(1)
    for attributes, expected in (
        (6 << 24, Access.R | Access.X),
        (6 << 24 | 1 << 28, Access.R),
        (0, Access.NONE),
        (1 << 24, Access.NONE),
    ):
        mpu.write_rbar(DATA)
        mpu.write_rasr(attributes | 9 << 1 | 1)
        assert mpu.allowed(DATA, privileged=False) == expected


def test_system_space_is_never_executed_and_always_there() -> None:
    mpu = Mpu()
    mpu.write_control(1)
    assert mpu.allowed(0xE000_E000, privileged=True) == Access.RW


def test_hard_fault_runs_without_mpu_unless_it_is_told_otherwise() -> None:
    mpu = Mpu()
    mpu.write_control(1)
    assert mpu.allowed(DATA, privileged=True, negative_priority=True) == Access.RWX
    mpu.write_control(3)
    assert mpu.allowed(DATA, privileged=True, negative_priority=True) == Access.NONE
