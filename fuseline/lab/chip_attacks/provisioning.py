"""Attacks in the factory, and on what a chip keeps of it: enrolment, noise, and cuts of the supply."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from fuseline.device.silicon import fuse_map
from fuseline.device.silicon.command_port import CommandPort
from fuseline.device.silicon.fuse_map import LifeCycle
from fuseline.device.silicon.memory_map import FLASH_BLOCK, HELPER_A, HELPER_B, ResetReason, Strap
from fuseline.device.silicon.power import PowerLost
from fuseline.device.silicon.puf import HELPER_SIZE
from fuseline.device.silicon.report import BootReport, Outcome
from fuseline.device.silicon.silicon import Silicon
from fuseline.device.silicon.trng import NoiseFault
from fuseline.errors import FuselineError
from fuseline.formats.dice import NONCE_SIZE
from fuseline.lab.chip.bench import Bench
from fuseline.lab.chip.provisioning import Provisioning, Step
from fuseline.lab.chip_attacks.forge import ImageSpec, forge
from fuseline.lab.chip_attacks.identity import same_identity
from fuseline.lab.chip_attacks.model import Attempt, Effort, Verdict, escaped, expect, judge, refused
from fuseline.lab.chip_attacks.rig import AtCommand, fuse_words, lab_manifest, with_fuses, with_life_cycle
from fuseline.lab.puf.attacks import flip_code_bit

if TYPE_CHECKING:
    from fuseline.device.silicon.silicon import SiliconSnapshot
    from fuseline.lab.chip_attacks.rig import Rig

_CHECK_VALUE: Final = slice(fuse_map.PUF_CHECK, fuse_map.PUF_ENROLLED + 1)
_ANSWER_SIZE: Final = 32 + 64 + 64


# --- the provisioning strap ------------------------------------------------------------------------------


def provisioning_strap(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Use the factory's strap on chips that left the factory: enrol, start a loader, get a signature."""
    product = rig.victims.product
    unenrolled = fuse_words(rig.victims.dev)
    unenrolled[_CHECK_VALUE] = [0] * len(unenrolled[_CHECK_VALUE])
    begun = fuse_words(rig.victims.test)
    begun[fuse_map.PUF_ENROLLED] = 0
    for what, chip, code in (
        ("an unenrolled chip in DEV", with_fuses(rig.victims.dev, unenrolled), "E_ROM_PUF_ENROL"),
        ("a returned chip", with_life_cycle(product, LifeCycle.RMA), "E_ROM_PROVISION_STATE"),
        ("a scrapped chip", with_life_cycle(product, LifeCycle.SCRAP), "E_ROM_LIFE_CYCLE_SCRAP"),
        ("a blank chip", with_fuses(product, [0] * fuse_map.FUSE_WORDS), "E_ROM_LIFE_CYCLE_BLANK"),
    ):
        before = rig.insert(chip).fuses.content()
        yield judge(f"enrol {what}", rig.boot(_loader(rig), strap=Strap.PROVISION), code)
        yield expect(f"fuses of {what}", rig.silicon.fuses.content() == before, "untouched", "blown")
    yield from _other_helper(rig, begun)
    yield from _starts_nothing(rig)
    yield from _signing_oracle(rig)


def _loader(rig: Rig) -> bytes:
    return forge(ImageSpec(), rig.keys.loader)


def _other_helper(rig: Rig, begun: list[int]) -> Iterator[Attempt]:
    """An enrolment that lost power after its check value was blown is finished with other helper data."""
    silicon = rig.insert(with_fuses(rig.victims.test, begun))
    foreign = rig.victims.other.non_volatile.flash.blocks[HELPER_A // FLASH_BLOCK][:HELPER_SIZE]
    for what, helper in (("another chip's", foreign), ("erased", b"\xff" * HELPER_SIZE)):
        silicon.restore(with_fuses(rig.victims.test, begun))
        silicon.flash.external_write(HELPER_A, helper)
        silicon.flash.external_write(HELPER_B, helper)
        before = silicon.fuses.content()
        yield judge(
            f"finish an enrolment with {what} helper data", rig.boot(strap=Strap.PROVISION), "E_ROM_PUF_ENROL"
        )
        yield expect(f"fuses, {what} helper data", silicon.fuses.content() == before, "untouched", "blown")


def _starts_nothing(rig: Rig) -> Iterator[Attempt]:
    rig.insert()
    report = rig.boot(_loader(rig), strap=Strap.PROVISION)
    started = report.outcome is Outcome.BOOTED
    yield expect("a loader under the factory's strap", not started, report.outcome.value, "booted")


def _signing_oracle(rig: Rig) -> Iterator[Attempt]:
    """Have the IDevID key sign a digest of one's choice: the nonce is never all that is signed."""
    record = rig.start(_loader(rig)).record
    if record is None:
        yield escaped("the IDevID key as an oracle", "the victim does not boot")
        return
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(record.idevid_public[:32], "big"),
        int.from_bytes(record.idevid_public[32:], "big"),
        ec.SECP256R1(),
    )
    key = numbers.public_key()
    nonce = b"this is a certificate, to be signed"[:NONCE_SIZE]
    rig.insert()
    rig.boot(strap=Strap.PROVISION, mailbox=nonce)
    answer = bytes(rig.chip.mailbox_data[NONCE_SIZE : NONCE_SIZE + _ANSWER_SIZE])
    body, signature = nonce + answer[:96], answer[96:]
    der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    for what, message in (("the nonce", nonce), ("nonce, chip id and key", body), ("nothing", b"")):
        yield _verifies(f"a signature over {what}", key, der, message, due=False)
    yield _verifies(
        "a signature over its purpose and all of it", key, der, b"fuseline idevid request" + body, due=True
    )


