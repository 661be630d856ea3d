"""The boot record: strict where it is read, because the loader can write it."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseline.device.silicon.fuse_map import Counter, KeyType, LifeCycle
from fuseline.device.silicon.handover import (
    HANDOVER_MAGIC,
    HANDOVER_VERSION,
    RECORD_SIZE,
    parse_boot_record,
)
from fuseline.device.silicon.memory_map import LOADER_RECOVERY, DebugState, ResetReason
from fuseline.device.silicon.rom.loader_certificate import loader_certificate_template
from fuseline.errors import HandoverMalformed

PAD = -(4 + loader_certificate_template().offsets["public"]) % 4
CERTIFICATE = b"\x30\x82" + (300).to_bytes(2, "big") + bytes(300)
WORDS = (
    HANDOVER_MAGIC, HANDOVER_VERSION, RECORD_SIZE, LifeCycle.PROD, DebugState.LOCKED, ResetReason.WARM,
    77, 1, 1, 5, 6, 7, 8, 2, KeyType.PROD, LOADER_RECOVERY, 0xE0060118,
)  # fmt: skip


def record(
    changes: dict[int, int] | None = None, certificate: bytes = CERTIFICATE, size: int | None = None
) -> bytes:
    """A well-made boot record, with words changed by index."""
    words = [int(word) for word in WORDS]
    for index, value in (changes or {}).items():
        words[index] = value
    head = struct.pack("<17I", *words) + struct.pack("<BBHI", 1, 2, 3, 4) + struct.pack("<2I", 0x200, 1000)
    body = bytes(range(32)) + struct.pack("<2I", 9, 10) + b"m" * 32 + b"s" * 32 + b"k" * 64
    area = bytes(PAD) + certificate
    length = len(certificate) if size is None else size
    return (head + body + length.to_bytes(4, "little") + area).ljust(RECORD_SIZE, b"\xee")


def test_every_fact_is_read() -> None:
    parsed = parse_boot_record(record())
    assert (parsed.life_cycle, parsed.debug, parsed.reset_reason) == (
        LifeCycle.PROD, DebugState.LOCKED, ResetReason.WARM,
    )  # fmt: skip
    assert (parsed.boot_count, parsed.watchdog_reset, parsed.chip_revision) == (77, True, 1)
    assert parsed.counters == {Counter.LOADER: 5, Counter.FIRMWARE_0: 6, Counter.FIRMWARE_1: 7}
    assert (parsed.image_counter, parsed.key_slot, parsed.key_type) == (8, 2, KeyType.PROD)
    assert (parsed.recovery, parsed.primary_refusal) == (True, 0xE0060118)
    assert (parsed.loader_version, parsed.header_size, parsed.payload_size) == ("1.2.3+4", 0x200, 1000)
    assert (parsed.chip_id, parsed.product, parsed.hardware_revision) == (bytes(range(32)), 9, 10)
    assert (parsed.measurement, parsed.signer, parsed.idevid_public) == (b"m" * 32, b"s" * 32, b"k" * 64)
    assert parsed.certificate == CERTIFICATE


def test_a_value_that_the_rom_never_writes_is_refused() -> None:
    for index, value in (
        (0, HANDOVER_MAGIC ^ 1), (1, 2), (2, RECORD_SIZE - 4), (3, 6), (4, 0), (5, 1), (7, 2), (13, 4),
        (14, 0), (15, 4), (15, 0xFFFF_FFFF),
    ):  # fmt: skip
        with pytest.raises(HandoverMalformed):
            parse_boot_record(record({index: value}))


def test_a_certificate_that_is_none_is_refused() -> None:
    for certificate, size in (
        (b"", None),
        (b"\x30\x82\x01", None),
        (CERTIFICATE[:-1], None),
        (CERTIFICATE + b"\0", None),
        (b"\x31" + CERTIFICATE[1:], None),
        (CERTIFICATE, 0xFFFF_FFFF),
        (CERTIFICATE, 1024),
    ):
        with pytest.raises(HandoverMalformed):
            parse_boot_record(record(certificate=certificate, size=size))


def test_a_record_that_is_cut_off_is_refused() -> None:
    for size in (0, 1, RECORD_SIZE - 1):
        with pytest.raises(HandoverMalformed):
            parse_boot_record(record()[:size])
    assert parse_boot_record(record() + bytes(100)) == parse_boot_record(memoryview(record()))


@given(st.integers(0, RECORD_SIZE - 1), st.integers(1, 255))
def test_a_changed_octet_is_a_record_or_an_error(at: int, change: int) -> None:
    raw = bytearray(record())
    raw[at] ^= change
    with contextlib.suppress(HandoverMalformed):
        parse_boot_record(bytes(raw))
