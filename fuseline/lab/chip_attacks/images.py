"""Attacks with loader images whose structure lies."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.memory_map import (
    FLASH_BASE,
    LOADER_RAM,
    LOADER_SLOT_SIZE,
    RAM_BASE,
    RAM_SIZE,
    ROM_RAM_BASE,
    SRAM_BASE,
)
from fuseline.device.silicon.report import Outcome
from fuseline.device.silicon.rom import requirement_of
from fuseline.errors import RomErrorUnknown
from fuseline.formats.mcuboot import Tlv, TlvType
from fuseline.formats.usage import USAGE_SIZE, UsageConstraints, build_usage
from fuseline.lab.chip.bench import ERASED
from fuseline.lab.chip_attacks.forge import (
    COUNTER,
    HEADER_SIZE,
    PROTECTED_MAGIC,
    UNPROTECTED_MAGIC,
    ImageSpec,
    Signer,
    area,
    assemble,
    counter_tlv,
    credentials,
    forge,
    stop_payload,
    usage_tlv,
)
from fuseline.lab.chip_attacks.model import Attempt, Effort, escaped, judge, judge_equal, judge_refusal
from fuseline.lab.chip_attacks.rig import PRODUCT_ID

if TYPE_CHECKING:
    from fuseline.device.silicon.report import BootReport
    from fuseline.lab.chip_attacks.rig import Rig

_RECOVERY_REFUSED: Final = re.compile(r"recovery loader refused, ([0-9a-f]{8})")
_BOOT_RECORD: Final = Tlv(TlvType.BOOT_RECORD, b"\xa1\x01\x61x")


@dataclass(frozen=True, slots=True)
class HostileImage:
    """An image, and what the ROM has to say of it.

    Attributes:
        what: What is wrong with it.
        image: The image.
        code: The refusal that is due; None where several are right.
        measurement: What may boot, since it is what was signed; empty for nothing.
    """

    what: str
    image: bytes
    code: str | None
    measurement: bytes = b""


Make = Callable[["Rig"], Iterator[HostileImage]]


def run_images(make: Make) -> Callable[[Rig, Effort], Iterator[Attempt]]:
    """Return an attack that boots each image on the product; images that must be refused go two to a boot."""

    def run(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
        hostile: list[HostileImage] = []
        for one in make(rig):
            if one.measurement:
                yield judge_equal(one.what, rig.start(one.image), one.measurement)
            else:
                hostile.append(one)
        for at in range(0, len(hostile), 2):
            yield from start_pair(rig, hostile[at : at + 2])

    return run


def start_pair(rig: Rig, images: Sequence[HostileImage]) -> Iterator[Attempt]:
    """Boot the product with one image, or with two: the second in the recovery slot."""
    first, second = images[0], images[-1]
    report = rig.start(first.image, second.image if len(images) > 1 else b"")
    record = report.record
    if len(images) == 1 or (report.outcome is Outcome.BOOTED and record is not None and not record.recovery):
        yield _judge(first, report)
        if len(images) > 1:
            yield _judge(second, rig.start(second.image))
        return
    refusals = (report.error, report.recovery_error)
    code = next((refusal.code for refusal in refusals if refusal is not None), None)
    yield judge_refusal(first.what, Outcome.REFUSED if code else report.outcome, code, first.code)
    if report.outcome is Outcome.BOOTED:
        yield _judge(second, report)
    else:
        yield judge_refusal(second.what, report.outcome, _recovery_refusal(report), second.code)


def _judge(image: HostileImage, report: BootReport) -> Attempt:
    if image.measurement:
        return judge_equal(image.what, report, image.measurement)
    return judge(image.what, report, image.code)


def _recovery_refusal(report: BootReport) -> str | None:
    found = _RECOVERY_REFUSED.search(report.console)
    if found is None:
        return None
    try:
        return requirement_of(int(found[1], 16)).code
    except RomErrorUnknown:
        return f"unknown word {found[1]}"


def _full_spec() -> ImageSpec:
    """An image with every protected TLV that there is."""
    usage = build_usage(UsageConstraints(product_id=PRODUCT_ID))
    return ImageSpec(protected=(counter_tlv(COUNTER), _BOOT_RECORD, usage_tlv(usage)))


# --- every bit -------------------------------------------------------------------------------------------


def flip_every_bit(rig: Rig, effort: Effort) -> Iterator[Attempt]:
    """Flip each bit of two whole images, header, payload and TLVs; two flips to a boot.

    One word may read anything, and the signed image boots: a selected usage constraint, which the ROM
    overwrites with what the hardware reads before it hashes.
    """
    spec = _full_spec()
    # The usage TLV ends the protected area; its word 10 is the product id, and selected.
    product = range(len(spec.hashed()) - USAGE_SIZE + 40, len(spec.hashed()) - USAGE_SIZE + 44)
    for name, signer in (("P-256", rig.keys.loader), ("Ed25519", rig.keys.ed25519)):
        image = forge(spec, signer)
        intact = rig.start(image)
        if intact.outcome is not Outcome.BOOTED:
            yield escaped(f"{name}: the intact image", f"does not boot: {intact.error}")
        # What is under the signature differs in nothing from the first image.
        start = 0 if effort is Effort.FULL or name == "P-256" else len(spec.hashed())
        flips = [
            HostileImage(
                f"{name}: bit {bit} of octet {at:#05x}",
                _flipped(image, at, bit),
                None,
                spec.digest() if at in product else b"",
            )
            for at in range(start, len(image))
            for bit in range(8)
        ]
        for at in range(0, len(flips), 2):
            yield from start_pair(rig, flips[at : at + 2])


def _flipped(image: bytes, at: int, bit: int) -> bytes:
    edited = bytearray(image)
    edited[at] ^= 1 << bit
    return bytes(edited)


def cut_everywhere(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Leave an image erased from some octet on; and write garbage behind a whole one."""
    spec = _full_spec()
    for name, signer in (("P-256", rig.keys.loader), ("Ed25519", rig.keys.ed25519)):
        image = forge(spec, signer)
        cuts = [
            HostileImage(f"{name}: cut at {size}", image[:size].ljust(len(image), ERASED), None)
            for size in range(len(image))
        ]
        # The image may end in octets that are erased flash anyway.
        hostile = [cut for cut in cuts if cut.image != image]
        for at in range(0, len(hostile), 2):
            yield from start_pair(rig, hostile[at : at + 2])
        report = rig.start(image + bytes(range(1, 200)))
        yield judge_equal(f"{name}: garbage behind the image", report, spec.digest())


