"""The BCH code against published values and against its own promise."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuseline.device.silicon.puf import bch
from fuseline.errors import PufFailure

# Lin and Costello, "Error Control Coding": generator polynomials of primitive BCH codes of length 255, octal.
PUBLISHED = {
    1: "435",
    2: "267543",
    3: "156720665",
    4: "75626641375",
    5: "23157564726421",
    10: "22624710717340432416300455",
    18: "215713331471510151261250277442142024165471",
}

MESSAGES = st.integers(min_value=0, max_value=(1 << bch.K) - 1)


def disturb(word: bytes, positions: set[int]) -> bytes:
    value = int.from_bytes(word, "big")
    for position in positions:
        value ^= 2 << position
    return value.to_bytes(bch.WORD_OCTETS, "big")


@pytest.mark.parametrize(("t", "octal"), PUBLISHED.items())
def test_generator_polynomials_are_the_published_ones(t: int, octal: str) -> None:
    assert bch.generator_polynomial(t) == int(octal, 8)


def test_the_code_has_131_message_bits() -> None:
    assert bch.generator_polynomial(bch.T).bit_length() - 1 == bch.PARITY == 124


@given(MESSAGES)
def test_a_code_word_starts_with_its_message_and_has_no_residue(message: int) -> None:
    word = bch.encode(message)
    assert bch.message_of(word) == message
    assert bch.residue(word) == 0
    assert word[-1] & 1 == 0


@given(MESSAGES, st.integers(min_value=0, max_value=36))
def test_a_code_word_has_every_root_of_the_generator(message: int, power: int) -> None:
    # Evaluated bit by bit, with none of the tables that the encoder uses.
    value, point = 0, bch._EXP[power]
    for bit in f"{int.from_bytes(bch.encode(message), 'big') >> 1:0255b}":
        value = bch._times(value, point) ^ int(bit)
    assert (value == 0) or power == 0


@settings(max_examples=300)
@given(MESSAGES, st.sets(st.integers(min_value=0, max_value=bch.N - 1), max_size=bch.T))
def test_up_to_18_errors_are_corrected(message: int, positions: set[int]) -> None:
    word = bch.encode(message)
    decoded = bch.decode(disturb(word, positions))
    assert decoded.word == word
    assert decoded.corrected == len(positions)


@settings(max_examples=300)
@given(MESSAGES, st.sets(st.integers(min_value=0, max_value=bch.N - 1), min_size=bch.T + 1, max_size=bch.N))
def test_more_errors_are_never_taken_for_the_original(message: int, positions: set[int]) -> None:
    word = bch.encode(message)
    try:
        decoded = bch.decode(disturb(word, positions))
    except PufFailure:
        return
    assert decoded.word != word
    assert bch.residue(decoded.word) == 0
    assert decoded.corrected <= bch.T


def test_nineteen_errors_are_refused() -> None:
    random.seed(19)
    for _ in range(200):
        word = bch.encode(random.getrandbits(bch.K))
        with pytest.raises(PufFailure):
            bch.decode(disturb(word, set(random.sample(range(bch.N), 19))))


def test_a_word_of_another_code_word_decodes_to_that_one() -> None:
    left, right = bch.encode(1), bch.encode(1 << 130)
    difference = int.from_bytes(left, "big") ^ int.from_bytes(right, "big")
    positions = [bit for bit in range(bch.N) if difference >> (bit + 1) & 1]
    assert len(positions) >= 2 * bch.T + 1
    near_right = disturb(left, set(positions[: len(positions) - bch.T]))
    assert bch.decode(near_right).word == right


def test_residues_of_many_words_are_those_of_each() -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    words = generator.integers(0, 256, (50, bch.WORD_OCTETS)).astype(np.uint8)
    words[:, -1] &= 0xFE
    words[7] = np.frombuffer(bch.encode(99), np.uint8)
    pairs = bch.residues(words)
    for word, (low, high) in zip(words, pairs.tolist(), strict=True):
        assert bch.residue(word.tobytes()) == high << 64 | low
    assert not pairs[7].any()


def test_a_message_of_132_bits_is_a_programming_error() -> None:
    with pytest.raises(RuntimeError):
        bch.encode(1 << bch.K)
