"""Enrolment and reconstruction: the same secret, or none, and helper data that tell nothing."""

from __future__ import annotations

import hashlib
import math
import secrets

import numpy as np
import pytest

from fuseline.device.silicon.memory_map import FLASH_BLOCK, FLASH_WORD, PUF_ROWS_SIZE
from fuseline.device.silicon.puf import HELPER_SIZE, Conditions, Enrolment, Puf, bch
from fuseline.device.silicon.puf.extractor import (
    MESSAGE_OCTETS,
    code_bits,
    enrol,
    message_from,
    reconstruct,
    secret_of,
)
from fuseline.device.silicon.puf.helper import (
    CODE_BITS,
    MASK_AT,
    PAIRS_PER_BIT,
    READINGS,
    SELECTED_PAIRS,
    build_helper,
    read_fields,
    voting_cells,
)
from fuseline.errors import PufBiased, PufFailure, PufHelperMalformed


def rows_of(puf: Puf, boot: int) -> bytes:
    rows = bytearray(PUF_ROWS_SIZE)
    puf.power_up(memoryview(rows), boot)
    return bytes(rows)


def enrolled(seed: int, bias: float = 0.0) -> tuple[Puf, Enrolment]:
    puf = Puf(seed, bias=bias)
    return puf, puf.enrol(rows_of(puf, 0), secrets.token_bytes)


def test_every_later_power_up_gives_the_secret() -> None:
    puf, enrolment = enrolled(11)
    for boot in range(1, 50):
        found = puf.reconstruct(rows_of(puf, boot), enrolment.helper)
        assert found.secret == enrolment.secret
        assert 300 < found.corrected < 800


@pytest.mark.parametrize("temperature_c", [-40.0, 85.0, 125.0])
def test_the_secret_outlives_ten_years_at_any_temperature(temperature_c: float) -> None:
    puf, enrolment = enrolled(12)
    puf.conditions = Conditions(temperature_c, 10.0)
    for boot in range(1, 10):
        assert puf.reconstruct(rows_of(puf, boot), enrolment.helper).secret == enrolment.secret


def test_corrected_is_the_number_of_readings_that_changed() -> None:
    puf, enrolment = enrolled(13)
    first, later = rows_of(puf, 0), rows_of(puf, 1)
    cells = voting_cells(enrolment.helper)
    then, now = (np.unpackbits(np.frombuffer(rows, np.uint8))[cells] for rows in (first, later))
    assert reconstruct(later, enrolment.helper).corrected == int((then != now).sum())
    assert reconstruct(first, enrolment.helper).corrected == 0


def test_a_chip_far_out_of_its_range_fails_closed() -> None:
    wrong = 0
    for seed in range(20, 30):
        puf, enrolment = enrolled(seed)
        puf.conditions = Conditions(700.0, 50.0)
        for boot in range(1, 6):
            try:
                found = puf.reconstruct(rows_of(puf, boot), enrolment.helper)
            except PufFailure:
                continue
            wrong += found.secret != enrolment.secret
    # A code word within reach of noise by chance: one in 18! or so. None is ever taken for the right one.
    assert wrong == 0


def test_another_chips_helper_gives_nothing() -> None:
    _, enrolment = enrolled(31)
    other = Puf(32)
    for boot in range(20):
        with pytest.raises(PufFailure):
            other.reconstruct(rows_of(other, boot), enrolment.helper)


def test_a_readout_of_nothing_is_refused() -> None:
    _, enrolment = enrolled(33)
    for rows in (bytes(PUF_ROWS_SIZE), b"\xff" * PUF_ROWS_SIZE):
        with pytest.raises(PufFailure):
            reconstruct(rows, enrolment.helper)
        with pytest.raises(PufBiased):
            enrol(rows, secrets.token_bytes)


def test_random_rows_never_give_a_secret() -> None:
    _, enrolment = enrolled(34)
    for _ in range(200):
        with pytest.raises(PufFailure):
            reconstruct(secrets.token_bytes(PUF_ROWS_SIZE), enrolment.helper)


def test_helper_data_fit_a_flash_block_in_whole_words() -> None:
    assert HELPER_SIZE < FLASH_BLOCK
    assert HELPER_SIZE % FLASH_WORD == 0
    assert len(enrolled(35)[1].helper) == HELPER_SIZE


def test_helper_data_can_be_written_back_as_they_were_read() -> None:
    helper = enrolled(36)[1].helper
    fields = read_fields(helper)
    assert build_helper(fields.pairs, fields.offset) == helper


def malformed() -> dict[str, bytes]:
    helper = enrolled(37)[1].helper
    mask_bit = bytearray(helper)
    mask_bit[MASK_AT + 2047] ^= 1
    padding = bytearray(helper)
    padding[-1] = 1
    tail = bytearray(helper)
    tail[-3] ^= 1
    cases = {f"header octet {at}": at for at in range(MASK_AT)}
    flipped = {name: helper[:at] + bytes([helper[at] ^ 1]) + helper[at + 1 :] for name, at in cases.items()}
    return {
        **flipped,
        "nothing": b"",
        "erased flash": b"\xff" * HELPER_SIZE,
        "cut short": helper[:-1],
        "too long": helper + b"\0",
        "one pair more or less": bytes(mask_bit),
        "padding": bytes(padding),
        "bits behind the offset": bytes(tail),
    }


