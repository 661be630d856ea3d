"""Faults: what a glitch does to one instruction, and which of them make up a campaign."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from fuseline.device.silicon.engine import Limits, Stop, StopKind
from fuseline.device.silicon.fault_probe import FaultProbe
from fuseline.device.silicon.memory_map import ROM_SIZE

if TYPE_CHECKING:
    from fuseline.lab.faults.trace import Trace

PAIR_WINDOW: Final = 12
"""Two faults of one glitch, or of two quick ones, are at most so many instructions apart."""
_SEARCH: Final = 64
"""Steps in which a second fault far away is looked for around the moment it was planned for."""

_WORD_BITS: Final = {f"r{number}": range(32) for number in range(13)} | {"lr": range(32)}
REGISTER_BITS: Final = _WORD_BITS | {"sp": range(2, 32), "flags": range(28, 32)}
"""Bits that are flipped. Armv7-M B1.4.1: bits 0 and 1 of the stack pointer do not exist."""
_FLIPS_PER_INSTRUCTION: Final = 64
_FAR_PAIRS: Final = 20_000
_ALL_BITS: Final = tuple((register, bit) for register, bits in REGISTER_BITS.items() for bit in bits)


Variant = TypeVar("Variant", int, tuple[str, int])
"""Which of the faults that can happen at one moment."""


class Model(StrEnum):
    """What kind of faults."""

    SKIP = "skip"
    """One instruction is not executed. Each executed instruction in turn."""
    ZERO_LOAD = "zero-load"
    """One load gives zero; of LDM, POP and LDRD one register at a time. Each executed load in turn."""
    BITFLIP = "bitflip"
    """One bit of r0 to r12, sp, lr or the flags is the other one before an instruction."""
    SKIP_PAIR = "skip-pair"
    """Two instructions are not executed: close together, or the same one twice, or anywhere."""


class Fault(Protocol):
    """A fault at a moment of a boot."""

    @property
    def index(self) -> int:
        """Which executed instruction, from 0."""
        ...

    def inject(self, probe: FaultProbe, offset: int) -> Stop | None:
        """Make the fault.

        Args:
            probe: At the instruction, or at the IT instruction of its block.
            offset: How many instructions later.

        Returns:
            How the run ended, if it did.
        """
        ...

    def detail(self) -> str:
        """Say what happens, for a person."""
        ...


@dataclass(frozen=True, slots=True)
class Skip:
    """An instruction is not executed."""

    index: int

    def inject(self, probe: FaultProbe, offset: int) -> Stop | None:
        """See `Fault`."""
        return probe.skip(offset)

    def detail(self) -> str:
        """See `Fault`."""
        return "skipped"


@dataclass(frozen=True, slots=True)
class ZeroLoad:
    """A load gives zero.

    Attributes:
        index: Of the instruction.
        address: From where it loads.
        size: How many octets.
    """

    index: int
    address: int
    size: int

    def inject(self, probe: FaultProbe, offset: int) -> Stop | None:
        """See `Fault`."""
        return probe.load_zeros(self.address, self.size, offset)

    def detail(self) -> str:
        """See `Fault`."""
        return f"loads 0 instead of {self.size} octets at {self.address:#010x}"


@dataclass(frozen=True, slots=True)
class BitFlip:
    """A bit of a register is the other one.

    Attributes:
        index: Of the instruction before which it happens.
        register: Which register.
        bit: Which bit.
    """

    index: int
    register: str
    bit: int

    def inject(self, probe: FaultProbe, offset: int) -> Stop | None:
        """See `Fault`."""
        if offset:
            return probe.flip_inside(offset, self.register, self.bit)
        probe.flip(self.register, self.bit)
        return None

    def detail(self) -> str:
        """See `Fault`."""
        return f"bit {self.bit} of {self.register} flipped"


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two instructions close together are not executed.

    Attributes:
        index: Of the first one.
        gap: Instructions from the first one to the second one, on whatever path the first fault leads to.
    """

    index: int
    gap: int

    def inject(self, probe: FaultProbe, offset: int) -> Stop | None:
        """See `Fault`."""
        stop = probe.skip(offset)
        # The first one was not executed, or executed as a NOP in its block.
        end = probe.instructions + self.gap - 1
        while stop is None and probe.pc < ROM_SIZE:
            left = end - probe.instructions
            if left <= 0 or left < len(probe.upcoming()):
                return probe.skip(max(left, 0))
            stop = probe.step()
        return stop

    def detail(self) -> str:
        """See `Fault`."""
        return f"skipped, and another one {self.gap} instructions later"


@dataclass(frozen=True, slots=True)
class FarPair:
    """Two instructions far from each other are not executed.

    Attributes:
        index: Of the first one.
        second: Of the second one, in the undisturbed boot.
        address: Of the second one. Where the first fault shifted the boot by a little, it is waited for.
    """

    index: int
    second: int
    address: int

    def inject(self, probe: FaultProbe, offset: int) -> Stop | None:
        """See `Fault`."""
        stop = probe.skip(offset)
        ahead = self.second - self.index - _SEARCH // 2
        if stop is None and ahead > 0:
            run = probe.resume(Limits(instructions=ahead)).stop
            stop = None if run.kind is StopKind.TIMEOUT else run
        for _ in range(_SEARCH):
            if stop is not None or probe.pc >= ROM_SIZE:
                break
            upcoming = probe.upcoming()
            if self.address in upcoming:
                return probe.skip(upcoming.index(self.address))
            stop = probe.step()
        return stop

    def detail(self) -> str:
        """See `Fault`."""
        return f"skipped, and the one at {self.address:#06x} too"


