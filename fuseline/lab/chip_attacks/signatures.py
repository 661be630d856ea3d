"""Attacks with loader images whose signature, key, counter or purpose is not what it should be."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon import fuse_map
from fuseline.device.silicon.crypto_block import ED25519_L, P256_N
from fuseline.device.silicon.fuse_map import KEY_TYPES, Counter, KeyType, LifeCycle
from fuseline.device.silicon.fuse_plans import plan_counter
from fuseline.device.silicon.fuse_view import read_fuses
from fuseline.formats.mcuboot import Tlv, TlvType
from fuseline.formats.usage import UsageConstraints, build_usage
from fuseline.lab.chip_attacks.forge import (
    COUNTER,
    ImageSpec,
    assemble,
    counter_tlv,
    credentials,
    der_integer,
    der_signature,
    forge,
    usage_tlv,
)
from fuseline.lab.chip_attacks.images import HostileImage, start_pair
from fuseline.lab.chip_attacks.model import Attempt, Effort, judge, judge_equal
from fuseline.lab.chip_attacks.rig import (
    HARDWARE_REVISION,
    PRODUCT_ID,
    fuse_words,
    with_bits,
    with_fuses,
    with_key,
    with_life_cycle,
)

if TYPE_CHECKING:
    from fuseline.lab.chip_attacks.rig import Rig

_ED25519_PREFIX: Final = bytes.fromhex("302a300506032b6570032100")
"""SubjectPublicKeyInfo before the 32 octets of the key (RFC 8410 4)."""
_ED25519_BASE: Final = bytes((0x58,)) + b"\x66" * 31
"""The base point B (RFC 8032 5.1)."""
_P: Final = 2**255 - 19
_SMALL_ORDER_Y: Final = (
    *(0, 1, _P - 1, _P, _P + 1),
    int.from_bytes(
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
    ),
    int.from_bytes(
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
    ),
)
"""y of every point whose order divides 8 (RFC 8032 5.1): order 4, 1, 2; 4 and 1 again, not reduced; and 8,
the roots of d y^4 + 2 y^2 = 1."""


# --- signatures ------------------------------------------------------------------------------------------


def _with_signature(spec: ImageSpec, rig: Rig, value: bytes) -> bytes:
    digest, key, _ = credentials(spec, rig.keys.loader)
    return assemble(spec, (digest, key, Tlv(TlvType.ECDSA_SIG, value)))


def _tlv(value: int) -> bytes:
    return der_integer(value)


def ecdsa_images(rig: Rig) -> Iterator[HostileImage]:
    """Encode, stretch and shift the numbers of ECDSA signatures."""
    spec = ImageSpec()
    r, s = rig.keys.loader.numbers(spec.digest())
    yield HostileImage(
        "the other root: (r, n - s)",
        _with_signature(spec, rig, der_signature(_tlv(r), _tlv(P256_N - s))),
        None,
        spec.digest(),
    )
    other_r, other_s = rig.keys.loader.numbers(ImageSpec(version=(2, 0, 0, 0)).digest())
    numbers = (
        *(((a, b), "E_ROM_SIG_RANGE") for a, b in ((0, s), (r, 0), (0, 0), (P256_N, s), (r, P256_N))),
        *(((a, b), "E_ROM_SIG_RANGE") for a, b in ((2**256 - 1, s), (r, 2**256 - 1), (P256_N + 1, s))),
        *(((a, b), "E_ROM_SIG_ENCODING") for a, b in ((2**256 + r, s), (r, 2**256 + s), (-r, s), (r, -1))),
        *(((a, b), "E_ROM_SIGNATURE") for a, b in ((1, 1), (r + 1, s), (r, s + 1), (s, r), (P256_N - r, s))),
        *(((a, b), "E_ROM_SIGNATURE") for a, b in ((other_r, other_s), (P256_N - 1, P256_N - 1), (r, 1))),
    )
    for (one, other), code in numbers:
        value = der_signature(_tlv(one), _tlv(other))
        if len(value) <= 72:
            yield HostileImage(f"r {one:#x}, s {other:#x}", _with_signature(spec, rig, value), code)
    yield from _padded_numbers(rig)
    for what, value in _encodings(_tlv(r), _tlv(s)):
        yield HostileImage(what, _with_signature(spec, rig, value), "E_ROM_SIG_ENCODING")


def _padded_numbers(rig: Rig) -> Iterator[HostileImage]:
    """The right r and s, with a zero octet more than they need; for images whose numbers need none."""
    for version in range(64):
        spec = ImageSpec(version=(1, version, 0, 0))
        numbers = rig.keys.loader.numbers(spec.digest())
        if all(number >> 248 and not number >> 255 for number in numbers):
            r, s = (_tlv(number) for number in numbers)
            padded = [b"\x02\x21\x00" + number[2:] for number in (r, s)]
            for what, value in (("r", der_signature(padded[0], s)), ("s", der_signature(r, padded[1]))):
                yield HostileImage(
                    f"the right {what}, padded", _with_signature(spec, rig, value), "E_ROM_SIG_ENCODING"
                )
            return


def _encodings(r: bytes, s: bytes) -> Iterator[tuple[str, bytes]]:
    good = der_signature(r, s)
    yield "one octet too few", good[:-1]
    yield "one octet behind the signature", (good + b"\0")[:72]
    yield "one octet inside, behind s", bytes((0x30, len(good) - 1)) + r + s + b"\0"
    yield "a sequence that says less", bytes((0x30, good[1] - 1)) + good[2:]
    yield "a sequence that says more", bytes((0x30, good[1] + 1)) + good[2:]
    yield "a long form of length", bytes((0x30, 0x81, len(good) - 2)) + r + s
    yield "an indefinite length", b"\x30\x80" + r + s[:30] + b"\0\0"
    yield "a set", b"\x31" + good[1:]
    yield "an empty sequence", bytes((0x30, 0)) + bytes(6)
    small = b"\x02\x01\x01"
    for what, integer in (
        ("an empty integer", b"\x02\x00"),
        ("a padded integer", b"\x02\x02\x00\x01"),
        ("a negative integer", b"\x02\x01\x81"),
        ("an integer of 34 octets", b"\x02\x22" + bytes(34)),
        ("an integer of another tag", b"\x04\x01\x01"),
        ("an integer that says 127 octets", b"\x02\x7f\x01"),
        ("an integer that says 128 octets", b"\x02\x80\x01"),
        ("an integer that says 255 octets", b"\x02\xff\x01"),
    ):
        yield f"{what} for r", der_signature(integer, small + small)[:2] + integer + small + small
        yield f"{what} for s", der_signature(b"\x02\x02\x01\x01", integer)
    yield "r alone", der_signature(r, b"")
    yield "three integers", der_signature(small + small, small)


def ed25519_images(rig: Rig) -> Iterator[HostileImage]:
    """Shift the numbers of Ed25519 signatures."""
    spec = ImageSpec()
    digest, key, signature = credentials(spec, rig.keys.ed25519)
    r, s = signature.value[:32], int.from_bytes(signature.value[32:], "little")

    def image(value: bytes) -> bytes:
        return assemble(spec, (digest, key, Tlv(TlvType.ED25519, value)))

    for factor in range(1, 15):
        # The same residue: a verifier that reduces S takes it.
        yield HostileImage(
            f"S + {factor} L", image(r + (s + factor * ED25519_L).to_bytes(32, "little")), "E_ROM_SIGNATURE"
        )
    other = credentials(ImageSpec(version=(2, 0, 0, 0)), rig.keys.ed25519)[2].value
    for what, value, code in (
        ("S = 0", r + bytes(32), "E_ROM_SIGNATURE"),
        ("S = L", r + ED25519_L.to_bytes(32, "little"), "E_ROM_SIGNATURE"),
        ("S of ones", r + b"\xff" * 32, "E_ROM_SIGNATURE"),
        ("R = 0", bytes(32) + signature.value[32:], "E_ROM_SIG_RANGE"),
        ("R = 0, S >= L", bytes(32) + b"\xff" * 32, "E_ROM_SIG_RANGE"),
        ("R = identity, S = 0", b"\x01" + bytes(63), "E_ROM_SIGNATURE"),
        (
            "R with the sign bit flipped",
            signature.value[:31] + bytes((signature.value[31] ^ 0x80,)) + signature.value[32:],
            "E_ROM_SIGNATURE",
        ),
        ("R and S swapped", signature.value[32:] + r, "E_ROM_SIGNATURE"),
        ("of another image", other, "E_ROM_SIGNATURE"),
        ("R of another image", other[:32] + signature.value[32:], "E_ROM_SIGNATURE"),
    ):
        yield HostileImage(what, image(value), code)


def small_order_keys(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Have a factory take a key for which anybody can sign, and sign for it.

    With a public key A of order 1, 2, 4 or 8, k A is the identity for one message in at most eight, and then
    (R, S) = (S B, S) verifies though nobody has a private key.
    """
    encodings = [(y | sign << 255).to_bytes(32, "little") for y in _SMALL_ORDER_Y for sign in (0, 1)]
    for encoded in encodings:
        spki = _ED25519_PREFIX + encoded
        chip = with_key(rig.victims.product, 1, spki, KeyType.PROD)
        for version in range(16):
            spec = ImageSpec(version=(1, version, 0, 0))
            digest = Tlv(TlvType.SHA256, spec.digest())
            # S B is the base point for S = 1, and so R, if k A is the identity.
            signature = Tlv(TlvType.ED25519, _ED25519_BASE + bytes((1,)) + bytes(31))
            image = assemble(spec, (digest, Tlv(TlvType.PUBKEY, spki), signature))
            what = f"key {encoded.hex()}, message {version}"
            yield judge(what, rig.start(image, snapshot=chip), "E_ROM_SIGNATURE")


