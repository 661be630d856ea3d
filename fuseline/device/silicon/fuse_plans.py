"""Which fuses to blow so that a fact stands in them, with its redundancy and in an order that survives a cut.

A plan is a tuple of (word, bits). Blowing it again is harmless, so a plan that was cut short by a failing
supply is completed by running it once more.
"""

from __future__ import annotations

from typing import Final

from fuseline.device.silicon import fuse_map
from fuseline.device.silicon.fuse_map import Counter, KeyType, LifeCycle
from fuseline.errors import FuseArgument

FusePlan = tuple[tuple[int, int], ...]

_WORD_BITS: Final = 32
COUNTER_STEPS: Final = fuse_map.COUNTER_WORDS * _WORD_BITS
"""Highest value of a security counter."""


def _words(data: bytes, count: int, what: str) -> list[int]:
    if len(data) != 4 * count:
        raise FuseArgument(f"{what} has {len(data)} octets instead of {4 * count}", length=len(data))
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def _berger(word: int, values: list[int], what: str) -> FusePlan:
    ones = sum(value.bit_count() for value in values)
    if ones == 0:
        raise FuseArgument(f"{what} cannot be all zero: that is how it reads before it is blown")
    zeros = len(values) * _WORD_BITS - ones
    return (*((word + index, value) for index, value in enumerate(values)), (word + len(values), zeros))


def plan_life_cycle(state: LifeCycle) -> FusePlan:
    """Enter `state` from the one before it.

    Raises:
        FuseArgument: `state` is BLANK, which is not entered.
    """
    if state is LifeCycle.BLANK:
        raise FuseArgument("no fuse makes a chip blank")
    return (
        (fuse_map.LIFE_CYCLE_A + state - 1, fuse_map.LIFE_CYCLE_WORDS_A[state - 1]),
        (fuse_map.LIFE_CYCLE_B + state - 1, fuse_map.LIFE_CYCLE_WORDS_B[state - 1]),
    )


def plan_chip_id(chip_id: bytes) -> FusePlan:
    """Give the chip its name (32 octets)."""
    return _berger(fuse_map.CHIP_ID, _words(chip_id, fuse_map.CHIP_ID_WORDS, "chip id"), "chip id")


def plan_product(product: int, hardware_revision: int) -> FusePlan:
    """Tell which product the chip is built into: two 32-bit numbers, not both zero."""
    for value in (product, hardware_revision):
        if not 0 <= value < 1 << _WORD_BITS:
            raise FuseArgument(f"{value} is not a 32-bit number", value=value)
    return _berger(fuse_map.PRODUCT, [product, hardware_revision, 0], "product")


def plan_puf_check(check_value: bytes) -> FusePlan:
    """Keep the UDS's key check value (16 octets) and mark the PUF as enrolled, in this order."""
    values = _words(check_value, fuse_map.PUF_CHECK_WORDS, "PUF check value")
    return (
        *_berger(fuse_map.PUF_CHECK, values, "PUF check value"),
        (fuse_map.PUF_ENROLLED, fuse_map.PUF_ENROLLED_WORD),
    )


def plan_debug_authority(key_hash: bytes) -> FusePlan:
    """Let the holder of a key unlock debug.

    Args:
        key_hash: SHA-256 of the key's SubjectPublicKeyInfo, 32 octets.
    """
    values = _words(key_hash, fuse_map.DEBUG_AUTHORITY_WORDS, "debug authority's hash")
    return _berger(fuse_map.DEBUG_AUTHORITY, values, "debug authority's hash")


def _slot_base(slot: int) -> int:
    if not 0 <= slot < fuse_map.KEY_SLOT_COUNT:
        raise FuseArgument(f"there is no key slot {slot}", slot=slot)
    return fuse_map.KEY_SLOT + slot * fuse_map.KEY_SLOT_STRIDE


def plan_key(slot: int, key_hash: bytes, key_type: KeyType) -> FusePlan:
    """Bring a loader key into use; the valid word comes last.

    Args:
        slot: From 0 to `KEY_SLOT_COUNT` - 1.
        key_hash: SHA-256 of the key's SubjectPublicKeyInfo, 32 octets.
        key_type: What it may sign for.
    """
    base = _slot_base(slot)
    values = _words(key_hash, fuse_map.KEY_SLOT_HASH_WORDS, "key hash")
    return (
        *_berger(base + fuse_map.KEY_SLOT_HASH, values, "key hash"),
        (base + fuse_map.KEY_SLOT_TYPE, int(key_type)),
        (base + fuse_map.KEY_SLOT_VALID, fuse_map.KEY_SLOT_VALID_WORD),
    )


def plan_revocation(slot: int) -> FusePlan:
    """Take a loader key out of use for ever."""
    base = _slot_base(slot)
    every_bit = (1 << _WORD_BITS) - 1
    return (
        (base + fuse_map.KEY_SLOT_REVOKED_A, every_bit),
        (base + fuse_map.KEY_SLOT_REVOKED_B, every_bit),
    )


def plan_counter(counter: Counter, value: int) -> FusePlan:
    """Raise a security counter to `value`, which is at most `COUNTER_STEPS`; it never falls."""
    if not 0 <= value <= COUNTER_STEPS:
        raise FuseArgument(f"a counter ends at {COUNTER_STEPS}", counter=counter.name, value=value)
    steps = (1 << value) - 1
    base = fuse_map.COUNTER + counter * fuse_map.COUNTER_STRIDE
    masks = [
        (index, steps >> index * _WORD_BITS & 0xFFFF_FFFF)
        for index in range(fuse_map.COUNTER_WORDS)
        if steps >> index * _WORD_BITS
    ]
    return tuple(
        (start + index, mask) for start in (base, base + fuse_map.COUNTER_WORDS) for index, mask in masks
    )
