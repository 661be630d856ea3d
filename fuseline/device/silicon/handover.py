"""The boot record: what the ROM hands over to the loader, at `HANDOVER` in main RAM.

The struct is `struct handover` of `chip/rom/handover.h`; all words are little-endian. It lies in RAM that the
loader can write, so it says what the ROM said only as long as the loader leaves it alone; what binds a remote
party is the certificate in it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from fuseline.device.silicon.fuse_map import KEY_SLOT_COUNT, Counter, KeyType, LifeCycle
from fuseline.device.silicon.memory_map import (
    LOADER_PRIMARY,
    LOADER_RECOVERY,
    LOADER_SLOT_SIZE,
    DebugState,
    ResetReason,
)
from fuseline.device.silicon.rom.loader_certificate import CERTIFICATE_MAX, loader_certificate_template
from fuseline.errors import HandoverMalformed

HANDOVER_MAGIC: Final = 0x4F48_4C46
HANDOVER_VERSION: Final = 1
_RECORD: Final = struct.Struct(f"<17I BBHI 2I 32s 2I 32s 32s 64s I {CERTIFICATE_MAX}s")
RECORD_SIZE: Final = _RECORD.size
"""Octets of the record."""

_CERTIFICATE_AT: Final = -(4 + loader_certificate_template().offsets["public"]) % 4
"""Octets before the certificate, so that the public key in it begins at a whole word."""


@dataclass(frozen=True, slots=True)
class BootRecord:
    """Facts of one boot, as the ROM found them.

    Attributes:
        life_cycle: Of the chip.
        debug: State of the debug port.
        reset_reason: Why the processor started.
        boot_count: Resets in the chip's life, modulo 2**32.
        watchdog_reset: The watchdog asked for the reset.
        chip_revision: Of the silicon.
        counters: Security counters in the fuses.
        image_counter: Security counter of the loader.
        key_slot: Fuse key slot of its signer.
        key_type: What that key may sign for.
        recovery: The loader is the recovery copy.
        primary_refusal: Error word with which the primary copy was passed over; None if it was not.
        loader_version: `major.minor.revision+build`.
        header_size: Octets of the loader's image header.
        payload_size: Octets of its payload.
        chip_id: 32 octets.
        product: Product id; 0 if not blown.
        hardware_revision: 0 if not blown.
        measurement: SHA-256 over header, payload and protected TLVs of the loader, as verified.
        signer: SHA-256 of its signer's SubjectPublicKeyInfo.
        idevid_public: The chip's IDevID key, X || Y.
        certificate: The loader's certificate, DER.
    """

    life_cycle: LifeCycle
    debug: DebugState
    reset_reason: ResetReason
    boot_count: int
    watchdog_reset: bool
    chip_revision: int
    counters: dict[Counter, int]
    image_counter: int
    key_slot: int
    key_type: KeyType
    recovery: bool
    primary_refusal: int | None
    loader_version: str
    header_size: int
    payload_size: int
    chip_id: bytes
    product: int
    hardware_revision: int
    measurement: bytes
    signer: bytes
    idevid_public: bytes
    certificate: bytes


def _enumerated(found: int, kind: type[LifeCycle | DebugState | ResetReason | KeyType]) -> None:
    if found not in {int(member) for member in kind}:
        raise HandoverMalformed(f"the boot record names no {kind.__name__}", value=f"{found:#010x}")


def _version(major: int, minor: int, revision: int, build: int) -> str:
    return f"{major}.{minor}.{revision}" + (f"+{build}" if build else "")


def _certificate(area: bytes, size: int) -> bytes:
    certificate = area[_CERTIFICATE_AT : _CERTIFICATE_AT + size]
    # DER of a SEQUENCE with a two-octet length, and nothing behind it.
    if len(certificate) != size or size < 4 or certificate[:2] != b"\x30\x82":
        raise HandoverMalformed("the boot record has no certificate", size=size)
    if int.from_bytes(certificate[2:4], "big") + 4 != size:
        raise HandoverMalformed("the certificate in the boot record is cut off", size=size)
    return certificate


def parse_boot_record(raw: bytes | memoryview) -> BootRecord:
    """Read the boot record.

    Args:
        raw: Memory from `HANDOVER` on, at least `RECORD_SIZE` octets.

    Raises:
        HandoverMalformed: No boot record of this version, or a value that the ROM never writes.
    """
    if len(raw) < RECORD_SIZE:
        raise HandoverMalformed("shorter than a boot record", size=len(raw), expected=RECORD_SIZE)
    magic, version, size, *words = _RECORD.unpack_from(raw)
    if (magic, version, size) != (HANDOVER_MAGIC, HANDOVER_VERSION, RECORD_SIZE):
        raise HandoverMalformed("no boot record here", magic=f"{magic:#010x}", version=version, size=size)
    life_cycle, debug, reset_reason, boot_count, watchdog, revision = words[:6]
    image_counter, key_slot, key_type, loader_slot, refusal = words[9:14]
    for value, kind in (
        (life_cycle, LifeCycle),
        (debug, DebugState),
        (reset_reason, ResetReason),
        (key_type, KeyType),
    ):
        _enumerated(value, kind)
    if key_slot >= KEY_SLOT_COUNT or loader_slot not in {LOADER_PRIMARY, LOADER_RECOVERY} or watchdog > 1:
        raise HandoverMalformed("the boot record is inconsistent", key_slot=key_slot, loader_slot=loader_slot)
    header_size, payload_size, chip_id, product, hardware, measurement, signer, idevid, length, area = words[
        18:
    ]
    if header_size + payload_size > LOADER_SLOT_SIZE or length > CERTIFICATE_MAX - _CERTIFICATE_AT:
        raise HandoverMalformed("the boot record is inconsistent", payload=payload_size, certificate=length)
    return BootRecord(
        life_cycle=LifeCycle(life_cycle),
        debug=DebugState(debug),
        reset_reason=ResetReason(reset_reason),
        boot_count=boot_count,
        watchdog_reset=bool(watchdog),
        chip_revision=revision,
        counters={counter: words[6 + counter] for counter in Counter},
        image_counter=image_counter,
        key_slot=key_slot,
        key_type=KeyType(key_type),
        recovery=loader_slot == LOADER_RECOVERY,
        primary_refusal=refusal or None,
        loader_version=_version(*words[14:18]),
        header_size=header_size,
        payload_size=payload_size,
        chip_id=chip_id,
        product=product,
        hardware_revision=hardware,
        measurement=measurement,
        signer=signer,
        idevid_public=idevid,
        certificate=_certificate(area, length),
    )