# --- header ----------------------------------------------------------------------------------------------


def header_images(rig: Rig) -> Iterator[HostileImage]:
    """Signed headers that no loader may have; sizes whose sums wrap around."""
    spec, signer = ImageSpec(), rig.keys.loader
    for what, changed, code in (
        ("another magic", replace(spec, magic=0x96F3_B83C), "E_ROM_NO_IMAGE"),
        ("erased magic", replace(spec, magic=0xFFFF_FFFF), "E_ROM_NO_IMAGE"),
        ("padding that is not zero", replace(spec, padding=1), "E_ROM_FLAGS"),
        *(
            (f"flags {flags:#x}", replace(spec, flags=flags), "E_ROM_FLAGS")
            for flags in (0, 0x30, 0x24, 0x120)
        ),
        *(
            (f"load address {address:#x}", replace(spec, load_address=address), "E_ROM_LOAD_ADDRESS")
            for address in (0, LOADER_RAM + 4, LOADER_RAM - 0x1000, ROM_RAM_BASE, 0xFFFF_FFFC)
        ),
        *(
            (f"header of {size:#x} octets", replace(spec, stated_header_size=size), "E_ROM_HEADER_SIZE")
            for size in (0, 4, 0x1C, 0x22, 0x404, 0xFFFF, 0xFFFC)
        ),
        *(
            (f"payload of {size:#x} octets", replace(spec, stated_payload_size=size), "E_ROM_IMAGE_SIZE")
            for size in (*range(8), 0x1_0001, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FF00, 0xFFFF_FFE0, 0xFFFF_FFFF)
        ),
    ):
        yield HostileImage(what, forge(changed, signer), code)
    for payload, protected in ((LOADER_SLOT_SIZE, 0xFFFF), (LOADER_SLOT_SIZE - 0x20, 12), (0x8000, 0xFFF0)):
        lying = replace(spec, stated_payload_size=payload, stated_protected_size=protected)
        yield HostileImage(
            f"payload {payload:#x} and TLVs {protected:#x} beyond the slot",
            forge(lying, signer),
            "E_ROM_IMAGE_SIZE",
        )
    for size in (0x21, 0x22, 0x404, 0x600):
        odd = ImageSpec(
            header_size=size, payload=stop_payload(size, entry=LOADER_RAM + size + 8 + size % 2 | 1)
        )
        yield HostileImage(f"a header that has {size:#x} octets", forge(odd, signer), "E_ROM_HEADER_SIZE")
    across = replace(spec, payload=spec.payload + bytes(LOADER_SLOT_SIZE))
    yield HostileImage("a payload that runs into the other slot", forge(across, signer), "E_ROM_IMAGE_SIZE")
    # The widest header and a payload that ends the slot but for its TLVs are well made, and boot.
    wide = ImageSpec(header_size=0x400, payload=stop_payload(0x400))
    yield HostileImage("the widest header", forge(wide, signer), None, wide.digest())
    room = LOADER_SLOT_SIZE - len(forge(spec, signer))
    large = replace(spec, payload=spec.payload + bytes(room - room % 4))
    yield HostileImage("the largest payload", forge(large, signer), None, large.digest())