def _verifies(what: str, key: ec.EllipticCurvePublicKey, der: bytes, message: bytes, *, due: bool) -> Attempt:
    try:
        key.verify(der, message, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return escaped(what, "the control failed") if due else refused(what, "does not verify")
    return Attempt(what, Verdict.EQUAL, "as the factory expects") if due else escaped(what, "verifies")


# --- enrolment -------------------------------------------------------------------------------------------


def broken_helper_at_enrolment(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Spoil one copy of the helper data in flash at each command of an enrolment.

    A chip that blows its fuses for helper data it cannot use is lost.
    """
    for copy, offset in (("A", HELPER_A), ("B", HELPER_B)):
        number, done = 0, False
        while not done:
            number += 1
            silicon = rig.insert(rig.victims.fresh)

            def spoil(chip: Silicon, at: int = offset) -> None:
                chip.flash.external_write(at + 100, bytes(64))

            port = AtCommand(silicon, number, spoil)
            silicon.port = port
            try:
                report = rig.boot(strap=Strap.PROVISION)
            finally:
                silicon.port = CommandPort(silicon)
            done = port.rung < number
            what = f"copy {copy} spoiled at command {number}"
            yield from _enrolled_or_untouched(rig, what, report)


def planted_helper(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Plant helper data in flash before a chip is enrolled; the chip must enrol itself, or blow nothing."""
    foreign = rig.victims.other.non_volatile.flash.blocks[HELPER_A // FLASH_BLOCK][:HELPER_SIZE]
    own = rig.victims.product.non_volatile.flash.blocks[HELPER_A // FLASH_BLOCK][:HELPER_SIZE]
    for what, helper in (
        ("another chip's", foreign),
        ("zeros", bytes(HELPER_SIZE)),
        ("a header and nothing else", foreign[:16].ljust(HELPER_SIZE, b"\0")),
        ("a header and erased flash", foreign[:16].ljust(HELPER_SIZE, b"\xff")),
        ("40 code bits complemented", _complemented(own)),
    ):
        silicon = rig.insert(rig.victims.fresh)
        silicon.flash.external_write(HELPER_A, helper)
        silicon.flash.external_write(HELPER_B, helper)
        yield from _enrolled_or_untouched(rig, f"{what}, planted", rig.boot(strap=Strap.PROVISION))


def _complemented(helper: bytes) -> bytes:
    for bit in range(40):
        helper = flip_code_bit(helper, bit)
    return helper


def _enrolled_or_untouched(rig: Rig, what: str, report: BootReport) -> Iterator[Attempt]:
    """Judge an enrolment: a chip that blew its fuses for helper data that it cannot use is lost."""
    if report.outcome is Outcome.PROVISIONED:
        booted = rig.boot(_loader(rig))
        usable = booted.error is None or not booted.error.code.startswith("E_ROM_PUF")
        yield expect(what, usable, "enrolled, and has its secret", "enrolled without a secret: lost")
        return
    yield judge(what, report)
    blown = any(fuse_words(rig.silicon.snapshot())[_CHECK_VALUE])
    yield expect(f"fuses, {what}", not blown, "untouched", "blown for helper data that are not whole")


def stuck_noise(rig: Rig, _effort: Effort) -> Iterator[Attempt]:
    """Boot, enrol and ask for a debug challenge with a noise source that is stuck or biased."""
    mine = rig.start(_loader(rig)).record
    for ones in (0.0, 0.1, 0.9, 1.0):
        silicon = rig.insert()
        silicon.trng.fault = NoiseFault(ones)
        yield same_identity(f"boot, {ones:.0%} ones", mine, rig.boot(_loader(rig)))
        silicon = rig.insert()
        silicon.trng.fault = NoiseFault(ones)
        report = rig.boot(_loader(rig), strap=Strap.DEBUG)
        yield judge(f"debug challenge, {ones:.0%} ones", report, "E_ROM_PORT")
        silicon = rig.insert(rig.victims.fresh)
        silicon.trng.fault = NoiseFault(ones)
        yield judge(f"enrolment, {ones:.0%} ones", rig.boot(strap=Strap.PROVISION), "E_ROM_PUF_ENROL")
        blown = any(fuse_words(silicon.snapshot())[_CHECK_VALUE])
        yield expect(f"fuses, {ones:.0%} ones", not blown, "untouched", "blown")
    rig.silicon.trng.fault = None


# --- cuts of the supply ----------------------------------------------------------------------------------


def cut_enrolment(rig: Rig, effort: Effort) -> Iterator[Attempt]:
    """Cut the supply at each operation of the ROM's enrolment, start a stranger's loader, and enrol again."""
    stranger = forge(ImageSpec(), rig.keys.stranger)
    silicon = rig.insert(rig.victims.fresh)
    rig.boot(strap=Strap.PROVISION)
    operations = silicon.power.operations
    for cut in effort.pick(range(1, operations + 1), 37):
        silicon = rig.insert(rig.victims.fresh)
        silicon.power.cut_at = cut
        report = rig.boot(strap=Strap.PROVISION)
        silicon.power.cut_at = None
        what = f"cut at operation {cut} of {operations}"
        yield expect(what, report.outcome is Outcome.POWER_LOST, "power lost", report.outcome.value)
        left = silicon.snapshot()
        yield judge(f"{what}, then a stranger's loader", rig.boot(stranger))
        rig.insert(left)
        again = rig.boot(strap=Strap.PROVISION)
        if again.outcome is not Outcome.PROVISIONED:
            yield judge(f"{what}, then again", again)
            continue
        booted = rig.boot(_loader(rig), reason=ResetReason.COLD)
        secret = booted.error is None or not booted.error.code.startswith("E_ROM_PUF")
        yield expect(
            f"{what}, then again", secret, "enrolled, and has its secret", "enrolled without a secret"
        )


def cut_provisioning(rig: Rig, effort: Effort) -> Iterator[Attempt]:
    """Cut the supply at each operation of the factory's flow, bring what a product refuses, and go on.

    Always with the package's own ROM, as factories do.
    """
    moments, operations = _flow(rig)
    for cut in effort.pick(range(1, operations + 1), 97):
        snapshot = max((one for one in moments if one.power[0] < cut), key=lambda one: one.power[0])
        silicon = Silicon(snapshot.seed)
        silicon.restore(snapshot)
        silicon.power.cut_at = cut
        what = f"cut at operation {cut} of {operations}"
        with contextlib.suppress(PowerLost):
            _provision(rig, silicon)
        silicon.power.cut_at = None
        left = silicon.snapshot()
        for name, signer in (("stranger's", rig.keys.stranger), ("revoked", rig.keys.revoked)):
            rig.insert(left)
            yield judge(
                f"{what}, {name} loader", rig.boot(forge(ImageSpec(), signer), forge(ImageSpec(), signer))
            )
        try:
            _provision(rig, silicon)
        except FuselineError as error:
            yield refused(f"{what}, then on", error.code)
            continue
        reached = silicon.fuses.life_cycle is LifeCycle.PROD
        yield expect(f"{what}, then on", reached, "a product", "neither product nor error")


def _provision(rig: Rig, silicon: Silicon, moments: list[SiliconSnapshot] | None = None) -> None:
    def note(_step: Step) -> None:
        if moments is not None:
            moments.append(silicon.snapshot())

    Provisioning(Bench(silicon, rig.engine), lab_manifest(), now=dt.datetime.now(dt.UTC), progress=note).run()


def _flow(rig: Rig) -> tuple[list[SiliconSnapshot], int]:
    """Return a chip after each step of the flow, and how many operations it takes."""
    silicon = Silicon(rig.victims.fresh.seed)
    silicon.restore(rig.victims.fresh)
    moments = [silicon.snapshot()]
    _provision(rig, silicon, moments)
    return moments, silicon.power.operations
