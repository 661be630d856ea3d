"""The three services of one worker, wired to each other through their interfaces."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from fuseline.plane.config import PlaneConfig, PlaneKeys
from fuseline.plane.ota.controller import ControllerService
from fuseline.plane.ota.releases import Releases
from fuseline.plane.ota.rollouts import Measurement, Rollouts
from fuseline.plane.registry.directory import Directory
from fuseline.plane.registry.enrolment import Enrolment
from fuseline.plane.registry.identity import Identifier
from fuseline.plane.store.database import Database, Transaction
from fuseline.plane.verifier.service import AppraisalRecord, Attester, Verifier


class _FinishUpdates:
    """Passes what the verifier finds on to the rollouts: done means measured."""

    def __init__(self, rollouts: Rollouts) -> None:
        self._rollouts = rollouts

    def appraised(self, tx: Transaction, attester: Attester, record: AppraisalRecord) -> None:
        """Take note of an appraisal."""
        found = Measurement(
            appraisal_id=record.appraisal_id,
            device_id=record.device_id,
            device=attester.name,
            at=record.at,
            release_id=record.release_id,
            running=record.release_version or f"no known release ({record.measured.hex()[:16]})",
        )
        self._rollouts.measured(tx, found)


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a request handler may need."""

    config: PlaneConfig
    database: Database
    identifier: Identifier
    enrolment: Enrolment
    directory: Directory
    verifier: Verifier
    releases: Releases
    rollouts: Rollouts
    controller: ControllerService

    @classmethod
    def wire(cls, config: PlaneConfig, keys: PlaneKeys) -> Services:
        """Open the database and wire the services; call it after the fork."""
        database = Database(config.database)
        directory = Directory(database, keys.factory_ca)
        rollouts = Rollouts(database)
        verifier = Verifier(
            database,
            key=keys.verifier_key,
            nonce_secret=keys.nonce_secret,
            nonce_seconds=config.settings.nonce_seconds,
            listener=_FinishUpdates(rollouts),
            randomness=secrets.token_bytes,
        )
        releases = Releases(
            database,
            config.artifacts,
            release_keys=keys.release_keys,
            references=verifier,
            hardware=directory,
        )
        return cls(
            config=config,
            database=database,
            identifier=Identifier(database, factory_ca=keys.factory_ca, operational_ca=keys.operational_ca),
            enrolment=Enrolment(
                database,
                root=keys.root,
                ca=keys.operational_ca,
                ca_key=keys.operational_ca_key,
                lifetime=config.settings.ldevid_seconds,
            ),
            directory=directory,
            verifier=verifier,
            releases=releases,
            rollouts=rollouts,
            controller=ControllerService(
                database, releases, rollouts, poll_seconds=config.settings.poll_seconds
            ),
        )