# --- TLVs ------------------------------------------------------------------------------------------------


def tlv_images(rig: Rig) -> Iterator[HostileImage]:
    """TLV areas that lie about bounds, sizes and places; signed by a trusted key as far as they can be."""
    yield from _protected_areas(rig.keys.loader)
    yield from _unprotected_areas(rig.keys.loader)
    yield from _types(rig.keys.loader)
    yield from _twice(rig)
    yield from _lengths(rig)
    yield from _missing(rig)
    yield from _harmless(rig.keys.loader)


def _protected_areas(signer: Signer) -> Iterator[HostileImage]:
    whole = area(PROTECTED_MAGIC, (counter_tlv(COUNTER),))
    counter = whole[4:]
    longer = struct.pack("<HHHH", PROTECTED_MAGIC, 12 + len(counter), TlvType.BOOT_RECORD, 100)
    for what, octets, code in (
        ("no protected area", b"", "E_ROM_COUNTER_MISSING"),
        ("protected area of 2 octets", whole[:2], "E_ROM_TLV_PROTECTED"),
        ("protected area without a counter", whole[:2] + b"\x04\x00", "E_ROM_COUNTER_MISSING"),
        (
            "protected area with the other magic",
            area(UNPROTECTED_MAGIC, (counter_tlv(COUNTER),)),
            "E_ROM_TLV_PROTECTED",
        ),
        *(
            (
                f"protected area that says {size} octets",
                whole[:2] + struct.pack("<H", size) + counter,
                "E_ROM_TLV_PROTECTED",
            )
            for size in (0, 3, 4, len(whole) - 1, len(whole) + 1, 0xFFFF)
        ),
        ("a boot record that is longer than its area", longer + bytes(4) + counter, "E_ROM_TLV_BOUNDS"),
        *(
            (f"{tail} octets behind the last protected TLV", _grown(counter, tail), "E_ROM_TLV_BOUNDS")
            for tail in (1, 2, 3)
        ),
        *(
            (f"protected TLV of {length} octets", _lying(whole, length), code)
            for length, code in (
                (5, "E_ROM_TLV_BOUNDS"),
                (0x7FFF, "E_ROM_TLV_BOUNDS"),
                (0xFFFF, "E_ROM_TLV_BOUNDS"),
                (3, "E_ROM_TLV_LENGTH"),
            )
        ),
    ):
        yield HostileImage(what, forge(ImageSpec(protected_area=octets), signer), code)


def _grown(content: bytes, tail: int) -> bytes:
    return struct.pack("<HH", PROTECTED_MAGIC, 4 + len(content) + tail) + content + bytes(tail)


def _lying(whole: bytes, length: int) -> bytes:
    return whole[:6] + struct.pack("<H", length) + whole[8:]


