"""Provisioning: what a factory does to a chip, from wafer test to a product with an identity.

Every step first looks at what the chip already is. So a flow that was cut anywhere, in the middle of a fuse
too, is finished by running it again; and a chip that was begun with another manifest is refused before
anything is blown.

Order is the point: nothing that cannot be repeated happens before what it depends on is seen to be whole, and
the life cycle moves last.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from fuseline.device.silicon import fuse_map, fuse_plans
from fuseline.device.silicon.fuse_map import Counter, LifeCycle
from fuseline.device.silicon.fuse_plans import FusePlan
from fuseline.device.silicon.fuse_view import FuseView, read_fuses
from fuseline.device.silicon.memory_map import Strap
from fuseline.device.silicon.power import PowerLost
from fuseline.device.silicon.report import BootReport, Outcome
from fuseline.errors import (
    ProvisioningConflict,
    ProvisioningFailed,
    ProvisioningLifeCycle,
)
from fuseline.formats import dice, x509profile
from fuseline.formats.dice import VerifiedChain, VerifiedIdentityRequest
from fuseline.lab.chip.bench import LOADER_SLOTS, Bench

if TYPE_CHECKING:
    from fuseline.device.silicon.silicon import Silicon
    from fuseline.lab.chip.manifest import ChipManifest

_CHIP_ID_LABEL: Final = b"fuseline wafer test chip id"
_BACKDATE: Final = dt.timedelta(hours=1)
_PROVISIONABLE: Final = frozenset({LifeCycle.TEST, LifeCycle.DEV, LifeCycle.PROD})


@dataclass(frozen=True, slots=True)
class Step:
    """One step of provisioning, done.

    Attributes:
        name: What it is about.
        changed: False if the chip was so already.
        detail: For a person.
    """

    name: str
    changed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Provisioned:
    """A chip that is a product.

    Attributes:
        chip_id: 32 octets.
        name: The device's dNSName.
        steps: What was done, in order.
        chain: The chip's certificates, verified up to the factory CA.
        certificate: The IDevID certificate.
        boot: The last boot, which reached the loader.
    """

    chip_id: bytes
    name: str
    steps: tuple[Step, ...]
    chain: VerifiedChain
    certificate: x509.Certificate
    boot: BootReport


def wafer_test(silicon: Silicon) -> None:
    """Do what wafer test does to a blank chip: give it its id, and let it run.

    The id is derived from the seed, so that a chip made again is the same chip.

    Raises:
        ProvisioningLifeCycle: The chip is not blank.
    """
    if silicon.fuses.life_cycle_begun is not LifeCycle.BLANK:
        raise ProvisioningLifeCycle(
            "only a blank chip goes to wafer test", life_cycle=silicon.fuses.life_cycle.name
        )
    seed = silicon.seed.to_bytes(32, "big")
    silicon.fuses.blow_all(fuse_plans.plan_chip_id(hashlib.sha256(_CHIP_ID_LABEL + seed).digest()))
    silicon.fuses.blow_all(fuse_plans.plan_life_cycle(LifeCycle.TEST))


class Provisioning:
    """Provisions one chip.

    Args:
        bench: The chip, and the engine that runs its machine code.
        manifest: What goes into it.
        now: The factory's time, with a time zone.
        progress: Told each step when it is done; a good moment to save the chip.
    """

    def __init__(
        self,
        bench: Bench,
        manifest: ChipManifest,
        *,
        now: dt.datetime,
        progress: Callable[[Step], None],
    ) -> None:
        self._bench = bench
        self._silicon = bench.silicon
        self._manifest = manifest
        self._now = now
        self._progress = progress
        self._steps: list[Step] = []

    def run(self) -> Provisioned:
        """Bring the chip to PROD, from wherever it stands.

        Raises:
            ProvisioningLifeCycle: It is blank, returned or scrapped.
            ProvisioningConflict: It was begun with another manifest.
            ProvisioningFailed: A step did not have its result.
            SiliconError: The fuses or the flash refused.
            PowerLost: A rehearsed cut of the supply.
        """
        self._silicon.reset()
        self._check_life_cycle()
        self._check_conflicts()
        self._complete_half_blown()
        chip_id = self._view().chip_id
        if chip_id is None:
            raise ProvisioningFailed("the chip has no id: its wafer test was not finished")
        self._enrol()
        self._fuses()
        self._loaders()
        self._life_cycle()
        request = self._identity_request(chip_id)
        certificate = self._identity(request)
        boot, chain = self._first_boot(certificate)
        return Provisioned(
            chip_id, self._manifest.device_name(chip_id), tuple(self._steps), chain, certificate, boot
        )

    def _done(self, name: str, detail: str, *, changed: bool) -> None:
        step = Step(name, changed, detail)
        self._steps.append(step)
        self._progress(step)

    def _view(self) -> FuseView:
        return read_fuses(self._bench.certain_fuses())

    def _check_life_cycle(self) -> None:
        begun = self._silicon.fuses.life_cycle_begun
        if begun not in _PROVISIONABLE:
            raise ProvisioningLifeCycle("only chips after wafer test are provisioned", life_cycle=begun.name)

    def _plans(self) -> dict[str, FusePlan]:
        manifest = self._manifest
        plans = {"product": fuse_plans.plan_product(manifest.product_id, manifest.hardware_revision)}
        for key in manifest.keys:
            plans[f"key slot {key.slot} ({key.type.name})"] = fuse_plans.plan_key(
                key.slot, key.digest, key.type
            )
        if manifest.debug_authority is not None:
            digest = hashlib.sha256(manifest.debug_authority).digest()
            plans["debug authority"] = fuse_plans.plan_debug_authority(digest)
        plans["loader counter"] = fuse_plans.plan_counter(Counter.LOADER, manifest.loader_counter)
        return plans

    def _check_conflicts(self) -> None:
        """Refuse a chip whose product, keys or debug authority are not the manifest's."""
        wanted: dict[int, int] = {}
        for plan in self._plans().values():
            for word, mask in plan:
                wanted[word] = wanted.get(word, 0) | mask
        certain = self._bench.certain_fuses()
        for field in fuse_map.FIELDS:
            if not field.name.startswith(("product", "debug authority", "key ")) or "revoked" in field.name:
                continue
            berger = 1 if field.protection is fuse_map.Protection.BERGER else 0
            for word in range(field.word, field.word + field.words + berger):
                foreign = (certain[word] | self._silicon.fuses.margin(word)) & ~wanted.get(word, 0)
                if foreign:
                    raise ProvisioningConflict(
                        "the fuses hold something that the manifest does not",
                        field=field.name,
                        word=word,
                        bits=f"{foreign:#010x}",
                    )

    # 0. What a failing supply left: a half-blown fuse was meant to be blown, or nobody would have touched it.
    def _complete_half_blown(self) -> None:
        fuses = self._silicon.fuses
        half_blown = [(word, fuses.margin(word)) for word in range(fuse_map.FUSE_WORDS) if fuses.margin(word)]
        if fuses.life_cycle is LifeCycle.PROD:
            return  # the port is closed; what is half-blown now is the loader's to complete
        for word, mask in half_blown:
            fuses.blow(word, mask)
        if half_blown:
            self._silicon.reset()
            bits = sum(mask.bit_count() for _, mask in half_blown)
            self._done("half-blown fuses", f"{bits} completed", changed=True)

    # 1. The PUF: its helper data are in flash and its check value in fuses before anything else is blown.
    def _enrol(self) -> None:
        view = self._view()
        if view.puf_enrolled and view.puf_check is not None:
            self._done("PUF", "enrolled already", changed=False)
            return
        report = self._bench.boot(strap=Strap.PROVISION)
        self._silicon.reset()
        view = self._view()
        if report.outcome is not Outcome.PROVISIONED or not view.puf_enrolled or view.puf_check is None:
            raise ProvisioningFailed("the PUF was not enrolled", **_why(report))
        self._done("PUF", f"enrolled, check value {view.puf_check.hex()}", changed=True)

    # 2. Everything that the ROM will hold the loader against.
    def _fuses(self) -> None:
        for name, plan in self._plans().items():
            certain = self._bench.certain_fuses()
            missing = sum((mask & ~certain[word]).bit_count() for word, mask in plan)
            if missing:
                self._silicon.fuses.blow_all(plan)
            self._done(
                f"fuses: {name}", f"{missing} bits blown" if missing else "blown already", changed=missing > 0
            )

    # 3. Both copies of the loader.
    def _loaders(self) -> None:
        loader = self._manifest.loader
        for name, offset in LOADER_SLOTS.items():
            changed = self._bench.write_loader(offset, loader)
            detail = f"{len(loader)} octets" if changed else "there already"
            self._done(f"flash: {name} loader", detail, changed=changed)

    # 4. From here on only PROD keys count and the debug port is closed.
    def _life_cycle(self) -> None:
        for state in (LifeCycle.DEV, LifeCycle.PROD):
            if self._silicon.fuses.life_cycle >= state:
                self._done(f"life cycle {state.name}", "reached already", changed=False)
                continue
            self._silicon.fuses.blow_all(fuse_plans.plan_life_cycle(state))
            self._silicon.reset()
            self._done(f"life cycle {state.name}", "reached", changed=True)

    # 5. The identity exists only in PROD: the life cycle is part of its derivation.
    def _identity_request(self, chip_id: bytes) -> VerifiedIdentityRequest:
        nonce = secrets.token_bytes(dice.NONCE_SIZE)
        report = self._bench.boot(strap=Strap.PROVISION, mailbox=nonce)
        window = self._bench.chip.mailbox_data
        answer = bytes(window[dice.NONCE_SIZE : dice.NONCE_SIZE + dice.REQUEST_SIZE])
        if report.outcome is not Outcome.PROVISIONED:
            raise ProvisioningFailed("the chip did not answer the factory's challenge", **_why(report))
        request = dice.verify_identity_request(answer, nonce=nonce, chip_id=chip_id)
        digest = hashlib.sha256(x509profile.spki(request.key)).hexdigest()
        self._done("identity request", f"signed inside by key {digest[:16]}…", changed=False)
        return request

    # 6. The factory CA certifies the key that the chip has shown to have.
    def _identity(self, request: VerifiedIdentityRequest) -> x509.Certificate:
        found = self._bench.read_identity()
        if found is not None and self._is_for(found, request):
            self._done("IDevID certificate", "in flash already", changed=False)
            return found
        certificate = x509profile.issue_device_id_certificate(
            chip_id=request.chip_id,
            name=self._manifest.device_name(request.chip_id),
            key=request.key,
            issuer=self._manifest.ca,
            issuer_key=self._manifest.ca_key,
            serial=x509.random_serial_number(),
            not_before=self._now - _BACKDATE,
        )
        self._bench.write_identity(certificate.public_bytes(Encoding.DER))
        serial = x509profile.serial_text(certificate.serial_number)
        self._done("IDevID certificate", f"issued, serial {serial}", changed=True)
        return certificate

    def _is_for(self, certificate: x509.Certificate, request: VerifiedIdentityRequest) -> bool:
        # Decides only whether to issue another one; the chain is verified after the first boot in any case.
        try:
            certificate.verify_directly_issued_by(self._manifest.ca)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return certificate.public_key() == request.key

    # 7. The proof: it boots, and what it hands over leads back to the factory.
    def _first_boot(self, certificate: x509.Certificate) -> tuple[BootReport, VerifiedChain]:
        report = self._bench.boot()
        record = report.record
        if report.outcome is not Outcome.BOOTED or record is None:
            raise ProvisioningFailed("the finished chip does not start its loader", **_why(report))
        chain = dice.verify_chain(
            [certificate.public_bytes(Encoding.DER), record.certificate],
            anchor=self._manifest.ca,
            now=self._now,
        )
        if chain.layers[0].measurement != record.measurement:
            raise ProvisioningFailed("the loader's certificate is of another loader than the one that runs")
        self._done("first boot", f"loader {record.loader_version}, DICE chain verified", changed=False)
        return report, chain


def _why(report: BootReport) -> dict[str, object]:
    if report.outcome is Outcome.POWER_LOST:
        raise PowerLost(report.stop.detail)
    facts: dict[str, object] = {"outcome": report.outcome.value, "detail": report.stop.detail}
    if report.error is not None:
        facts |= {
            "rom_code": report.error.code,
            "requirement": report.error.requirement,
            "text": report.error.text,
        }
    return facts
