"""What the fuses say: words decoded into facts, with every word that does not keep its code named.

For people, tools and the checks of the fuse controller. What the chip starts is decided by its ROM, which
decodes the same words in machine code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fuseline.device.silicon import fuse_map
from fuseline.device.silicon.fuse_map import KEY_TYPES, Counter, KeyType, LifeCycle

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORD_BITS: Final = 32


@dataclass(frozen=True, slots=True)
class FuseFault:
    """A field that does not keep its code.

    Attributes:
        field: Name of the field, as in `fuse_map.FIELDS`.
        problem: What was found.
        completable: Blowing more fuses can still make it right, as after a supply that failed halfway.
    """

    field: str
    problem: str
    completable: bool


@dataclass(frozen=True, slots=True)
class KeySlotView:
    """One slot for the hash of a loader key.

    Attributes:
        slot: Its number.
        key_hash: SHA-256 of the SubjectPublicKeyInfo; None if not blown or damaged.
        key_type: What the key may sign for; None if not blown or damaged.
        valid: Marked as in use.
        revoked: Out of use for ever.
    """

    slot: int
    key_hash: bytes | None
    key_type: KeyType | None
    valid: bool
    revoked: bool

    def usable_in(self, life_cycle: LifeCycle) -> bool:
        """Return whether a loader signed with this key can start in `life_cycle`."""
        return (
            self.valid
            and not self.revoked
            and self.key_hash is not None
            and self.key_type in KEY_TYPES.get(life_cycle, frozenset())
        )


@dataclass(frozen=True, slots=True)
class FuseView:
    """All facts in the fuses.

    Attributes:
        life_cycle: Last state whose words, and those of all states before it, are complete.
        chip_id: 32 octets; None if not blown or damaged.
        product: Product id; None if not blown or damaged.
        hardware_revision: None if not blown or damaged.
        keys: Every key slot, in order.
        counters: Security counters.
        debug_authority: SHA-256 of its SubjectPublicKeyInfo; None: nobody can unlock debug, or damaged.
        puf_check: Key check value of the UDS, 16 octets; None if not blown or damaged.
        puf_enrolled: The PUF has been enrolled.
        faults: Fields that do not keep their code, in the order of the map.
    """

    life_cycle: LifeCycle
    chip_id: bytes | None
    product: int | None
    hardware_revision: int | None
    keys: tuple[KeySlotView, ...]
    counters: dict[Counter, int]
    debug_authority: bytes | None
    puf_check: bytes | None
    puf_enrolled: bool
    faults: tuple[FuseFault, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data; octets in hexadecimal."""
        return {
            "life_cycle": self.life_cycle.name,
            "chip_id": _hex(self.chip_id),
            "product": self.product,
            "hardware_revision": self.hardware_revision,
            "keys": [
                {
                    "slot": key.slot,
                    "hash": _hex(key.key_hash),
                    "type": key.key_type.name if key.key_type is not None else None,
                    "valid": key.valid,
                    "revoked": key.revoked,
                }
                for key in self.keys
            ],
            "counters": {counter.name.lower(): value for counter, value in self.counters.items()},
            "debug_authority": _hex(self.debug_authority),
            "puf_check": _hex(self.puf_check),
            "puf_enrolled": self.puf_enrolled,
            "faults": [
                {"field": fault.field, "problem": fault.problem, "completable": fault.completable}
                for fault in self.faults
            ],
        }


def _hex(value: bytes | None) -> str | None:
    return value.hex() if value is not None else None


def last_complete_state(words: Sequence[int]) -> LifeCycle:
    """Return the last life cycle state whose code words, and those of all before it, stand in both copies.

    Args:
        words: The fuses, at least those of the life cycle.
    """
    reached = LifeCycle.BLANK
    for index, (code_a, code_b) in enumerate(
        zip(fuse_map.LIFE_CYCLE_WORDS_A, fuse_map.LIFE_CYCLE_WORDS_B, strict=True)
    ):
        if words[fuse_map.LIFE_CYCLE_A + index] != code_a or words[fuse_map.LIFE_CYCLE_B + index] != code_b:
            break
        reached = LifeCycle(index + 1)
    return reached


def last_touched_state(words: Sequence[int]) -> LifeCycle:
    """Return the highest life cycle state of which any fuse is blown, in either copy."""
    for index in reversed(range(len(fuse_map.LIFE_CYCLE_WORDS_A))):
        if words[fuse_map.LIFE_CYCLE_A + index] | words[fuse_map.LIFE_CYCLE_B + index]:
            return LifeCycle(index + 1)
    return LifeCycle.BLANK


