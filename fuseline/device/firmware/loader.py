"""The boot loader's decision: which slot runs.

MCUboot's direct-XIP mode with revert (`MCUBOOT_DIRECT_XIP_REVERT`): the highest version that verifies runs
where it lies, slot 0 before slot 1 if equal. An image on trial is marked before it runs; if its turn comes
again and it has not confirmed itself, it is erased and the other slot runs.

Two differences, both towards keeping what recovery needs. A refused image is left in its slot: refusing it
again costs little, and it is evidence. And nothing is erased when nothing else could run.

Raising the device's security counter is the caller's part, for a confirmed image only: an image on trial must
leave the way back open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuseline.device.firmware.slots import SLOT_COUNT
from fuseline.errors import BootNoImage, FormatError, ImageError
from fuseline.formats.mcuboot import VerifiedImage, verify_image
from fuseline.formats.mcuboot_trailer import TRAILER_SIZE, Trailer, read_trailer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuseline.device.firmware.slots import SlotStore
    from fuseline.formats.mcuboot import HardwareId, TrustedKey, Version


@dataclass(frozen=True, slots=True)
class SlotContent:
    """One slot as read: its number and all its bytes, trailer included."""

    slot: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class RefusedSlot:
    """A slot whose image did not verify, and why: the error's code and message."""

    slot: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Reverted:
    """An image that was tried, never confirmed itself, and is erased."""

    slot: int
    version: Version
    reason: str


@dataclass(frozen=True, slots=True)
class BootDecision:
    """What runs, and what was passed over.

    Attributes:
        slot: Where the image is.
        image: What runs.
        confirmed: Whether the image has confirmed itself; if not, this boot is its trial.
        refused: The slots whose image did not verify.
        reverted: The image that lost its trial, if one did.
    """

    slot: int
    image: VerifiedImage
    confirmed: bool
    refused: tuple[RefusedSlot, ...]
    reverted: Reverted | None


@dataclass(frozen=True, slots=True)
class BootPlan:
    """A decision, and the writes to make before the image runs.

    Attributes:
        decision: What will run.
        mark_booted: Whether its slot must be marked as tried first.
    """

    decision: BootDecision
    mark_booted: bool


@dataclass(frozen=True, slots=True)
class _Candidate:
    slot: int
    image: VerifiedImage
    trailer: Trailer

    @property
    def lost_its_trial(self) -> bool:
        return self.trailer.copy_done and not self.trailer.image_ok


def select_slot(
    slots: Sequence[SlotContent],
    *,
    keys: Sequence[TrustedKey],
    hardware: HardwareId,
    counter_floor: int,
) -> BootPlan:
    """Decide which slot runs, from the slots' bytes alone.

    Args:
        slots: All slots, in the order of their numbers.
        keys: The release keys trusted here.
        hardware: What the image would run on.
        counter_floor: The device's security counter.

    Raises:
        BootNoImage: No slot may run; the evidence says why for each.
        ImageMalformed: A slot is shorter than a trailer.
    """
    candidates, refused = _examine(slots, keys, hardware, counter_floor)
    reverted: list[Reverted] = []
    # Stable, so with equal versions the lower slot comes first, as in find_slot_with_highest_version.
    for candidate in sorted(candidates, key=lambda candidate: candidate.image.version, reverse=True):
        if candidate.lost_its_trial:
            reverted.append(_revert(candidate))
            continue
        decision = BootDecision(
            slot=candidate.slot,
            image=candidate.image,
            confirmed=candidate.trailer.image_ok,
            refused=tuple(refused),
            reverted=reverted[0] if reverted else None,
        )
        return BootPlan(decision, mark_booted=not candidate.trailer.copy_done)
    raise BootNoImage("no slot holds an image that may run", slots=_reasons(slots, refused, reverted))


def boot(
    store: SlotStore, *, keys: Sequence[TrustedKey], hardware: HardwareId, counter_floor: int
) -> BootDecision:
    """Choose the slot and make the decision durable before the image runs.

    The decision's image is the copy that was verified, so nothing is read twice.

    Raises:
        BootNoImage: As for `select_slot`; nothing was written.
        SlotDamaged: A slot file is not as this program leaves it.
    """
    contents = [SlotContent(index, store.read(index)) for index in range(SLOT_COUNT)]
    plan = select_slot(contents, keys=keys, hardware=hardware, counter_floor=counter_floor)
    if plan.decision.reverted is not None:
        store.erase(plan.decision.reverted.slot)
    if plan.mark_booted:
        store.mark_booted(plan.decision.slot)
    return plan.decision


def _examine(
    slots: Sequence[SlotContent], keys: Sequence[TrustedKey], hardware: HardwareId, counter_floor: int
) -> tuple[list[_Candidate], list[RefusedSlot]]:
    candidates: list[_Candidate] = []
    refused: list[RefusedSlot] = []
    for content in slots:
        trailer = read_trailer(content.raw)
        if not trailer.magic_good:
            continue  # empty, or an installation that a power cut ended
        try:
            image = _verify_slot(content, keys, hardware, counter_floor)
        except (FormatError, ImageError) as error:
            refused.append(RefusedSlot(content.slot, error.code, error.message))
        else:
            candidates.append(_Candidate(content.slot, image, trailer))
    return candidates, refused


def _verify_slot(
    content: SlotContent, keys: Sequence[TrustedKey], hardware: HardwareId, counter_floor: int
) -> VerifiedImage:
    # Without the trailer: its flags are the loader's own notes, and a spoilt one must not cost a good image.
    return verify_image(
        content.raw[:-TRAILER_SIZE],
        keys=keys,
        hardware=hardware,
        counter_floor=counter_floor,
        slot_size=len(content.raw),
    )


def _revert(candidate: _Candidate) -> Reverted:
    return Reverted(
        candidate.slot, candidate.image.version, "it was booted before and did not confirm itself"
    )


def _reasons(
    slots: Sequence[SlotContent], refused: Sequence[RefusedSlot], reverted: Sequence[Reverted]
) -> list[dict[str, int | str]]:
    """Return for each slot why it cannot run, as data."""
    why = {entry.slot: f"{entry.code}: {entry.message}" for entry in refused}
    why |= {entry.slot: f"{entry.version} reverted: {entry.reason}" for entry in reverted}
    return [{"slot": content.slot, "reason": why.get(content.slot, "no complete image")} for content in slots]
