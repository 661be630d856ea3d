"""How far code runs before it can branch or change what it masks (Armv7-M A5.2, A5.3: Thumb encodings)."""

from __future__ import annotations

from typing import Final

WINDOW: Final = 64
"""Octets of code that are looked at."""

_REMEMBERED: Final = 4096
_known: dict[bytes, int] = {}


def straight_line(code: bytes) -> int:
    """Count instructions up to and with the first that may branch, mask, unmask, sleep or start an IT block.

    Args:
        code: The next octets of code, `WINDOW` of them if there are so many.

    Returns:
        At least 1. Each of them is executed if the one before it is, unless there is an exception.
    """
    count = _known.get(code)
    if count is None:
        if len(_known) >= _REMEMBERED:
            _known.clear()
        count = _known[code] = _count(code)
    return count


def _count(code: bytes) -> int:
    count = at = 0
    plain = True
    while plain and at + 4 <= len(code):
        first, second = code[at] | code[at + 1] << 8, code[at + 2] | code[at + 3] << 8
        if first < 0xE800:
            plain, at = _plain_narrow(first), at + 2
        else:
            plain, at = _plain_wide(first, second), at + 4
        count += 1
    return max(count, 1)


def _plain_narrow(word: int) -> bool:
    top = word >> 8
    if top in {0x44, 0x45, 0x46}:  # ADD, CMP, MOV with high registers: Rd may be the program counter
        return word & 0x87 != 0x87
    if top == 0x47 or top >= 0xD0:  # BX, BLX; B, SVC, UDF
        return False
    if top >> 4 == 0xB:  # CBZ, CBNZ, CPS, POP {pc}, BKPT, IT and hints but NOP
        return top in {0xB0, 0xB2, 0xB4, 0xB5, 0xBA, 0xBC} or word == 0xBF00
    return True


def _plain_wide(first: int, second: int) -> bool:
    group = first >> 9
    if group in {
        0x78,
        0x79,
        0x7A,
        0x7B,
    }:  # data processing with immediates; with bit 15: branches, MSR, hints
        return not second & 0x8000
    if group == 0x74:  # LDM with pc, TBB, TBH
        loads_pc = not first & 0x40 and first & 0x10 and second & 0x8000
        return not loads_pc and first & 0xFFF0 != 0xE8D0
    if group == 0x7C:  # LDR with pc, and preload hints
        return second >> 12 != 0xF
    return True
