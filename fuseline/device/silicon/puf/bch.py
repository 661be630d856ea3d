"""The binary BCH code (255, 131) that corrects 18 errors.

S. Lin and D. J. Costello, "Error Control Coding", 2nd edition, chapter 6: narrow-sense and primitive, over
GF(2^8) built with x^8 + x^4 + x^3 + x^2 + 1; Berlekamp and Massey's iteration (6.3), Chien's search (6.5).

A word is 32 octets: the 131 bits of the message, its 124 parity bits, and one bit that is zero; the first
bit is the coefficient of x^254 and the highest bit of the first octet.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fuseline.device.silicon.puf.types import Octets, Words
from fuseline.errors import PufFailure

N: Final = 255
K: Final = 131
T: Final = 18
PARITY: Final = N - K
WORD_OCTETS: Final = 32
_PRIMITIVE: Final = 0b1_0001_1101
_MESSAGE_MASK: Final = (1 << K) - 1


def _powers() -> tuple[list[int], list[int]]:
    exponential = [1] * (2 * N)
    logarithm = [0] * (N + 1)
    value = 1
    for power in range(N):
        exponential[power] = exponential[power + N] = value
        logarithm[value] = power
        value <<= 1
        value ^= _PRIMITIVE * (value >> 8)
    return exponential, logarithm


_EXP, _LOG = _powers()
"""alpha^i for i in 0..509, and the i of alpha^i; the entry for 0 stands for nothing."""


def _times(left: int, right: int) -> int:
    return _EXP[_LOG[left] + _LOG[right]] if left and right else 0


def generator_polynomial(t: int) -> int:
    """Return g(x) of the primitive narrow-sense code of length 255 that corrects `t` errors; bit i is x^i.

    It is the least common multiple of the minimal polynomials of alpha, alpha^3, ... alpha^(2t-1) (6.1).
    """
    generator = 1
    seen: set[int] = set()
    for root in range(1, 2 * t, 2):
        conjugates = {root * (1 << power) % N for power in range(8)}
        if not conjugates & seen:
            generator = _carryless_product(generator, _minimal_polynomial(conjugates))
            seen |= conjugates
    return generator


def _minimal_polynomial(exponents: set[int]) -> int:
    coefficients = [1]
    for exponent in exponents:
        shifted = [0, *coefficients]
        scaled = [_times(coefficient, _EXP[exponent]) for coefficient in coefficients]
        coefficients = [a ^ b for a, b in zip(shifted, [*scaled, 0], strict=True)]
    return sum(coefficient << power for power, coefficient in enumerate(coefficients))


def _carryless_product(left: int, right: int) -> int:
    product = 0
    while right:
        product ^= left * (right & 1)
        left <<= 1
        right >>= 1
    return product


@functools.cache
def _residues() -> list[list[int]]:
    """For each octet of a word and each of its values: that part of the word modulo g(x)."""
    generator = generator_polynomial(T)
    powers = [1]
    for _ in range(N - 1):
        value = powers[-1] << 1
        powers.append(value ^ generator if value >> PARITY else value)
    powers.insert(0, 0)  # the bit below x^0 is no part of the word
    tables = []
    for octet in range(WORD_OCTETS):
        table = [0]
        for bit in range(8):
            weight = powers[8 * (WORD_OCTETS - 1 - octet) + bit]
            table += [entry ^ weight for entry in table]
        tables.append(table)
    return tables


@functools.cache
def _residue_pairs() -> npt.NDArray[np.uint64]:
    """`_residues` as an array of shape (32, 256, 2), low word first."""
    flat = b"".join(entry.to_bytes(16, "little") for table in _residues() for entry in table)
    return np.frombuffer(flat, "<u8").reshape(WORD_OCTETS, 256, 2)


@functools.cache
def _syndromes_of_octets() -> npt.NDArray[np.uint8]:
    """Share of S_1 ... S_36 for each octet of a residue (low first) and each value; shape (16, 256, 36)."""
    table = np.zeros((16, 256, 2 * T), np.uint8)
    for octet in range(16):
        for bit in range(8):
            power = 8 * octet + bit
            row = np.array([_EXP[power * root % N] for root in range(1, 2 * T + 1)], np.uint8)
            table[octet, 1 << bit : 2 << bit] = table[octet, : 1 << bit] ^ row
    return table


_OCTET_INDEX: Final = np.arange(16)
_POINTS: Final = np.arange(N)
_EXP_ARRAY: Final = np.array(_EXP[:N], np.uint8)


def encode(message: int) -> bytes:
    """Return the code word of a 131-bit message."""
    if message >> K:
        raise RuntimeError("a message has 131 bits")
    word = message << (PARITY + 1)
    parity = residue(word.to_bytes(WORD_OCTETS, "big"))
    return (word | parity << 1).to_bytes(WORD_OCTETS, "big")


def message_of(word: bytes) -> int:
    """Return the message in a code word."""
    return int.from_bytes(word, "big") >> (PARITY + 1) & _MESSAGE_MASK


def residue(word: bytes) -> int:
    """Return a word modulo g(x), below 2^124: zero exactly for code words."""
    value = 0
    for table, octet in zip(_residues(), word, strict=True):
        value ^= table[octet]
    return value


def residues(words: Octets) -> Words:
    """Return the residue of many words at once.

    Args:
        words: Shape (n, 32).

    Returns:
        Shape (n, 2): the low and the high 64 bits.
    """
    tables = _residue_pairs()
    total: Words = tables[0][words[:, 0]]
    for octet in range(1, WORD_OCTETS):
        total ^= tables[octet][words[:, octet]]
    return total


@dataclass(frozen=True, slots=True)
class Decoded:
    """The code word nearest to a word.

    Attributes:
        word: 32 octets.
        corrected: In how many bits it differs, at most 18.
    """

    word: bytes
    corrected: int


def decode(word: bytes) -> Decoded:
    """Return the code word within 18 bits of a word; there is at most one.

    Raises:
        PufFailure: There is none.
    """
    remainder = residue(word)
    if not remainder:
        return Decoded(word, 0)
    positions = _error_positions(remainder)
    value = int.from_bytes(word, "big")
    for position in positions:
        value ^= 2 << position
    return Decoded(value.to_bytes(WORD_OCTETS, "big"), len(positions))


def _error_positions(remainder: int) -> list[int]:
    octets = np.frombuffer(remainder.to_bytes(16, "little"), np.uint8)
    shares = _syndromes_of_octets()[_OCTET_INDEX, octets]
    locator = _error_locator(np.bitwise_xor.reduce(shares, axis=0).tolist())
    positions = _chien_search(locator)
    if len(positions) != len(locator) - 1:
        raise PufFailure("no code word is within the code's reach", reach=T)
    return positions


def _error_locator(syndromes: list[int]) -> list[int]:
    """Berlekamp and Massey's iteration for a binary code: every second discrepancy is zero (6.4).

    Returns:
        Coefficients of the error locator, that of x^0 first, without trailing zeros; degree at most `T`.
    """
    locator, previous = [1], [1]
    length, gap, previous_discrepancy = 0, 1, 1
    for step in range(0, 2 * T, 2):
        discrepancy = syndromes[step]
        for power in range(1, min(length, len(locator) - 1) + 1):
            discrepancy ^= _times(locator[power], syndromes[step - power])
        if discrepancy:
            scale = _EXP[(_LOG[discrepancy] - _LOG[previous_discrepancy]) % N]
            longer = _add_scaled(locator, previous, scale, gap)
            if 2 * length <= step:
                previous, previous_discrepancy = locator, discrepancy
                length, gap = step + 1 - length, 0
            locator = longer
        gap += 2
    while not locator[-1]:
        locator.pop()
    if length != len(locator) - 1 or length > T:
        raise PufFailure("no code word is within the code's reach", reach=T)
    return locator


def _add_scaled(left: list[int], right: list[int], scale: int, shift: int) -> list[int]:
    """Return left(x) + scale * x^shift * right(x)."""
    total = left + [0] * (shift + len(right) - len(left))
    for power, coefficient in enumerate(right):
        total[shift + power] ^= _times(coefficient, scale)
    return total


def _chien_search(locator: list[int]) -> list[int]:
    """Return every i for which alpha^-i is a root of the locator."""
    values = np.zeros(N, np.uint8)
    for power, coefficient in enumerate(locator):
        if coefficient:
            values ^= _EXP_ARRAY[(_LOG[coefficient] - power * _POINTS) % N]
    return np.flatnonzero(values == 0).tolist()