class _Decoder:
    def __init__(self, words: Sequence[int]) -> None:
        self.words = words
        self.faults: list[FuseFault] = []

    def fault(self, field: str, problem: str, *, completable: bool) -> None:
        self.faults.append(FuseFault(field, problem, completable))

    def coded(self, field: str, word: int, codes: Sequence[int]) -> int | None:
        """Return the code word that stands there, if one does."""
        value = self.words[word]
        if value == 0 or value in codes:
            return value or None
        partial = any(value & ~code == 0 for code in codes)
        self.fault(field, f"{value:#010x} is not its code word", completable=partial)
        return None

    def berger(self, field: str, word: int, count: int) -> bytes | None:
        """Return the data, if any was blown and agrees with its Berger word."""
        data, check = self.words[word : word + count], self.words[word + count]
        zeros = count * _WORD_BITS - sum(value.bit_count() for value in data)
        if check == 0 and not any(data):
            return None
        # Data without a one are never written: a lone Berger word, which one fuse can make, is no value.
        if check != zeros or not any(data):
            self.fault(field, f"{zeros} zeros, Berger word says {check}", completable=check <= zeros)
            return None
        return b"".join(value.to_bytes(4, "little") for value in data)

    def thermometer(self, field: str, word: int) -> int:
        """Return the higher of both copies; a hole never lowers a counter."""
        copies = [
            sum(self.words[start + index] << index * _WORD_BITS for index in range(fuse_map.COUNTER_WORDS))
            for start in (word, word + fuse_map.COUNTER_WORDS)
        ]
        values = [copy.bit_length() for copy in copies]
        if any(copy & (copy + 1) for copy in copies):
            self.fault(field, "a step is missing below a higher one", completable=True)
        elif values[0] != values[1]:
            self.fault(field, f"copies say {values[0]} and {values[1]}", completable=True)
        return max(values)

    def life_cycle(self) -> LifeCycle:
        for field, base, codes in (
            ("life cycle A", fuse_map.LIFE_CYCLE_A, fuse_map.LIFE_CYCLE_WORDS_A),
            ("life cycle B", fuse_map.LIFE_CYCLE_B, fuse_map.LIFE_CYCLE_WORDS_B),
        ):
            for index, code in enumerate(codes):
                self.coded(field, base + index, (code,))
        reached = last_complete_state(self.words)
        if last_touched_state(self.words) > reached:
            self.fault("life cycle A", f"the step after {reached.name} was begun", completable=True)
        return reached

    def key_slot(self, slot: int) -> KeySlotView:
        base = fuse_map.KEY_SLOT + slot * fuse_map.KEY_SLOT_STRIDE
        kind = self.coded(f"key {slot} type", base + fuse_map.KEY_SLOT_TYPE, tuple(KeyType))
        valid = self.coded(
            f"key {slot} valid", base + fuse_map.KEY_SLOT_VALID, (fuse_map.KEY_SLOT_VALID_WORD,)
        )
        revoked = (
            self.words[base + fuse_map.KEY_SLOT_REVOKED_A] | self.words[base + fuse_map.KEY_SLOT_REVOKED_B]
        )
        return KeySlotView(
            slot,
            self.berger(f"key {slot} hash", base + fuse_map.KEY_SLOT_HASH, fuse_map.KEY_SLOT_HASH_WORDS),
            KeyType(kind) if kind is not None else None,
            valid is not None,
            revoked != 0,
        )


def read_key_slot(words: Sequence[int], slot: int) -> KeySlotView:
    """Decode one key slot.

    Args:
        words: All fuse words.
        slot: From 0 to `KEY_SLOT_COUNT` - 1.
    """
    return _Decoder(words).key_slot(slot)


def read_fuses(words: Sequence[int]) -> FuseView:
    """Decode all fuses.

    Args:
        words: `FUSE_WORDS` words of 32 bits, such as `FuseArray.words()`.
    """
    decoder = _Decoder(words)
    life_cycle = decoder.life_cycle()
    chip_id = decoder.berger("chip id", fuse_map.CHIP_ID, fuse_map.CHIP_ID_WORDS)
    product = decoder.berger("product", fuse_map.PRODUCT, fuse_map.PRODUCT_WORDS)
    puf_check = decoder.berger("puf check value", fuse_map.PUF_CHECK, fuse_map.PUF_CHECK_WORDS)
    enrolled = decoder.coded("puf enrolled", fuse_map.PUF_ENROLLED, (fuse_map.PUF_ENROLLED_WORD,))
    authority = decoder.berger("debug authority", fuse_map.DEBUG_AUTHORITY, fuse_map.DEBUG_AUTHORITY_WORDS)
    keys = tuple(decoder.key_slot(slot) for slot in range(fuse_map.KEY_SLOT_COUNT))
    counters = {
        counter: decoder.thermometer(
            f"{counter.name.lower().replace('_', ' ')} counter",
            fuse_map.COUNTER + counter * fuse_map.COUNTER_STRIDE,
        )
        for counter in Counter
    }
    return FuseView(
        life_cycle=life_cycle,
        chip_id=chip_id,
        product=int.from_bytes(product[0:4], "little") if product is not None else None,
        hardware_revision=int.from_bytes(product[4:8], "little") if product is not None else None,
        keys=keys,
        counters=counters,
        debug_authority=authority,
        puf_check=puf_check,
        puf_enrolled=enrolled is not None,
        faults=tuple(decoder.faults),
    )
