"""How far code runs before it can branch or unmask: counted too far, an interrupt would be taken too late."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseline.device.silicon.cortexm.straight_line import WINDOW, straight_line

NOP = 0xBF00


def code(*halfwords: int) -> bytes:
    """Code of these halfwords, then NOPs."""
    octets = b"".join(word.to_bytes(2, "little") for word in halfwords)
    return (octets + b"\x00\xbf" * WINDOW)[:WINDOW]


@pytest.mark.parametrize(
    "ender",
    [
        (0xB662,),  # cpsie i
        (0xB672,),  # cpsid i
        (0xF380, 0x8811),  # msr basepri, r0
        (0xF380, 0x8810),  # msr primask, r0
        (0xE7FE,),  # b .
        (0xD0FE,),  # beq .
        (0xDF00,),  # svc
        (0xBE00,),  # bkpt
        (0xBF08,),  # it eq
        (0xBF30,),  # wfi
        (0xB108,),  # cbz
        (0xBD10,),  # pop {r4, pc}
        (0x4770,),  # bx lr
        (0x4687,),  # mov pc, r0
        (0xF000, 0xF800),  # bl
        (0xF000, 0x8000),  # beq.w
        (0xE8BD, 0x8010),  # pop.w {r4, pc}
        (0xE8D0, 0xF001),  # tbb
        (0xF8D0, 0xF000),  # ldr pc, [r0]
    ],
)
def test_an_instruction_that_may_branch_or_unmask_ends_the_stretch(ender: tuple[int, ...]) -> None:
    assert straight_line(code(NOP, 0x3001, *ender)) == 3


@pytest.mark.parametrize(
    "plain",
    [
        (0x6808,),  # ldr r0, [r1]
        (0xB510,),  # push {r4, lr}
        (0xBC10,),  # pop {r4}
        (0x4680,),  # mov r8, r0
        (0xF04F, 0x0001),  # mov.w r0, #1
        (0xF240, 0x1234),  # movw
        (0xE92D, 0x4FF0),  # push.w {r4-r11, lr}
        (0xE9D0, 0x1200),  # ldrd
        (0xF8D0, 0x1004),  # ldr.w r1, [r0, #4]
        (0xFB00, 0xF001),  # mul
        (0xEE30, 0x0A00),  # vadd.f32
    ],
)
def test_plain_instructions_do_not_end_it(plain: tuple[int, ...]) -> None:
    assert straight_line(code(*plain, *plain, *plain, 0xE7FE)) == 4


@given(st.binary(max_size=WINDOW))
def test_any_octets_give_a_count_that_fits_into_them(octets: bytes) -> None:
    assert 1 <= straight_line(octets) <= max(1, len(octets) // 2)