def _unprotected_areas(signer: Signer) -> Iterator[HostileImage]:
    spec = ImageSpec()
    hashed, whole = spec.hashed(), area(UNPROTECTED_MAGIC, credentials(spec, signer))
    size = len(whole)
    for stated, code in (
        (0, "E_ROM_TLV_UNPROTECTED"),
        (3, "E_ROM_TLV_UNPROTECTED"),
        (4, "E_ROM_UNSIGNED"),
        (size - 1, "E_ROM_TLV_BOUNDS"),
        (size + 1, "E_ROM_TLV_BOUNDS"),
        (LOADER_SLOT_SIZE - len(hashed) + 1, "E_ROM_TLV_UNPROTECTED"),
        (0xFFFF, "E_ROM_TLV_UNPROTECTED"),
    ):
        yield HostileImage(
            f"unprotected area that says {stated} octets",
            hashed + whole[:2] + struct.pack("<H", stated) + whole[4:],
            code,
        )
    yield HostileImage(
        "unprotected area with the other magic",
        hashed + struct.pack("<H", PROTECTED_MAGIC) + whole[2:],
        "E_ROM_TLV_UNPROTECTED",
    )
    for length in (size - 7, size, 0x7FFF, 0xFFFF):
        yield HostileImage(
            f"unprotected TLV of {length} octets", hashed + _lying(whole, length), "E_ROM_TLV_BOUNDS"
        )


def _types(signer: Signer) -> Iterator[HostileImage]:
    spec = ImageSpec()
    foreign = (
        *(
            0x00,
            0x01,
            0x10,
            0x02,
            0x11,
            0x20,
            0x22,
            0x24,
            0x25,
            0x30,
            0x31,
            0x32,
            0x40,
            0x51,
            0x70,
            0x71,
            0x80,
        ),
        *(0xA1, 0x01A0, 0xFFFF),
    )
    for kind in foreign:
        extended = replace(spec, protected=(*spec.protected, Tlv(kind, bytes(4))))
        yield HostileImage(f"protected TLV {kind:#06x}", forge(extended, signer), "E_ROM_TLV_TYPE")
    # CVE-2024-32883: facts outside the signature that were believed like facts under it.
    injected = (counter_tlv(127), _BOOT_RECORD, usage_tlv(bytes(64)), Tlv(TlvType.DEPENDENCY, bytes(12)))
    others = tuple(
        Tlv(kind, bytes(4)) for kind in (0x00, 0x01, 0x11, 0x12, 0x20, 0x23, 0x25, 0x30, 0x70, 0xA1, 0xFFFF)
    )
    for tlv in (*injected, *others):
        for what, tlvs in (
            ("behind", (*credentials(spec, signer), tlv)),
            ("before", (tlv, *credentials(spec, signer))),
        ):
            yield HostileImage(
                f"unprotected TLV {tlv.type:#06x} {what} the others", assemble(spec, tlvs), "E_ROM_TLV_TYPE"
            )


def _twice(rig: Rig) -> Iterator[HostileImage]:
    for tlv in (
        counter_tlv(COUNTER),
        counter_tlv(127),
        _BOOT_RECORD,
        usage_tlv(build_usage(UsageConstraints())),
    ):
        protected = tuple(
            one
            for one in (counter_tlv(COUNTER), _BOOT_RECORD, usage_tlv(build_usage(UsageConstraints())))
            if one.type != tlv.type
        )
        first = counter_tlv(COUNTER) if tlv.type == TlvType.SEC_CNT else tlv
        spec = ImageSpec(protected=(*protected, first, tlv))
        yield HostileImage(
            f"protected TLV {tlv.type:#06x} twice", forge(spec, rig.keys.loader), "E_ROM_TLV_TWICE"
        )
    spec = ImageSpec()
    for signer in (rig.keys.loader, rig.keys.ed25519):
        tlvs = credentials(spec, signer)
        for again in (*tlvs, *credentials(spec, rig.keys.stranger)[1:2]):
            for order in ((*tlvs, again), (again, *tlvs)):
                yield HostileImage(
                    f"unprotected TLV {again.type:#06x} twice", assemble(spec, order), "E_ROM_TLV_TWICE"
                )