def p256_keys_off_the_curve(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Have a factory take P-256 keys that are no points of the curve, or not in the form that is hashed."""
    spki = rig.keys.loader.spki
    for what, octets in (
        ("y + 1", _with_point(spki, 32, 1)),
        ("x + 1", _with_point(spki, 0, 1)),
        ("(0, 0)", spki[:-64] + bytes(64)),
        ("coordinates of ones", spki[:-64] + b"\xff" * 64),
    ):
        chip = with_key(rig.victims.product, 0, octets, KeyType.PROD)
        spec = ImageSpec()
        digest, _, signature = credentials(spec, rig.keys.loader)
        image = assemble(spec, (digest, Tlv(TlvType.PUBKEY, octets), signature))
        yield judge(what, rig.start(image, snapshot=chip), "E_ROM_SIGNATURE")


def _with_point(spki: bytes, at: int, change: int) -> bytes:
    start = len(spki) - 64 + at
    value = (int.from_bytes(spki[start : start + 32], "big") + change) % 2**256
    return spki[:start] + value.to_bytes(32, "big") + spki[start + 32 :]


# --- keys ------------------------------------------------------------------------------------------------


def key_images(rig: Rig) -> Iterator[HostileImage]:
    """Bring keys that this chip does not take, or not any more."""
    spec, keys = ImageSpec(), rig.keys
    digest, key, signature = credentials(spec, keys.loader)
    _, other_key, other_signature = credentials(spec, keys.stranger)
    yield HostileImage("a key of nobody", forge(spec, keys.stranger), "E_ROM_KEY_UNKNOWN")
    yield HostileImage("a revoked key", forge(spec, keys.revoked), "E_ROM_KEY_REVOKED")
    yield HostileImage("a key for DEV", forge(spec, keys.dev), "E_ROM_KEY_TYPE")
    yield HostileImage(
        "the right key, a foreign signature",
        assemble(spec, (digest, key, other_signature)),
        "E_ROM_SIGNATURE",
    )
    yield HostileImage(
        "a foreign key, the right signature",
        assemble(spec, (digest, other_key, signature)),
        "E_ROM_KEY_UNKNOWN",
    )
    blank = Tlv(TlvType.PUBKEY, bytes(91))
    yield HostileImage("a key of zeros", assemble(spec, (digest, blank, signature)), "E_ROM_KEY_UNKNOWN")
    edited = replace(spec, version=(9, 0, 0, 0))
    patched = Tlv(TlvType.SHA256, edited.digest())
    yield HostileImage(
        "a changed image with its own digest", assemble(edited, (patched, key, signature)), "E_ROM_SIGNATURE"
    )
    yield HostileImage(
        "a changed image with the signed digest", assemble(edited, (digest, key, signature)), "E_ROM_DIGEST"
    )
    yield HostileImage(
        "a digest of zeros", assemble(spec, (Tlv(TlvType.SHA256, bytes(32)), key, signature)), "E_ROM_DIGEST"
    )


def blank_key_slots(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Start loaders on chips whose key slots are blank, invalid, damaged or of no type."""
    image, product = forge(ImageSpec(), rig.keys.loader), rig.victims.product
    base = fuse_map.KEY_SLOT
    for what, word, value, code in (
        ("not marked valid", base + fuse_map.KEY_SLOT_VALID, 0, "E_ROM_KEY_UNKNOWN"),
        (
            "marked valid but for a bit",
            base + fuse_map.KEY_SLOT_VALID,
            fuse_map.KEY_SLOT_VALID_WORD ^ 1,
            "E_ROM_KEY_UNKNOWN",
        ),
        ("of no type", base + fuse_map.KEY_SLOT_TYPE, 0, "E_ROM_KEY_TYPE"),
        ("of an invented type", base + fuse_map.KEY_SLOT_TYPE, KeyType.PROD ^ 1, "E_ROM_KEY_TYPE"),
        ("of type TEST", base + fuse_map.KEY_SLOT_TYPE, KeyType.TEST, "E_ROM_KEY_TYPE"),
        ("with a wrong Berger word", base + fuse_map.KEY_SLOT_HASH_WORDS, 0, "E_ROM_KEY_FUSES"),
    ):
        words = fuse_words(product)
        words[word] = value
        yield judge(f"key slot 0 {what}", rig.start(image, snapshot=with_fuses(product, words)), code)
    words = fuse_words(product)
    for slot in range(fuse_map.KEY_SLOT_COUNT):
        start = base + slot * fuse_map.KEY_SLOT_STRIDE
        words[start : start + fuse_map.KEY_SLOT_STRIDE] = [0] * fuse_map.KEY_SLOT_STRIDE
    yield judge(
        "all key slots blank", rig.start(image, snapshot=with_fuses(product, words)), "E_ROM_KEY_UNKNOWN"
    )
    for slot in range(fuse_map.KEY_SLOT_COUNT):
        for offset in (fuse_map.KEY_SLOT_REVOKED_A, fuse_map.KEY_SLOT_REVOKED_B):
            word = base + slot * fuse_map.KEY_SLOT_STRIDE + offset
            if slot == 0:
                for bit in range(32):
                    chip = with_bits(product, (word, 1 << bit))
                    yield judge(
                        f"revocation bit {bit} of word {word} alone",
                        rig.start(image, snapshot=chip),
                        "E_ROM_KEY_REVOKED",
                    )


def recovery_slot(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Spoil the primary loader, and put into the recovery slot what the primary slot would not start."""
    spec, keys = ImageSpec(), rig.keys
    good = forge(spec, keys.loader)
    older = forge(ImageSpec(protected=(counter_tlv(COUNTER - 1),)), keys.loader)
    hostile = (
        HostileImage("nothing", b"", "E_ROM_NO_IMAGE"),
        HostileImage(
            "an unsigned loader", assemble(spec, credentials(spec, keys.loader)[:2]), "E_ROM_UNSIGNED"
        ),
        HostileImage("a stranger's loader", forge(spec, keys.stranger), "E_ROM_KEY_UNKNOWN"),
        HostileImage("a revoked loader", forge(spec, keys.revoked), "E_ROM_KEY_REVOKED"),
        HostileImage("a loader for DEV", forge(spec, keys.dev), "E_ROM_KEY_TYPE"),
        HostileImage("an older loader", older, "E_ROM_ROLLBACK"),
    )
    for what, primary in (("erased", b"\xff" * 64), ("cut off", good[:64])):
        spoiled = HostileImage(f"primary {what}", primary.ljust(len(good), b"\0"), None)
        for image in hostile:
            named = replace(image, what=f"primary {what}, recovery: {image.what}")
            yield from list(start_pair(rig, (spoiled, named)))[1:]
        report = rig.start(spoiled.image, good)
        yield judge_equal(f"primary {what}, recovery whole", report, spec.digest())


# --- security counter ------------------------------------------------------------------------------------


def rollback_images(rig: Rig) -> Iterator[HostileImage]:
    """Bring signed loaders that are older than the fuses say, or of no age."""
    for value in range(COUNTER):
        spec = ImageSpec(protected=(counter_tlv(value),))
        yield HostileImage(f"counter {value}", forge(spec, rig.keys.loader), "E_ROM_ROLLBACK")
    for value in (128, 129, 255, 256 + COUNTER, 0x8000_0000 + COUNTER, 0xFFFF_FFFF):
        spec = ImageSpec(protected=(counter_tlv(value),))
        yield HostileImage(f"counter {value:#x}", forge(spec, rig.keys.loader), "E_ROM_COUNTER_RANGE")
    for value in (COUNTER, COUNTER + 1, 31, 32, 33, 127):
        spec = ImageSpec(protected=(counter_tlv(value),))
        yield HostileImage(f"counter {value}", forge(spec, rig.keys.loader), None, spec.digest())
    none = ImageSpec(protected=(Tlv(TlvType.BOOT_RECORD, b"x"),))
    yield HostileImage("no counter", forge(none, rig.keys.loader), "E_ROM_COUNTER_MISSING")
    outside = (*credentials(none, rig.keys.loader), counter_tlv(127))
    yield HostileImage("a counter outside the signature", assemble(none, outside), "E_ROM_COUNTER_MISSING")


def rollback_at_every_value(rig: Rig, effort: Effort) -> Iterator[Attempt]:
    """Raise the counter in the fuses to every value, and start a loader one below it."""
    for value in effort.pick(range(COUNTER + 1, 128), 6):
        chip = with_bits(rig.victims.product, *plan_counter(Counter.LOADER, value))
        below, level = (ImageSpec(protected=(counter_tlv(number),)) for number in (value - 1, value))
        yield judge(
            f"{value - 1} of {value}",
            rig.start(forge(below, rig.keys.loader), snapshot=chip),
            "E_ROM_ROLLBACK",
        )
        report = rig.start(forge(level, rig.keys.loader), snapshot=chip)
        yield judge_equal(f"{value} of {value}", report, level.digest())
    full = with_bits(rig.victims.product, *plan_counter(Counter.LOADER, 128))
    last = forge(ImageSpec(protected=(counter_tlv(127),)), rig.keys.loader)
    yield judge("127 of 128: retired", rig.start(last, snapshot=full), "E_ROM_ROLLBACK")


# --- usage constraints -----------------------------------------------------------------------------------


def usage_images(rig: Rig) -> Iterator[HostileImage]:
    """Bring loaders that are signed for another chip, product, revision or life cycle."""
    mine = read_fuses(fuse_words(rig.victims.product)).chip_id or b""
    other = read_fuses(fuse_words(rig.victims.other)).chip_id or b""
    here = UsageConstraints(
        life_cycle=LifeCycle.PROD, chip_id=mine, product_id=PRODUCT_ID, hardware_revision=HARDWARE_REVISION
    )
    signed = ImageSpec(protected=(counter_tlv(COUNTER), usage_tlv(build_usage(here))))
    yield HostileImage(
        "all constraints, all fulfilled", forge(signed, rig.keys.loader), None, signed.digest()
    )
    elsewhere = (
        ("another chip", UsageConstraints(chip_id=other)),
        ("another product", UsageConstraints(product_id=PRODUCT_ID + 1)),
        ("product 0", UsageConstraints(product_id=0)),
        ("another hardware revision", UsageConstraints(hardware_revision=HARDWARE_REVISION - 1)),
        *(
            (f"life cycle {state.name}", UsageConstraints(life_cycle=state))
            for state in LifeCycle
            if state is not LifeCycle.PROD
        ),
        *(
            (f"chip id but for bit {bit}", UsageConstraints(chip_id=_flip(mine, bit)))
            for bit in range(0, 256, 37)
        ),
        ("all fulfilled but the chip", replace(here, chip_id=other)),
    )
    for what, constraints in elsewhere:
        spec = ImageSpec(protected=(counter_tlv(COUNTER), usage_tlv(build_usage(constraints))))
        yield HostileImage(f"for {what}", forge(spec, rig.keys.loader), "E_ROM_USAGE")
        yield from _edited(rig, spec, what, here)
    value = bytearray(build_usage(UsageConstraints(product_id=PRODUCT_ID)))
    for what, word, content in (
        *((f"selector bit {bit}", 0, 1 << 9 | 1 << bit) for bit in range(11, 32)),
        *((f"unselected word {word} in use", word, 0) for word in (1, 2, 9, 11, 12, 15)),
        ("a spare word in use", 15, 0xA5A5_A5A4),
    ):
        struct.pack_into("<I", changed := bytearray(value), 4 * word, content)
        spec = ImageSpec(protected=(counter_tlv(COUNTER), usage_tlv(bytes(changed))))
        yield HostileImage(what, forge(spec, rig.keys.loader), "E_ROM_USAGE_SELECTOR")


def _flip(octets: bytes, bit: int) -> bytes:
    return bytes(octet ^ (1 << bit % 8 if at == bit // 8 else 0) for at, octet in enumerate(octets))


def _edited(rig: Rig, spec: ImageSpec, what: str, here: UsageConstraints) -> Iterator[HostileImage]:
    """Put this chip's facts where the other's stood; with the digest that this gives, and without."""
    mine = replace(spec, protected=(counter_tlv(COUNTER), usage_tlv(build_usage(here))))
    digest, key, signature = credentials(spec, rig.keys.loader)
    yield HostileImage(f"for {what}, edited", assemble(mine, (digest, key, signature)), "E_ROM_DIGEST")
    restated = Tlv(TlvType.SHA256, mine.digest())
    yield HostileImage(
        f"for {what}, edited with its digest", assemble(mine, (restated, key, signature)), "E_ROM_SIGNATURE"
    )


def life_cycle_keys(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Start loaders of every key in every life cycle; only the table's may start."""
    spec, keys = ImageSpec(), rig.keys
    stages = (
        (LifeCycle.TEST, rig.victims.test),
        (LifeCycle.DEV, rig.victims.dev),
        (LifeCycle.PROD, rig.victims.product),
        (LifeCycle.RMA, with_life_cycle(rig.victims.product, LifeCycle.RMA)),
        (LifeCycle.SCRAP, with_life_cycle(rig.victims.product, LifeCycle.SCRAP)),
    )
    signers = (
        ("loader", KeyType.PROD, keys.loader),
        ("spare", KeyType.PROD, keys.ed25519),
        ("DEV", KeyType.DEV, keys.dev),
    )
    for state, chip in stages:
        allowed = KEY_TYPES.get(state, frozenset())
        for name, kind, signer in signers:
            report = rig.start(forge(spec, signer), snapshot=chip)
            what = f"{name} key in {state.name}"
            if kind in allowed:
                yield judge_equal(what, report, spec.digest())
            else:
                yield judge(
                    what, report, "E_ROM_LIFE_CYCLE_SCRAP" if state is LifeCycle.SCRAP else "E_ROM_KEY_TYPE"
                )
        for name, signer, code in (
            ("revoked", keys.revoked, "E_ROM_KEY_REVOKED"),
            ("stranger's", keys.stranger, "E_ROM_KEY_UNKNOWN"),
        ):
            due = "E_ROM_LIFE_CYCLE_SCRAP" if state is LifeCycle.SCRAP else code
            yield judge(f"{name} key in {state.name}", rig.start(forge(spec, signer), snapshot=chip), due)
