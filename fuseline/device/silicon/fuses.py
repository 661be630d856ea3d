"""The one-time fuses and their controller.

A bit is unblown, blown, or half-blown: the supply failed while it was being blown, and it now reads as 1
only sometimes. A margin sense tells half-blown bits apart, and blowing them again completes them. No
operation turns a 1 into a 0.

The controller keeps the rules that no machine code may break: the life cycle goes one step at a time, each
field is closed after its last life cycle, the last usable loader key is never revoked, and locks hold until
the next reset. It judges by margin: a half-blown fuse counts as blown where that forbids something, and as
unblown where it would allow something.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon import fuse_map
from fuseline.device.silicon.commands import Lock
from fuseline.device.silicon.fuse_map import FIELDS, FUSE_WORDS, FuseField, LifeCycle, Protection
from fuseline.device.silicon.fuse_view import last_complete_state, last_touched_state, read_key_slot
from fuseline.device.silicon.memory_map import DebugState
from fuseline.device.silicon.power import Power, PowerLost
from fuseline.errors import (
    FuseArgument,
    FuseDebug,
    FuseLastKey,
    FuseLifeCycle,
    FuseLocked,
    FuseOrder,
    FuseStuck,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np

    from fuseline.device.silicon.machine_state import MachineState

_WORD_BITS: Final = 32
_WORD_MASK: Final = 0xFFFF_FFFF


class Origin(Enum):
    """Who asks the controller to blow a fuse."""

    PROBE = auto()
    """A tester on the debug port."""
    MACHINE_CODE = auto()
    """The processor, through the command port."""


@dataclass(frozen=True, slots=True)
class FuseContent:
    """The state of all fuses, as a snapshot or a file keeps it.

    Attributes:
        words: Bits that are blown for good: `FUSE_WORDS` little-endian words.
        half_blown: Index of each half-blown bit (32 * word + bit), and how often it reads as 1 (0..1).
    """

    words: bytes = bytes(4 * FUSE_WORDS)
    half_blown: tuple[tuple[int, float], ...] = ()


def _covered(field: FuseField) -> Iterable[int]:
    second_copy = field.words if field.protection is Protection.THERMOMETER else 0
    extra = 1 if field.protection in {Protection.BERGER, Protection.COPIES} else 0
    return range(field.word, field.word + field.words + second_copy + extra)


FIELD_OF_WORD: Final[dict[int, FuseField]] = {word: field for field in FIELDS for word in _covered(field)}
"""The field of each assigned word, its Berger word and second copy included."""

_REVOCATIONS: Final = {
    fuse_map.KEY_SLOT + slot * fuse_map.KEY_SLOT_STRIDE + offset: slot
    for slot in range(fuse_map.KEY_SLOT_COUNT)
    for offset in (fuse_map.KEY_SLOT_REVOKED_A, fuse_map.KEY_SLOT_REVOKED_B)
}
_LIFE_CYCLE: Final = {
    base + index: (LifeCycle(index + 1), code)
    for base, codes in (
        (fuse_map.LIFE_CYCLE_A, fuse_map.LIFE_CYCLE_WORDS_A),
        (fuse_map.LIFE_CYCLE_B, fuse_map.LIFE_CYCLE_WORDS_B),
    )
    for index, code in enumerate(codes)
}


def _lock_of(word: int, field: FuseField) -> Lock:
    if word in _REVOCATIONS:
        return Lock.FUSES_REVOCATION
    return Lock.FUSES_COUNTERS if field.protection is Protection.THERMOMETER else Lock.FUSES_FACTORY


class FuseArray:
    """512 words of fuses behind their controller.

    Args:
        power: Asked before each bit.
        state: Locks and debug state of this run.
        random: Gives the random stream of this boot.
        shadow: Window in which the processor sees the sensed words.
        content: What was blown before; nothing by default.
    """

    def __init__(
        self,
        power: Power,
        state: MachineState,
        random: Callable[[], np.random.Generator],
        shadow: memoryview,
        content: FuseContent | None = None,
    ) -> None:
        self._power = power
        self._state = state
        self._random = random
        self._shadow = shadow[: 4 * FUSE_WORDS]
        self._blown = array("I", bytes(4 * FUSE_WORDS))
        self._half: dict[int, float] = {}
        # The controller's own copy: where an engine cannot protect the shadow, a store there changes nothing.
        self._sensed = array("I", bytes(4 * FUSE_WORDS))
        self.stuck: frozenset[int] = frozenset()
        """Defective bits (32 * word + bit) that never blow; none unless a rehearsal says so."""
        self.restore(content or FuseContent())

    def __repr__(self) -> str:
        return f"FuseArray({self.life_cycle.name}, half_blown={len(self._half)})"

    @property
    def life_cycle(self) -> LifeCycle:
        """The state that is surely reached."""
        return last_complete_state(self._blown)

    @property
    def life_cycle_begun(self) -> LifeCycle:
        """The highest state of which any fuse is blown, or half-blown."""
        if not self._half:
            return last_touched_state(self._blown)
        words = range(max(_LIFE_CYCLE) + 1)
        return last_touched_state([self._blown[word] | self.margin(word) for word in words])

    def sense(self) -> None:
        """Sense all fuses into the shadow, as at reset; half-blown bits may differ each time."""
        self._sensed[:] = self._blown
        for index, strength in self._half.items():
            if self._random().random() < strength:
                self._sensed[index // _WORD_BITS] |= 1 << index % _WORD_BITS
        self._shadow[:] = memoryview(self._sensed).cast("B")

    def words(self) -> tuple[int, ...]:
        """Return all words as last sensed into the shadow."""
        return tuple(self._sensed)

    def sensed(self) -> bytes:
        """Return all words as last sensed, little-endian."""
        return self._sensed.tobytes()

    def digest(self) -> bytes:
        """Return SHA-256 over all words as last sensed, little-endian."""
        return hashlib.sha256(self._sensed).digest()

    def read(self, word: int) -> int:
        """Sense one word now, normally.

        Raises:
            FuseArgument: There is no such word.
        """
        value = self._blown[self._checked(word)]
        if self._half:
            for bit in range(_WORD_BITS):
                strength = self._half.get(word * _WORD_BITS + bit)
                if strength is not None and self._random().random() < strength:
                    value |= 1 << bit
        return value

    def margin(self, word: int) -> int:
        """Return the bits of a word that a strict sense cannot be sure of: the half-blown ones.

        Raises:
            FuseArgument: There is no such word.
        """
        self._checked(word)
        if not self._half:
            return 0
        return sum(1 << bit for bit in range(_WORD_BITS) if word * _WORD_BITS + bit in self._half)

    @staticmethod
    def _checked(word: int) -> int:
        if not 0 <= word < FUSE_WORDS:
            raise FuseArgument(f"there is no fuse word {word}", word=word)
        return word

    def blow(self, word: int, mask: int, origin: Origin = Origin.PROBE) -> int:
        """Blow bits of a word, one after another; those already blown are left alone.

        Args:
            word: Index of the word.
            mask: Bits to blow.
            origin: Who asks. The probe needs an open debug port from life cycle PROD on.

        Returns:
            What the word reads as afterwards.

        Raises:
            FuseArgument: No such word, no field there, or more than 32 bits.
            FuseLocked: Locked until the next reset.
            FuseLifeCycle: The field is closed in this life cycle.
            FuseOrder: A life cycle step out of order.
            FuseDebug: Debug is not open.
            FuseLastKey: It would revoke the last usable loader key.
            FuseStuck: A bit did not take.
            PowerLost: The supply failed; the bit at hand is left half-blown.
        """
        self._permit(self._checked(word), mask, origin)
        for bit in range(_WORD_BITS):
            if mask >> bit & 1 and not self._blown[word] >> bit & 1:
                self._blow_bit(word, bit)
        value = self.read(word)
        self._sensed[word] = value
        self._shadow[4 * word : 4 * word + 4] = value.to_bytes(4, "little")
        if mask & ~value:
            raise FuseStuck("a fuse did not take", word=word, bits=f"{mask & ~value:#010x}", reads_as=value)
        return value

    def blow_all(self, plan: Iterable[tuple[int, int]], origin: Origin = Origin.PROBE) -> None:
        """Blow every step of a plan of `fuse_plans`, in order; raises as `blow`."""
        for word, mask in plan:
            self.blow(word, mask, origin)

    def _blow_bit(self, word: int, bit: int) -> None:
        index = word * _WORD_BITS + bit
        if self._power.begin():
            # Open at both ends: at 0 or 1 the bit would be unblown or blown.
            self._half[index] = 0.02 + 0.96 * float(self._random().random())
            raise PowerLost(f"while fuse word {word} bit {bit} was blown")
        if index not in self.stuck:
            self._half.pop(index, None)
            self._blown[word] |= 1 << bit

    def _permit(self, word: int, mask: int, origin: Origin) -> None:
        if not 0 <= mask <= _WORD_MASK:
            raise FuseArgument("a fuse word has 32 bits", word=word, mask=f"{mask:#x}")
        field = FIELD_OF_WORD.get(word)
        if field is None:
            raise FuseArgument(f"fuse word {word} belongs to no field", word=word)
        lock = _lock_of(word, field)
        if self._state.locks & lock:
            raise FuseLocked(f"{field.name} is locked until the next reset", word=word, lock=lock.name)
        begun = self.life_cycle_begun
        if begun > field.blown_until and word not in _LIFE_CYCLE:
            raise FuseLifeCycle(
                f"{field.name} is closed after {field.blown_until.name}", word=word, life_cycle=begun.name
            )
        if origin is Origin.PROBE and begun >= LifeCycle.PROD and self._state.debug is not DebugState.OPEN:
            self._permit_closed_probe(word, begun)
        if word in _LIFE_CYCLE:
            self._permit_step(word, mask)
        elif word in _REVOCATIONS and mask:
            self._permit_revocation(_REVOCATIONS[word], begun)

    def _permit_closed_probe(self, word: int, begun: LifeCycle) -> None:
        # A step to PROD or SCRAP that was cut short closed the port already: only its completion may pass.
        completing = begun in {LifeCycle.PROD, LifeCycle.SCRAP} and self.life_cycle < begun
        if not (completing and word in _LIFE_CYCLE and _LIFE_CYCLE[word][0] is begun):
            raise FuseDebug("the debug port is closed", word=word, life_cycle=begun.name)

    def _permit_step(self, word: int, mask: int) -> None:
        target, code = _LIFE_CYCLE[word]
        reached = self.life_cycle
        if target not in {reached, reached + 1} or mask & ~code:
            raise FuseOrder(
                f"{target.name} cannot follow {reached.name} with these bits",
                life_cycle=reached.name,
                asked=target.name,
                bits=f"{mask:#010x}",
            )
        if target is LifeCycle.RMA and self._state.debug is not DebugState.OPEN:
            raise FuseDebug("RMA needs an open debug port", life_cycle=reached.name)

    def _permit_revocation(self, slot: int, begun: LifeCycle) -> None:
        life_cycle = max(begun, LifeCycle.TEST)
        surely_revoked = [self._blown[word] | self.margin(word) for word in range(FUSE_WORDS)]
        slots = [read_key_slot(self._blown, index) for index in range(fuse_map.KEY_SLOT_COUNT)]
        free = [
            index
            for index in range(fuse_map.KEY_SLOT_COUNT)
            if index != slot and not read_key_slot(surely_revoked, index).revoked
        ]
        if any(slots[index].usable_in(life_cycle) for index in free):
            return
        # Before PROD a slot that is still blank can take a key, so revoking another unused one is no loss.
        if free and begun <= LifeCycle.DEV and not slots[slot].usable_in(life_cycle):
            return
        raise FuseLastKey(f"key slot {slot} is the last one", slot=slot, life_cycle=begun.name)

    def content(self) -> FuseContent:
        """Return the state of all fuses, for a snapshot or a file."""
        return FuseContent(self._blown.tobytes(), tuple(self._half.items()))

    def restore(self, content: FuseContent, sensed: bytes | None = None) -> None:
        """Become the fuses of another moment or another chip.

        No chip can do this. It is how a rehearsal goes back to a snapshot of the whole chip, and how a file
        is loaded; whoever loads a file has to refuse one with fewer ones than the chip had.

        Args:
            content: The fuses.
            sensed: What they read as at that moment, from `sensed`; None to sense them now.

        Raises:
            RuntimeError: `content` has the wrong size, or bits or strengths out of range.
        """
        if len(content.words) != 4 * FUSE_WORDS:
            raise RuntimeError(f"fuses have {4 * FUSE_WORDS} octets, not {len(content.words)}")
        if any(
            not (0 <= index < _WORD_BITS * FUSE_WORDS and 0 < strength < 1)
            for index, strength in content.half_blown
        ):
            raise RuntimeError("a half-blown bit is out of range")
        self._blown = array("I", content.words)
        self._half = dict(content.half_blown)
        if sensed is None:
            self.sense()
        else:
            self._sensed = array("I", sensed)
            self._shadow[:] = sensed
