"""Strict CBOR: what an attacker likes to hide in an encoding is refused, at once."""

from __future__ import annotations

import contextlib
import io
import math
import time

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseline.errors import CborMalformed
from fuseline.formats import cbor

Item = int | str | bytes | bool | float | list["Item"] | dict[int | str, "Item"] | None

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.text(max_size=20)
    | st.binary(max_size=40)
    | st.floats(allow_nan=False)
)
ITEMS: st.SearchStrategy[Item] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(-100, 3000) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("hexed", "attack"),
    [
        ("", "nothing"),
        ("a201010102", "duplicate key"),
        ("a2010118 0102", "duplicate key in another length"),
        ("a2616101616102", "duplicate text key"),
        ("a20101f50102", "true, which Python takes for the key 1"),
        ("a201010fa20101010203", "duplicate key in an inner map"),
        ("a10fa201010102", "duplicate key in an inner map"),
        ("9f01ff", "indefinite array"),
        ("bf0101ff", "indefinite map"),
        ("5f4101ff", "indefinite byte string"),
        ("7f6161ff", "indefinite text"),
        ("ff", "a break alone"),
        ("0101", "bytes after the item"),
        ("d28443a10126a04100580000", "bytes after a tagged item"),
        ("1c", "reserved additional information"),
        ("1f", "indefinite integer"),
        ("f818", "a simple value in two bytes that needs one"),
        ("61ff", "text that is not UTF-8"),
        ("62c328", "text that is not UTF-8"),
        ("5820 00", "a byte string cut short"),
        ("8201", "an array cut short"),
        ("a101", "a map cut short"),
        ("d2", "a tag of nothing"),
    ],
)
def test_loose_encodings_are_refused(hexed: str, attack: str) -> None:
    with pytest.raises(CborMalformed) as caught:
        cbor.decode(bytes.fromhex(hexed))
    assert caught.value.evidence["length"] == len(bytes.fromhex(hexed)), attack


@pytest.mark.parametrize(
    ("tag", "content"),
    [
        (0, "2024-01-01T00:00:00Z"),
        (1, 0),
        (2, b"\x01" * 9),
        (3, b"\x01" * 9),
        (4, [1, 2]),
        (5, [1, 2]),
        (25, 0),
        (28, []),  # shareable: with 29 it makes a list that holds itself
        (29, 0),
        (30, [1, 2]),
        (35, "(a+)+$"),
        (36, "From: a@b\n\n"),
        (37, b"\x00" * 16),
        (100, 1),
        (256, []),
        (258, [1]),
        (260, b"\x7f\x00\x00\x01"),
        (261, {b"\x7f\x00\x00\x01": 8}),
        (1004, "2024-01-01"),
    ],
)
def test_a_tag_never_becomes_a_rich_object(tag: int, content: Item) -> None:
    stream = io.BytesIO()
    encoder = cbor2.CBOREncoder(stream)
    encoder.encode_length(6, tag)
    encoder.encode(content)
    with pytest.raises(CborMalformed):
        cbor.decode(stream.getvalue())
    with pytest.raises(CborMalformed):
        cbor.decode(b"\x81" + stream.getvalue())


def test_a_cyclic_list_cannot_be_built() -> None:
    with pytest.raises(CborMalformed):
        cbor.decode(bytes.fromhex("d81c81d81d00"))


def test_a_tag_without_meaning_here_stays_a_tag() -> None:
    assert cbor.decode(bytes.fromhex("d2820102")) == cbor2.CBORTag(18, (1, 2))


@pytest.mark.parametrize("head", [b"\x81", b"\xa1\x00", b"\xc6"], ids=["arrays", "maps", "tags"])
def test_depth_is_bounded(head: bytes) -> None:
    assert cbor.decode(head * (cbor.MAX_DEPTH - 1) + b"\x00") is not None
    for depth in (cbor.MAX_DEPTH + 1, 1000, 100_000):
        with pytest.raises(CborMalformed):
            cbor.decode(head * depth + b"\x00")


@pytest.mark.parametrize("major", range(2, 6))
@pytest.mark.parametrize("length", [2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1])
def test_a_length_bomb_costs_nothing(major: int, length: int) -> None:
    bomb = bytes([major << 5 | 27]) + length.to_bytes(8)
    started = time.monotonic()
    with pytest.raises(CborMalformed):
        cbor.decode(bomb)
    with pytest.raises(CborMalformed):
        cbor.decode(bomb + b"\x00" * 64)
    assert time.monotonic() - started < 0.5


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_malformed(raw: bytes) -> None:
    with contextlib.suppress(CborMalformed):
        cbor.decode(raw)  # any other exception fails the test


@given(ITEMS)
def test_what_is_encoded_decodes_to_the_same(item: Item) -> None:
    encoded = cbor.encode(item)
    assert cbor.decode(encoded) == item
    assert cbor.encode(cbor.decode(encoded)) == encoded


@given(ITEMS)
def test_no_proper_prefix_of_an_item_decodes(item: Item) -> None:
    encoded = cbor.encode(item)
    for end in range(len(encoded)):
        with pytest.raises(CborMalformed):
            cbor.decode(encoded[:end])


def test_encoding_is_deterministic() -> None:
    assert cbor.encode({"b": 1, 10: 2, "a": 3, 1: 4}) == cbor.encode({1: 4, "a": 3, 10: 2, "b": 1})
    assert cbor.encode(math.inf) == bytes.fromhex("f97c00")  # RFC 8949 4.2.2: the shortest float
