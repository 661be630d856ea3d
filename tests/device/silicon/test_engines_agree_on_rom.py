"""The boot ROM comes to the same verdict, and leaves the same chip, on two independent processor models."""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from fuseline.device.silicon import fuse_plans
from fuseline.device.silicon.chip import Chip
from fuseline.device.silicon.engine import Limits
from fuseline.device.silicon.fuse_map import Counter, LifeCycle
from fuseline.device.silicon.fuse_plans import FusePlan
from fuseline.device.silicon.fuses import Origin
from fuseline.device.silicon.memory_map import (
    HELPER_A,
    LOADER_PRIMARY,
    LOADER_RECOVERY,
    LOADER_SLOT_SIZE,
    MAILBOX,
    MAILBOX_DATA,
    MAILBOX_DATA_SIZE,
    RAM_BASE,
    RAM_SIZE,
    RETENTION,
    RETENTION_SIZE,
    DebugState,
    ResetReason,
    Strap,
)
from fuseline.device.silicon.qemu_engine import QEMU, QemuEngine
from fuseline.device.silicon.rom import probe_image, rom_image
from fuseline.device.silicon.run import Engine
from fuseline.device.silicon.silicon import Silicon, SiliconSnapshot
from fuseline.device.silicon.unicorn_engine import UnicornEngine
from fuseline.formats.usage import UsageConstraints
from fuseline.lab.chip.bench import Bench
from fuseline.lab.chip.factory import LoaderSpec, make_factory, sign_loader
from fuseline.lab.chip.manifest import read_manifest
from fuseline.lab.chip.provisioning import Provisioning, wafer_test

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which(QEMU) is None, reason="qemu-system-arm is not installed"),
]
LIMITS = Limits(seconds=30)
NOW = dt.datetime.now(dt.UTC)


IMAGES = {
    "good": ("loader-0", LoaderSpec(security_counter=1)),
    "newer": ("loader-1", LoaderSpec(version="2.1.0", security_counter=3)),
    "rolled back": ("loader-0", LoaderSpec(security_counter=0)),
    "wrong key": ("loader-test", LoaderSpec(security_counter=1)),
    "other product": ("loader-0", LoaderSpec(usage=UsageConstraints(product_id=1))),
}


@dataclass(frozen=True)
class Line:
    """Images, an engine, and a chip of each kind; loader counter 1 stands in the product's fuses."""

    images: dict[str, bytes]
    unicorn: UnicornEngine
    tested: SiliconSnapshot
    product: SiliconSnapshot


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """One chip fresh from wafer test, and one that was provisioned."""
    factory, unicorn = make_factory(tmp_path_factory.mktemp("rom") / "factory"), UnicornEngine()
    images = {
        name: sign_loader(probe_image(), factory.key(key), spec) for name, (key, spec) in IMAGES.items()
    }
    silicon = Silicon(11)
    wafer_test(silicon)
    tested = silicon.snapshot(ram=True)
    bench = Bench(silicon, unicorn)
    Provisioning(bench, read_manifest(factory.manifest), now=NOW, progress=lambda _: None).run()
    return Line(images, unicorn, tested, silicon.snapshot(ram=True))


@dataclass(frozen=True)
class Case:
    """What is done to a product, how it is reset, and what the ROM says to the last reset.

    Attributes:
        verdict: The outcome, or the error code of a refusal.
        primary, recovery: Names in `IMAGES` of what is in flash; None for what provisioning put there.
        prepare: Anything else.
        resets: Reason, strap and mailbox of each boot.
        blank: Start from a chip fresh from wafer test instead.
    """

    verdict: str
    primary: str | None = None
    recovery: str | None = None
    prepare: Callable[[Silicon], object] = bool
    resets: tuple[tuple[ResetReason, Strap, bytes], ...] = ((ResetReason.COLD, Strap.NORMAL, b""),)
    blank: bool = False


def _blow(plan: FusePlan) -> Callable[[Silicon], object]:
    return lambda silicon: silicon.fuses.blow_all(plan, Origin.MACHINE_CODE)


def _overwrite(*places: tuple[int, bytes]) -> Callable[[Silicon], object]:
    def prepare(silicon: Silicon) -> None:
        for offset, octets in places:
            silicon.flash.external_write(offset, octets)

    return prepare


def _both(octets: bytes, offset: int = 0) -> Callable[[Silicon], object]:
    return _overwrite((LOADER_PRIMARY + offset, octets), (LOADER_RECOVERY + offset, octets))


def _returned(steps: slice) -> Callable[[Silicon], object]:
    def prepare(silicon: Silicon) -> None:
        silicon.reset()
        silicon.state.debug = DebugState.OPEN
        silicon.fuses.blow_all(fuse_plans.plan_life_cycle(LifeCycle.RMA)[steps])

    return prepare


