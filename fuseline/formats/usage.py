"""Usage constraints: for which devices a loader image is.

A protected TLV of an MCUboot image (type 0x00A0, of the vendor range): 16 little-endian words.

| word | field | selector bit |
| --- | --- | --- |
| 0 | selector | |
| 1 | life cycle, as a number | 0 |
| 2 to 9 | chip id | 1 to 8 |
| 10 | product id | 9 |
| 11 | hardware revision | 10 |
| 12 to 15 | spare | none |

A field that is not selected holds 0xA5A5A5A5. The boot ROM compares nothing: before it hashes the image, it
overwrites every selected field in its copy with what the hardware reads, so that the image has the signed
digest only on a device it was signed for (as OpenTitan's ROM does).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from fuseline.errors import UsageMalformed

USAGE_TLV: Final = 0x00A0
USAGE_SIZE: Final = 64
UNSELECTED: Final = 0xA5A5_A5A5
CHIP_ID_SIZE: Final = 32

_WORDS: Final = struct.Struct("<16I")
_FIELDS: Final = 15
_LIFE_CYCLE, _CHIP_ID, _PRODUCT, _HARDWARE = 0, slice(1, 9), 9, 10
_CHIP_ID_BITS: Final = 0xFF << 1
_KNOWN_BITS: Final = 0x7FF
_WORD_MAX: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class UsageConstraints:
    """What a device must be to start an image; None: any.

    Attributes:
        life_cycle: Number of the life cycle state.
        chip_id: 32 octets: this one chip.
        product_id: A 32-bit number.
        hardware_revision: A 32-bit number.
    """

    life_cycle: int | None = None
    chip_id: bytes | None = None
    product_id: int | None = None
    hardware_revision: int | None = None


def _selected(fields: list[int], index: int, value: int | None, name: str) -> int:
    if value is None:
        return 0
    if not 0 <= value <= _WORD_MAX:
        raise UsageMalformed(f"{name} is not a 32-bit number", value=value)
    fields[index] = value
    return 1 << index


def build_usage(constraints: UsageConstraints) -> bytes:
    """Return the TLV's value, 64 octets.

    Raises:
        UsageMalformed: A number or the chip id has the wrong size.
    """
    fields = [UNSELECTED] * _FIELDS
    selector = _selected(fields, _LIFE_CYCLE, constraints.life_cycle, "life cycle")
    selector |= _selected(fields, _PRODUCT, constraints.product_id, "product id")
    selector |= _selected(fields, _HARDWARE, constraints.hardware_revision, "hardware revision")
    if constraints.chip_id is not None:
        if len(constraints.chip_id) != CHIP_ID_SIZE:
            raise UsageMalformed(f"a chip id has {CHIP_ID_SIZE} octets", size=len(constraints.chip_id))
        fields[_CHIP_ID] = struct.unpack("<8I", constraints.chip_id)
        selector |= _CHIP_ID_BITS
    return _WORDS.pack(selector, *fields)


def parse_usage(raw: bytes) -> UsageConstraints:
    """Read the TLV's value.

    Args:
        raw: 64 octets.

    Raises:
        UsageMalformed: Wrong size, a selector bit that names no field, half a chip id, or an unselected field
            that holds something.
    """
    if len(raw) != USAGE_SIZE:
        raise UsageMalformed(f"usage constraints have {USAGE_SIZE} octets", size=len(raw))
    selector, *fields = _WORDS.unpack(raw)
    if selector & ~_KNOWN_BITS:
        raise UsageMalformed("the selector names a field that there is not", selector=f"{selector:#010x}")
    if selector & _CHIP_ID_BITS not in {0, _CHIP_ID_BITS}:
        raise UsageMalformed("the chip id is selected in parts", selector=f"{selector:#010x}")
    for index, value in enumerate(fields):
        if not selector >> index & 1 and value != UNSELECTED:
            raise UsageMalformed(
                "an unselected field holds something", word=index + 1, value=f"{value:#010x}"
            )
    return UsageConstraints(
        life_cycle=fields[_LIFE_CYCLE] if selector >> _LIFE_CYCLE & 1 else None,
        chip_id=struct.pack("<8I", *fields[_CHIP_ID]) if selector & _CHIP_ID_BITS else None,
        product_id=fields[_PRODUCT] if selector >> _PRODUCT & 1 else None,
        hardware_revision=fields[_HARDWARE] if selector >> _HARDWARE & 1 else None,
    )
