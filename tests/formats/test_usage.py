"""Usage constraints: which devices an image is for."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseline.errors import UsageMalformed
from fuseline.formats.usage import UNSELECTED, USAGE_SIZE, UsageConstraints, build_usage, parse_usage

NUMBERS = st.none() | st.integers(0, 0xFFFF_FFFF)


@given(NUMBERS, st.none() | st.binary(min_size=32, max_size=32), NUMBERS, NUMBERS)
def test_what_is_built_is_parsed(
    life_cycle: int | None, chip_id: bytes | None, product: int | None, hardware: int | None
) -> None:
    constraints = UsageConstraints(life_cycle, chip_id, product, hardware)
    raw = build_usage(constraints)
    assert len(raw) == USAGE_SIZE
    assert parse_usage(raw) == constraints


def test_any_device_is_all_filler() -> None:
    assert build_usage(UsageConstraints()) == bytes(4) + UNSELECTED.to_bytes(4, "little") * 15


def test_fields_stand_where_the_rom_looks() -> None:
    raw = build_usage(UsageConstraints(3, bytes(range(32)), 0x11223344, 7))
    words = [int.from_bytes(raw[at : at + 4], "little") for at in range(0, 64, 4)]
    assert words[0] == 0x7FF
    assert words[1] == 3
    assert raw[8:40] == bytes(range(32))
    assert words[10:12] == [0x11223344, 7]
    assert set(words[12:]) == {UNSELECTED}


def test_numbers_and_chip_ids_have_their_size() -> None:
    for constraints in (
        UsageConstraints(life_cycle=-1),
        UsageConstraints(product_id=1 << 32),
        UsageConstraints(hardware_revision=1 << 40),
        UsageConstraints(chip_id=bytes(31)),
    ):
        with pytest.raises(UsageMalformed):
            build_usage(constraints)


def test_a_value_that_nothing_builds_is_refused() -> None:
    good = build_usage(UsageConstraints(life_cycle=3))
    for raw in (
        good[:-1],
        good + b"\0",
        (1 << 11).to_bytes(4, "little") + good[4:],
        (1 << 31 | 1).to_bytes(4, "little") + good[4:],
        b"\x02\0\0\0" + good[4:],  # a quarter of a chip id
        good[:-4] + bytes(4),
        bytes(4) + good[4:],
    ):
        with pytest.raises(UsageMalformed):
            parse_usage(raw)


@given(st.binary(max_size=80))
def test_any_octets_are_constraints_or_an_error(raw: bytes) -> None:
    with contextlib.suppress(UsageMalformed):
        assert build_usage(parse_usage(raw)) == raw