def _emptied(silicon: Silicon) -> None:
    silicon.keys.zeroise()


def _weak_supply(silicon: Silicon) -> None:
    silicon.power.cut_at = silicon.power.operations + 700


COLD, WARM, UPDATE = ((reason, Strap.NORMAL, b"") for reason in ResetReason)
PROVISION = (ResetReason.COLD, Strap.PROVISION, bytes(range(32)))
DEBUG = (ResetReason.COLD, Strap.DEBUG, b"")
BAD_RESPONSE = (ResetReason.WARM, Strap.DEBUG, b"\x5b\0\0\0" + bytes(91 + 64))

CASES = {
    "good": Case("booted"),
    "newer": Case("booted", primary="newer"),
    "recovery": Case("booted", primary="rolled back", recovery="good"),
    "rolled back": Case("E_ROM_ROLLBACK", primary="rolled back", recovery="rolled back"),
    "wrong key": Case("E_ROM_KEY_UNKNOWN", primary="wrong key", recovery="wrong key"),
    "other product": Case("E_ROM_USAGE", primary="other product", recovery="other product"),
    "erased": Case("E_ROM_NO_IMAGE", prepare=_both(b"\xff" * 4096)),
    "flipped payload": Case("E_ROM_DIGEST", prepare=_both(b"\x01", 0x300)),
    "flipped header": Case("E_ROM_TLV_PROTECTED", prepare=_both(b"\x01", 0x0C)),
    "revoked key": Case("E_ROM_KEY_REVOKED", prepare=_blow(fuse_plans.plan_revocation(0))),
    "raised counter": Case("E_ROM_ROLLBACK", prepare=_blow(fuse_plans.plan_counter(Counter.LOADER, 2))),
    "half returned": Case("E_ROM_LIFE_CYCLE_CODE", prepare=_returned(slice(1))),
    "returned": Case("booted", prepare=_returned(slice(2))),
    "helper A lost": Case("booted", prepare=_overwrite((HELPER_A, bytes(4096)))),
    "helper lost": Case("E_ROM_PUF_CHECK", prepare=_overwrite((HELPER_A, bytes(8192)))),
    "warm": Case("booted", resets=(COLD, WARM)),
    "update": Case("booted", resets=(COLD, UPDATE)),
    "update of nothing": Case("E_ROM_UPDATE_RECORD", prepare=_emptied, resets=(UPDATE,)),
    "identity request": Case("provisioned", resets=(PROVISION,)),
    "debug challenge": Case("stopped", resets=(DEBUG,)),
    "debug refused": Case("E_ROM_DEBUG_KEY", resets=(DEBUG, BAD_RESPONSE)),
    "enrolment": Case("provisioned", resets=(PROVISION,), blank=True),
    "enrolment cut": Case("power-lost", prepare=_weak_supply, resets=(PROVISION,), blank=True),
}


def _memory(silicon: Silicon) -> list[object]:
    # Not the mailbox's words: QEMU runs on for some instructions before it is killed, and the ROM asks again.
    buffer = (MAILBOX + MAILBOX_DATA, MAILBOX_DATA_SIZE)
    windows = ((RAM_BASE, RAM_SIZE), buffer, (RETENTION, RETENTION_SIZE))
    digests = [hashlib.sha256(silicon.psram.view(*window)).hexdigest() for window in windows]
    return [*digests, silicon.keys.filled(), silicon.locks, silicon.fuses.content(), silicon.power.operations]


def _boots(line: Line, case: Case, engine: Engine) -> tuple[list[object], str]:
    """Boot a copy of the chip as the case says; return all that can be told of it, and the last verdict."""
    start = line.tested if case.blank else line.product
    silicon = Silicon(start.seed)
    silicon.restore(start)
    for offset, name in ((LOADER_PRIMARY, case.primary), (LOADER_RECOVERY, case.recovery)):
        if name is not None:
            silicon.flash.external_write(offset, line.images[name].ljust(LOADER_SLOT_SIZE, b"\xff"))
    case.prepare(silicon)
    told, verdict = list[object](), ""
    for reason, strap, mailbox in case.resets:
        chip = Chip(silicon)
        report = chip.boot(
            engine, rom=rom_image(), reason=reason, strap=strap, mailbox=mailbox, limits=LIMITS
        )
        facts = report.as_dict()
        del facts["engine"], facts["instructions"]
        told += [facts, report.record, *_memory(silicon)]
        verdict = report.error.code if report.error else report.outcome.value
    return told, verdict


@pytest.mark.parametrize("name", CASES)
def test_the_rom_comes_to_the_same_verdict_on_both_engines(line: Line, name: str) -> None:
    case = CASES[name]
    told, verdict = _boots(line, case, line.unicorn)
    assert told == _boots(line, case, QemuEngine())[0]
    assert verdict == case.verdict