@dataclass(frozen=True, slots=True)
class Selection:
    """Faults of one campaign, and of how many they are.

    Attributes:
        faults: In the order of the boot.
        population: How many there are of the model.
    """

    faults: tuple[Fault, ...]
    population: int

    @property
    def sampled(self) -> bool:
        """Whether some were left out."""
        return len(self.faults) < self.population


def select(model: Model, trace: Trace, *, sample: int | None, seed: int) -> Selection:
    """Return the faults of a model.

    Args:
        model: Which model.
        trace: The undisturbed boot.
        sample: At most so many, drawn evenly over the instructions of the ROM. None for all, and of bit flips
            64 for each instruction of the ROM, and of pairs far apart 20,000.
        seed: Of the draw.
    """
    draw = random.Random(f"{seed} {model.value}")  # noqa: S311 - draws faults, not secrets
    match model:
        case Model.SKIP:
            everything: list[Fault] = [Skip(index) for index in range(len(trace))]
            return _sampled(everything, trace, sample, draw)
        case Model.ZERO_LOAD:
            return _sampled(list(_zero_loads(trace)), trace, sample, draw)
        case Model.BITFLIP:
            return _bit_flips(trace, sample, draw)
        case Model.SKIP_PAIR:
            return _pairs(trace, sample, draw)


def _zero_loads(trace: Trace) -> Iterator[Fault]:
    for index, executed in enumerate(trace.executed):
        for address, size in executed.loads:
            yield ZeroLoad(index, address, size)


def _by_address(faults: list[Fault], trace: Trace) -> list[list[Fault]]:
    strata: dict[int, list[Fault]] = {}
    for fault in faults:
        strata.setdefault(trace.executed[fault.index].address, []).append(fault)
    return list(strata.values())


def _sampled(faults: list[Fault], trace: Trace, sample: int | None, draw: random.Random) -> Selection:
    """Draw from one instruction of the ROM after another, so that no loop crowds out the rest."""
    population = len(faults)
    if sample is None or sample >= population:
        return Selection(tuple(faults), population)
    strata = _by_address(faults, trace)
    for stratum in strata:
        draw.shuffle(stratum)
    draw.shuffle(strata)
    chosen: list[Fault] = []
    depth = 0
    while len(chosen) < sample:
        row = [stratum[depth] for stratum in strata if depth < len(stratum)]
        chosen += row[: sample - len(chosen)]
        depth += 1
    return Selection(tuple(sorted(chosen, key=_index)), population)


def _index(fault: Fault) -> int:
    return fault.index


def _strata(trace: Trace, draw: random.Random) -> list[list[int]]:
    """Return the moments at which each instruction of the ROM is executed."""
    moments: dict[int, list[int]] = {}
    for index, executed in enumerate(trace.executed):
        moments.setdefault(executed.address, []).append(index)
    strata = list(moments.values())
    draw.shuffle(strata)
    return strata


def _drawn(
    strata: list[list[int]], variants: Sequence[Variant], wanted: int, draw: random.Random
) -> list[tuple[int, Variant]]:
    """Draw moments and variants, from one instruction of the ROM after another; far fewer than there are."""
    chosen: set[tuple[int, Variant]] = set()
    while len(chosen) < wanted:
        for stratum in strata[: wanted - len(chosen)]:
            chosen.add((draw.choice(stratum), draw.choice(variants)))
    return sorted(chosen)


def _bit_flips(trace: Trace, sample: int | None, draw: random.Random) -> Selection:
    strata = _strata(trace, draw)
    population = len(_ALL_BITS) * len(trace)
    # An instruction that is executed once has 482 bits around it: drawing half of them still ends soon.
    most = len(_ALL_BITS) * len(strata) // 2
    wanted = min(most, _FLIPS_PER_INSTRUCTION * len(strata) if sample is None else sample)
    chosen = _drawn(strata, _ALL_BITS, wanted, draw)
    return Selection(tuple(BitFlip(index, *bit) for index, bit in chosen), population)


def _pairs(trace: Trace, sample: int | None, draw: random.Random) -> Selection:
    count = len(trace)
    faults = [
        *_near_pairs(trace, None if sample is None else sample // 2, draw),
        *_sampled(list(_twins(trace)), trace, None if sample is None else sample // 4, draw).faults,
        *_far_pairs(trace, _FAR_PAIRS if sample is None else sample // 4, draw),
    ]
    return Selection(tuple(sorted(faults, key=_index)), count * (count - 1) // 2)


def _near_pairs(trace: Trace, wanted: int | None, draw: random.Random) -> list[Fault]:
    gaps = range(1, PAIR_WINDOW + 1)
    strata = _strata(trace, draw)
    if wanted is None or wanted > len(gaps) * len(strata) // 2:
        everything: list[Fault] = [NearPair(index, gap) for index in range(len(trace)) for gap in gaps]
        return list(_sampled(everything, trace, wanted, draw).faults)
    return [NearPair(index, gap) for index, gap in _drawn(strata, gaps, wanted, draw)]


def _far_pairs(trace: Trace, wanted: int, draw: random.Random) -> list[Fault]:
    pairs = (sorted(draw.sample(range(len(trace)), 2)) for _ in range(wanted))
    return [FarPair(first, second, trace.executed[second].address) for first, second in pairs]


def _twins(trace: Trace) -> Iterator[Fault]:
    """Pairs of an instruction and its next execution: one glitch, again where a check is repeated."""
    last: dict[int, int] = {}
    for index, executed in enumerate(trace.executed):
        before = last.get(executed.address)
        if before is not None and index - before > PAIR_WINDOW:
            yield FarPair(before, index, executed.address)
        last[executed.address] = index
