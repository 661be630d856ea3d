"""What an adversary with a flash programmer gets out of the PUF's helper data: nothing, and why."""

from __future__ import annotations

import hashlib
import hmac
import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from fuseline.device.silicon.memory_map import PUF_ROWS_SIZE
from fuseline.device.silicon.puf import HELPER_SIZE, Enrolment, Puf
from fuseline.device.silicon.puf.extractor import secret_of
from fuseline.device.silicon.puf.helper import CODE_BITS, read_fields
from fuseline.errors import PufFailure
from fuseline.lab.puf.attacks import flip_code_bit, flip_helper_bit, recover_codewords, swap_code_bits


@dataclass
class Victim:
    """A chip, its enrolment, and the three ways in which it may answer an edited helper."""

    puf: Puf
    enrolment: Enrolment
    boots: Iterator[int] = field(default_factory=lambda: iter(range(1, 10**9)))

    def secret(self, helper: bytes) -> bytes:
        rows = bytearray(PUF_ROWS_SIZE)
        self.puf.power_up(memoryview(rows), next(self.boots))
        return self.puf.reconstruct(bytes(rows), helper).secret

    def comes_up(self, helper: bytes) -> bool:
        """As built: the root key binds the helper, and nothing tells why it is another one."""
        try:
            return root_key(self.secret(helper), helper) == root_key(
                self.enrolment.secret, self.enrolment.helper
            )
        except PufFailure:
            return False

    def comes_up_unbound(self, helper: bytes) -> bool:
        """Weakened: the secret itself is the root key."""
        try:
            return self.secret(helper) == self.enrolment.secret
        except PufFailure:
            return False

    def decodes(self, helper: bytes) -> bool:
        """Weakened: as built, but a failure to decode has an error of its own."""
        try:
            self.secret(helper)
        except PufFailure:
            return False
        return True


def root_key(secret: bytes, helper: bytes) -> bytes:
    """HKDF-Extract (RFC 5869 2.2) with the helper's digest as salt, as the key manager does."""
    return hmac.digest(hashlib.sha256(helper).digest(), secret, "sha256")


@pytest.fixture
def victim() -> Victim:
    puf = Puf(3)
    rows = bytearray(PUF_ROWS_SIZE)
    puf.power_up(memoryview(rows), 0)
    return Victim(puf, puf.enrol(bytes(rows), secrets.token_bytes))


def test_the_untouched_helper_brings_the_chip_up(victim: Victim) -> None:
    assert all(victim.comes_up(victim.enrolment.helper) for _ in range(20))


def test_a_flipped_helper_bit_never_gives_the_key(victim: Victim) -> None:
    bits = random.Random(7).sample(range(8 * HELPER_SIZE), 600)
    assert not any(victim.comes_up(flip_helper_bit(victim.enrolment.helper, bit)) for bit in bits)


@pytest.mark.sweep
def test_no_flipped_helper_bit_gives_the_key(victim: Victim) -> None:
    helper = victim.enrolment.helper
    assert not any(victim.comes_up(flip_helper_bit(helper, bit)) for bit in range(8 * HELPER_SIZE))


def test_a_flipped_bit_that_decodes_would_give_the_key_if_the_helper_were_not_bound(victim: Victim) -> None:
    edited = flip_helper_bit(victim.enrolment.helper, 8 * 2064)
    assert victim.comes_up_unbound(edited)
    assert not victim.comes_up(edited)


def test_a_flipped_group_decodes_to_the_same_secret_and_gives_another_key(victim: Victim) -> None:
    for bit in range(0, CODE_BITS, 17):
        edited = flip_code_bit(victim.enrolment.helper, bit)
        assert victim.secret(edited) == victim.enrolment.secret
        assert root_key(victim.secret(edited), edited) != root_key(
            victim.enrolment.secret, victim.enrolment.helper
        )


def test_swapped_groups_give_another_key(victim: Victim) -> None:
    helper = victim.enrolment.helper
    decoded = 0
    for left in range(0, CODE_BITS - 1, 10):
        edited = swap_code_bits(helper, left, left + 1)
        decoded += victim.comes_up_unbound(edited)
        assert edited == helper or not victim.comes_up(edited)
    assert decoded


def test_helper_manipulation_reads_the_whole_secret_of_a_chip_that_does_not_bind_it(victim: Victim) -> None:
    recovery = recover_codewords(victim.enrolment.helper, victim.comes_up_unbound)
    assert victim.enrolment.secret in {secret_of(message) for message in recovery.candidates}
    assert recovery.queries == 508


def test_a_decoding_failure_that_shows_gives_the_secret_away_in_spite_of_binding(victim: Victim) -> None:
    recovery = recover_codewords(victim.enrolment.helper, victim.decodes)
    assert victim.enrolment.secret in {secret_of(message) for message in recovery.candidates}


def test_helper_manipulation_learns_nothing_from_the_chip_as_built(victim: Victim) -> None:
    answers = []

    def oracle(helper: bytes) -> bool:
        answers.append(victim.comes_up(helper))
        return answers[-1]

    recovery = recover_codewords(victim.enrolment.helper, oracle)
    assert not any(answers)
    assert recovery.candidates == ()
    assert victim.comes_up(victim.enrolment.helper)


def test_a_helper_of_another_chip_does_not_bring_this_one_up(victim: Victim) -> None:
    other = Puf(4)
    rows = bytearray(PUF_ROWS_SIZE)
    other.power_up(memoryview(rows), 0)
    foreign = other.enrol(bytes(rows), secrets.token_bytes).helper
    assert not victim.comes_up(foreign)
    assert not victim.comes_up_unbound(foreign)


def test_an_older_enrolment_of_the_same_chip_gives_its_own_key_only(victim: Victim) -> None:
    rows = bytearray(PUF_ROWS_SIZE)
    victim.puf.power_up(memoryview(rows), 10**9)
    again = victim.puf.enrol(bytes(rows), secrets.token_bytes)
    assert victim.secret(again.helper) == again.secret != victim.enrolment.secret
    assert not victim.comes_up(again.helper)


def test_the_attack_reports_its_progress(victim: Victim) -> None:
    seen: list[tuple[int, int]] = []
    recover_codewords(
        victim.enrolment.helper, lambda _: False, lambda done, total: seen.append((done, total))
    )
    assert [done for done, _ in seen] == list(range(1, 509))
    assert {total for _, total in seen} == {508}


def test_edited_helpers_are_well_formed(victim: Victim) -> None:
    for helper in (flip_code_bit(victim.enrolment.helper, 5), swap_code_bits(victim.enrolment.helper, 1, 2)):
        assert np.array_equal(read_fields(helper).pairs, read_fields(victim.enrolment.helper).pairs)