@pytest.mark.parametrize(("name", "helper"), malformed().items(), ids=lambda value: str(value)[:24])
def test_broken_helper_data_are_refused_by_name(name: str, helper: bytes) -> None:
    with pytest.raises(PufHelperMalformed):
        reconstruct(bytes(PUF_ROWS_SIZE), helper)


def test_a_broken_helper_is_a_puf_failure_to_who_cannot_care() -> None:
    assert issubclass(PufHelperMalformed, PufFailure)
    assert issubclass(PufBiased, PufFailure)


def test_secrets_do_not_show_in_a_repr() -> None:
    puf, enrolment = enrolled(38)
    found = puf.reconstruct(rows_of(puf, 1), enrolment.helper)
    assert repr(enrolment.secret) not in repr(enrolment)
    assert repr(found.secret) not in repr(found)


def test_the_secret_is_the_hash_of_262_random_bits() -> None:
    puf = Puf(39)
    drawn = bytes(range(MESSAGE_OCTETS))
    enrolment = puf.enrol(rows_of(puf, 0), lambda count: drawn[:count])
    message = int.from_bytes(drawn, "big") >> 2
    assert message == message_from(drawn)
    expected = hashlib.sha256(b"fuseline puf secret 1" + message.to_bytes(33, "big")).digest()
    assert enrolment.secret == expected == secret_of(message)


def test_each_code_bit_has_21_cells_of_its_own() -> None:
    cells = voting_cells(enrolled(40)[1].helper)
    assert cells.shape == (READINGS, CODE_BITS) == (21, 510)
    assert np.unique(cells).size == cells.size


def test_both_cells_of_a_pair_vote_for_one_code_bit() -> None:
    # Given to two code bits, the helper would tell their xor.
    cells = voting_cells(enrolled(41)[1].helper)
    firsts, seconds = cells[:PAIRS_PER_BIT], cells[PAIRS_PER_BIT:]
    assert (seconds == firsts[:-1] + 1).all()
    assert (firsts % 2 == 0).all()


@pytest.mark.parametrize("bias", [0.0, 0.2, 0.4, -0.4])
def test_biased_cells_give_balanced_bits(bias: float) -> None:
    ones = []
    for seed in range(40):
        puf = Puf(seed, bias=bias)
        rows = rows_of(puf, 0)
        cells = voting_cells(puf.enrol(rows, secrets.token_bytes).helper)[:PAIRS_PER_BIT]
        ones.append(float(np.unpackbits(np.frombuffer(rows, np.uint8))[cells].mean()))
    deviation = 0.5 / math.sqrt(SELECTED_PAIRS)
    assert 0.49 < math.fsum(ones) / len(ones) < 0.51
    assert max(abs(share - 0.5) for share in ones) < 5 * deviation


def test_biased_cells_leave_no_trace_in_the_offset() -> None:
    # Of biased cells, the majority of a group tells its code bit (the test below). Of de-biased ones not.
    agreeing, groups = 0, 0
    for seed in range(30):
        puf = Puf(seed, bias=0.4)
        drawn = secrets.token_bytes(MESSAGE_OCTETS)
        enrolment = puf.enrol(rows_of(puf, 0), lambda _, drawn=drawn: drawn)  # type: ignore[misc]
        offset = read_fields(enrolment.helper).offset.reshape(CODE_BITS, PAIRS_PER_BIT)
        guess = offset.sum(axis=1) <= PAIRS_PER_BIT // 2
        agreeing += int((guess == (code_bits(message_from(drawn)) == 1)).sum())
        groups += CODE_BITS
    assert abs(agreeing / groups - 0.5) < 5 * 0.5 / math.sqrt(groups)


def test_without_debiasing_the_offset_tells_most_of_the_key() -> None:
    # The control of the test above: the first 5,610 cells as they are.
    puf = Puf(1, bias=0.4)
    code = code_bits(message_from(secrets.token_bytes(MESSAGE_OCTETS)))
    cells = np.unpackbits(np.frombuffer(rows_of(puf, 0), np.uint8))[:SELECTED_PAIRS]
    offset = (cells ^ np.repeat(code, PAIRS_PER_BIT)).reshape(CODE_BITS, PAIRS_PER_BIT)
    guess = offset.sum(axis=1) <= PAIRS_PER_BIT // 2
    assert float((guess == (code == 1)).mean()) > 0.8


def test_enrolling_the_same_cells_twice_leaks() -> None:
    # Why a fuse says that a chip is enrolled: here the first group tells the xor of two secret code bits.
    puf = Puf(2)
    drawn = [secrets.token_bytes(MESSAGE_OCTETS) for _ in range(2)]
    rows = rows_of(puf, 0)
    helpers = [puf.enrol(rows, lambda _, octets=octets: octets).helper for octets in drawn]  # type: ignore[misc]
    xor = read_fields(helpers[0]).offset ^ read_fields(helpers[1]).offset
    told = xor.reshape(CODE_BITS, PAIRS_PER_BIT)[:, 0]
    first, second = (code_bits(message_from(octets)) for octets in drawn)
    assert (told == first ^ second).all()


def test_the_two_code_words_are_independent() -> None:
    bits = code_bits(1 << bch.K)
    assert bits[: bch.N].any()
    assert not bits[bch.N :].any()
