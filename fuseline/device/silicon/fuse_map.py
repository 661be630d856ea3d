"""Where each fact stands in the one-time fuses, how it is protected, and until when it may be blown.

A fuse goes from 0 to 1 and never back, so every error and every attack by blowing is one-directional. Each
fact is coded so that such a change is seen:

- *coded*: one 32-bit word, 0 or a code word with exactly 16 ones. Another one makes 17.
- *berger*: data words followed by the number of their zeros (J. M. Berger, 1961). More ones in the data make
  the count too high for them, more ones in the count make it higher still.
- *thermometer*: a counter of value n has exactly its n lowest bits set, in two copies; the higher copy
  counts.
- *copies*: two words, and any bit set in either means yes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

FUSE_WORDS: Final = 512


class Protection(StrEnum):
    """How a field's words are protected; see the module."""

    CODED = "coded"
    BERGER = "berger"
    THERMOMETER = "thermometer"
    COPIES = "copies"
    NONE = "none"


class LifeCycle(IntEnum):
    """Life cycle states in order. A state is the last one whose words are blown; it only moves forward."""

    BLANK = 0
    """From the wafer: nothing runs."""
    TEST = 1
    DEV = 2
    PROD = 3
    RMA = 4
    """Back at the factory: debug is open, the identity of PROD is out of reach."""
    SCRAP = 5
    """Nothing runs, for ever."""


LIFE_CYCLE_A: Final = 0
LIFE_CYCLE_B: Final = 8
"""First of five words, TEST to SCRAP; the same facts twice, in different code words."""
LIFE_CYCLE_WORDS_A: Final = (0xCE710BA5, 0xB3770459, 0xCA4CD45E, 0x4E3AC378, 0x4CD32E66)
LIFE_CYCLE_WORDS_B: Final = (0x649E8A8F, 0x1795DD48, 0x1F633615, 0xA84B93F1, 0xB1AD852E)

CHIP_ID: Final = 16
CHIP_ID_WORDS: Final = 8
"""Blown at wafer test, with its Berger word behind it."""

PRODUCT: Final = 32
"""Product id, hardware revision and a spare word, then their Berger word."""
PRODUCT_WORDS: Final = 3

PUF_CHECK: Final = 40
PUF_CHECK_WORDS: Final = 4
"""Key check value of the UDS, with its Berger word behind it."""
PUF_ENROLLED: Final = 45
PUF_ENROLLED_WORD: Final = 0xBE49CCB0

DEBUG_AUTHORITY: Final = 48
DEBUG_AUTHORITY_WORDS: Final = 8
"""SHA-256 of the debug authority's SubjectPublicKeyInfo, with its Berger word; all zero: no unlocking."""

KEY_SLOT: Final = 64
KEY_SLOT_STRIDE: Final = 16
KEY_SLOT_COUNT: Final = 4
KEY_SLOT_HASH: Final = 0
KEY_SLOT_HASH_WORDS: Final = 8
"""SHA-256 of the SubjectPublicKeyInfo, with its Berger word behind it."""
KEY_SLOT_TYPE: Final = 9
KEY_SLOT_VALID: Final = 10
KEY_SLOT_VALID_WORD: Final = 0xBB464B45
KEY_SLOT_REVOKED_A: Final = 12
KEY_SLOT_REVOKED_B: Final = 13
"""Offsets inside a key slot. Any bit in either word revokes it."""


class KeyType(IntEnum):
    """What a loader key may sign for."""

    TEST = 0xA57B7828
    DEV = 0xA2B1BED0
    PROD = 0xC2CAEC69


KEY_TYPES: Final[dict[LifeCycle, frozenset[KeyType]]] = {
    LifeCycle.TEST: frozenset({KeyType.TEST, KeyType.DEV, KeyType.PROD}),
    LifeCycle.DEV: frozenset({KeyType.DEV, KeyType.PROD}),
    LifeCycle.PROD: frozenset({KeyType.PROD}),
    LifeCycle.RMA: frozenset({KeyType.PROD}),
}
"""Which keys the ROM takes in which life cycle; in any other it starts nothing."""

COUNTER: Final = 128
COUNTER_STRIDE: Final = 8
COUNTER_WORDS: Final = 4
"""Each counter: four words (128 steps), then a second copy of them."""


class Counter(IntEnum):
    """Security counters."""

    LOADER = 0
    FIRMWARE_0 = 1
    FIRMWARE_1 = 2


@dataclass(frozen=True, slots=True)
class FuseField:
    """One fact in the fuses.

    Attributes:
        name: As shown by `fuseline chip`.
        word: First word.
        words: Data words, without Berger word or second copy.
        protection: How it is protected.
        blown_until: Last life cycle in which it may be blown.
    """

    name: str
    word: int
    words: int
    protection: Protection
    blown_until: LifeCycle


FIELDS: Final[tuple[FuseField, ...]] = (
    FuseField("life cycle A", LIFE_CYCLE_A, 5, Protection.CODED, LifeCycle.RMA),
    FuseField("life cycle B", LIFE_CYCLE_B, 5, Protection.CODED, LifeCycle.RMA),
    FuseField("chip id", CHIP_ID, CHIP_ID_WORDS, Protection.BERGER, LifeCycle.BLANK),
    FuseField("product", PRODUCT, PRODUCT_WORDS, Protection.BERGER, LifeCycle.DEV),
    FuseField("puf check value", PUF_CHECK, PUF_CHECK_WORDS, Protection.BERGER, LifeCycle.TEST),
    FuseField("puf enrolled", PUF_ENROLLED, 1, Protection.CODED, LifeCycle.TEST),
    FuseField("debug authority", DEBUG_AUTHORITY, DEBUG_AUTHORITY_WORDS, Protection.BERGER, LifeCycle.DEV),
    *(
        field
        for slot in range(KEY_SLOT_COUNT)
        for base in (KEY_SLOT + slot * KEY_SLOT_STRIDE,)
        for field in (
            FuseField(f"key {slot} hash", base, KEY_SLOT_HASH_WORDS, Protection.BERGER, LifeCycle.DEV),
            FuseField(f"key {slot} type", base + KEY_SLOT_TYPE, 1, Protection.CODED, LifeCycle.DEV),
            FuseField(f"key {slot} valid", base + KEY_SLOT_VALID, 1, Protection.CODED, LifeCycle.DEV),
            FuseField(f"key {slot} revoked", base + KEY_SLOT_REVOKED_A, 1, Protection.COPIES, LifeCycle.PROD),
        )
    ),
    *(
        FuseField(
            f"{counter.name.lower().replace('_', ' ')} counter",
            COUNTER + counter * COUNTER_STRIDE,
            COUNTER_WORDS,
            Protection.THERMOMETER,
            LifeCycle.PROD,
        )
        for counter in Counter
    ),
)