def _lengths(rig: Rig) -> Iterator[HostileImage]:
    protected: dict[Tlv, tuple[int, ...]] = {
        counter_tlv(COUNTER): (0, 2, 3, 5, 8),
        _BOOT_RECORD: (0, 513),
        usage_tlv(build_usage(UsageConstraints())): (0, 60, 63, 65, 68),
    }
    for tlv, lengths in protected.items():
        rest = () if tlv.type == TlvType.SEC_CNT else (counter_tlv(COUNTER),)
        for length in lengths:
            wrong = Tlv(tlv.type, (tlv.value * 200)[:length])
            image = forge(ImageSpec(protected=(*rest, wrong)), rig.keys.loader)
            yield HostileImage(f"protected TLV {tlv.type:#06x} of {length} octets", image, "E_ROM_TLV_LENGTH")
    spec = ImageSpec()
    ecdsa, ed25519 = credentials(spec, rig.keys.loader), credentials(spec, rig.keys.ed25519)
    unprotected = (
        *((ecdsa, 0, length) for length in (0, 31, 33, 64)),
        *((ecdsa, 1, length) for length in (0, 43, 92, 256)),
        *((ecdsa, 2, length) for length in (0, 7, 73)),
        *((ed25519, 2, length) for length in (0, 63, 65)),
    )
    for good, place, length in unprotected:
        tlvs = list(good)
        tlvs[place] = Tlv(tlvs[place].type, (tlvs[place].value * 8)[:length])
        what = f"unprotected TLV {tlvs[place].type:#06x} of {length} octets"
        yield HostileImage(what, assemble(spec, tlvs), "E_ROM_TLV_LENGTH")


def _missing(rig: Rig) -> Iterator[HostileImage]:
    spec = ImageSpec()
    digest, key, signature = credentials(spec, rig.keys.loader)
    _, other_key, other_signature = credentials(spec, rig.keys.ed25519)
    for what, tlvs, code in (
        ("no TLV at all", (), "E_ROM_UNSIGNED"),
        ("no signature", (digest, key), "E_ROM_UNSIGNED"),
        ("no digest", (key, signature), "E_ROM_TLV_MISSING"),
        ("no key", (digest, signature), "E_ROM_TLV_MISSING"),
        (
            "the key's hash for the key",
            (digest, Tlv(TlvType.KEYHASH, bytes(32)), signature),
            "E_ROM_TLV_TYPE",
        ),
        ("two signatures", (digest, key, signature, other_signature), "E_ROM_UNSIGNED"),
        ("an Ed25519 key for an ECDSA signature", (digest, other_key, signature), "E_ROM_UNSIGNED"),
        ("a P-256 key for an Ed25519 signature", (digest, key, other_signature), "E_ROM_UNSIGNED"),
        ("a key of 60 octets", (digest, Tlv(TlvType.PUBKEY, key.value[:60]), signature), "E_ROM_UNSIGNED"),
    ):
        yield HostileImage(what, assemble(spec, tlvs), code)


def _harmless(signer: Signer) -> Iterator[HostileImage]:
    """What an attacker can change without changing anything: the order of what no signature covers."""
    spec = ImageSpec()
    one, two, three = credentials(spec, signer)
    for order in ((three, two, one), (two, three, one)):
        yield HostileImage("unprotected TLVs in another order", assemble(spec, order), None, spec.digest())


# --- where it would run ----------------------------------------------------------------------------------


def entry_images(rig: Rig) -> Iterator[HostileImage]:
    """Signed images that would start, or keep their stack, outside themselves."""
    code = LOADER_RAM + HEADER_SIZE
    end = code + len(stop_payload())
    entries = (
        *(0, 1, LOADER_RAM | 1, code | 1, code + 7, (code + 8) & ~1, end | 1, end + 0x21, end - 2),
        *(SRAM_BASE | 1, ROM_RAM_BASE | 1, FLASH_BASE + HEADER_SIZE + 9, 0xFFFF_FFFF, 0xFFFF_FFF9),
    )
    for entry in entries:
        spec = ImageSpec(payload=stop_payload(entry=entry))
        yield HostileImage(f"entry point {entry:#010x}", forge(spec, rig.keys.loader), "E_ROM_ENTRY")
    stacks = (
        *(0, 8, RAM_BASE, RAM_BASE - 8, RAM_BASE + RAM_SIZE + 8, RAM_BASE + RAM_SIZE - 4, RAM_BASE + 9),
        *(SRAM_BASE + 0x1000, ROM_RAM_BASE + 0x4000, FLASH_BASE + 0x1000, 0xFFFF_FFF8),
    )
    for stack in stacks:
        spec = ImageSpec(payload=stop_payload(stack=stack))
        yield HostileImage(f"stack {stack:#010x}", forge(spec, rig.keys.loader), "E_ROM_STACK")
    last = ImageSpec(payload=stop_payload(stack=RAM_BASE + 8))
    yield HostileImage("the lowest stack", forge(last, rig.keys.loader), None, last.digest())
