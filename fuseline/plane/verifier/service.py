"""The attestation verifier: sessions, appraisals on record, signed results."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from sqlalchemy.dialects.sqlite import insert as upsert

import fuseline
from fuseline.errors import EvidenceError, FormatError, NonceInvalid, NonceSpent
from fuseline.formats import cose, ear, psa, rats, x509profile
from fuseline.plane.store.database import Database, Row, Transaction
from fuseline.plane.store.schema import appraisals, floors, reference_values, spent_nonces
from fuseline.plane.store.statements import compiled, insertion
from fuseline.plane.verifier import nonces
from fuseline.plane.verifier.appraisal import (
    POLICY_ID,
    Appraisal,
    ReferenceSet,
    TrustAnchor,
    appraise,
    verify_evidence,
)

_DEVELOPER = "Fuseline"

_REFERENCES = compiled(
    sa.select(reference_values)
    .where(reference_values.c.implementation_id == sa.bindparam("implementation_id"))
    .order_by(reference_values.c.release_id)
)
_INSERT_REFERENCE = insertion(
    reference_values,
    "release_id",
    "release_version",
    "security_counter",
    "implementation_id",
    "measurement_type",
    "measurement_value",
    "version",
    "signer_id",
)
_SPEND = insertion(spent_nonces, "nonce", "expires")
_FORGET = compiled(sa.delete(spent_nonces).where(spent_nonces.c.expires < sa.bindparam("now")))
_FLOOR = compiled(sa.select(floors.c.security_counter).where(floors.c.device_id == sa.bindparam("device_id")))
_raise = upsert(floors).values(
    device_id=sa.bindparam("device_id"), security_counter=sa.bindparam("security_counter")
)
_RAISE_FLOOR = compiled(
    _raise.on_conflict_do_update(
        index_elements=[floors.c.device_id],
        set_={"security_counter": sa.func.max(floors.c.security_counter, _raise.excluded.security_counter)},
    )
)
_RECORD = insertion(
    appraisals,
    "device_id",
    "at",
    "status",
    "reason",
    "release_id",
    "release_version",
    "measured",
    "evidence",
    "result",
    returning="id",
)
_latest_ids = sa.select(sa.func.max(appraisals.c.id)).group_by(appraisals.c.device_id)
_LATEST = compiled(sa.select(appraisals).where(appraisals.c.id.in_(_latest_ids)))
_FIRST_AFFIRMING = compiled(
    sa.select(appraisals)
    .where(appraisals.c.device_id == sa.bindparam("device_id"))
    .where(appraisals.c.status == sa.bindparam("affirming", ear.Tier.AFFIRMING.value))
    .order_by(appraisals.c.id)
    .limit(1)
)
_BY_ID = compiled(sa.select(appraisals).where(appraisals.c.id == sa.bindparam("id")))


@dataclass(frozen=True, slots=True)
class Attester:
    """The device behind a session, as the registry knows it."""

    device_id: int
    name: str
    implementation_id: bytes
    attestation_key: bytes


@dataclass(frozen=True, slots=True)
class AppraisalRecord:
    """An appraisal that is on record; `at` in seconds since the epoch."""

    appraisal_id: int
    device_id: int
    at: float
    status: str
    reason: str | None
    release_id: int | None
    release_version: str | None
    measured: bytes
    result: str


class AppraisalListener(Protocol):
    """Whoever acts on appraisals, in the same transaction."""

    def appraised(self, tx: Transaction, attester: Attester, record: AppraisalRecord) -> None:
        """Take note of an appraisal."""


class Verifier:
    """One fleet's verifier."""

    def __init__(
        self,
        database: Database,
        *,
        key: ec.EllipticCurvePrivateKey,
        nonce_secret: bytes,
        nonce_seconds: int,
        listener: AppraisalListener,
        randomness: Callable[[int], bytes],
    ) -> None:
        self._database = database
        self._sign = cose.signer_for(key)
        self._key_id = hashlib.sha256(x509profile.spki(key.public_key())).hexdigest()[:16]
        self._nonce_secret = nonce_secret
        self._nonce_seconds = nonce_seconds
        self._listener = listener
        self._randomness = randomness

    def new_session(self, device: str, now: float) -> tuple[str, rats.Session]:
        """Open a challenge-response session; returns its id and what the device gets to see."""
        expires = now + self._nonce_seconds
        nonce = nonces.mint(self._nonce_secret, device, expires=expires, random=self._randomness(8))
        return _session_id(nonce), _session(nonce, expires)

    async def answer(self, attester: Attester, session_id: str, evidence: bytes, now: float) -> rats.Session:
        """Appraise the evidence that answers a session.

        The nonce is spent by the first answer, whatever becomes of it.

        Raises:
            EvidenceError: The nonce or the evidence proves nothing; recorded as refused.
            FormatError: The evidence is not a token.
        """
        nonce = _session_nonce(session_id)
        expires = nonces.check(self._nonce_secret, attester.name, nonce, now)
        await self._database.write(lambda tx: _spend(tx, nonce, expires, now))
        try:
            verified = verify_evidence(evidence, nonce=nonce, anchor=_anchor(attester))
        except (EvidenceError, FormatError) as error:
            refusal = {"code": error.code, "message": error.message}
            await self._database.write(
                lambda tx: tx.emit("attestation.refused", now, attester.name, **refusal)
            )
            raise
        appraisal = appraise(
            verified, self._references(attester.implementation_id), floor=self.floor(attester.device_id)
        )
        result = self._result(attester, appraisal, nonce, now)
        await self._database.write(
            lambda tx: self._record(tx, attester, appraisal, evidence=evidence, result=result, now=now)
        )
        return _session(nonce, expires, result)

    def _result(self, attester: Attester, appraisal: Appraisal, nonce: bytes, now: float) -> str:
        claims = {
            "device": attester.name,
            "release": appraisal.matched.release_version if appraisal.matched else None,
            "measured": appraisal.measured.hex(),
            "reason": appraisal.reason,
            "explanation": appraisal.explanation,
        }
        return ear.encode(
            ear.AttestationResult(
                status=appraisal.status,
                vector=appraisal.vector,
                nonce=nonce,
                issued_at=int(now),
                policy_id=POLICY_ID,
                verifier_claims=claims,
            ),
            self._sign,
            developer=_DEVELOPER,
            build=f"fuseline {fuseline.__version__}",
            key_id=self._key_id,
        )

    def _record(
        self,
        tx: Transaction,
        attester: Attester,
        appraisal: Appraisal,
        *,
        evidence: bytes,
        result: str,
        now: float,
    ) -> None:
        matched = appraisal.matched
        row = tx.one(
            _RECORD,
            device_id=attester.device_id,
            at=now,
            status=appraisal.status.value,
            reason=appraisal.explanation if appraisal.reason else None,
            release_id=matched.release_id if matched else None,
            release_version=matched.release_version if matched else None,
            measured=appraisal.measured,
            evidence=evidence,
            result=result,
        )
        assert row is not None
        if matched is not None:
            tx.run(_RAISE_FLOOR, device_id=attester.device_id, security_counter=matched.security_counter)
        tx.emit(
            "attestation.affirmed" if matched else "attestation.contraindicated",
            now,
            attester.name,
            release=matched.release_version if matched else None,
            measured=appraisal.measured.hex(),
            status=appraisal.status.value,
            explanation=appraisal.explanation,
        )
        record = tx.one(_BY_ID, id=row[0])
        assert record is not None
        self._listener.appraised(tx, attester, _appraisal_record(record))

    def floor(self, device_id: int) -> int:
        """Return the highest security counter a device was seen to run; 0 for a new one."""
        row = self._database.one(_FLOOR, device_id=device_id)
        return int(row[0]) if row else 0

    def _references(self, implementation_id: bytes) -> list[ReferenceSet]:
        rows: dict[int, list[Row]] = {}
        for row in self._database.all(_REFERENCES, implementation_id=implementation_id):
            rows.setdefault(row["release_id"], []).append(row)
        return [
            ReferenceSet(
                release_id=release_id,
                release_version=members[0]["release_version"],
                security_counter=members[0]["security_counter"],
                components=frozenset(
                    (row["measurement_type"], row["measurement_value"], row["version"], row["signer_id"])
                    for row in members
                ),
            )
            for release_id, members in rows.items()
        ]

    def publish_references(
        self,
        tx: Transaction,
        *,
        release_id: int,
        release_version: str,
        security_counter: int,
        implementation_id: bytes,
        components: list[psa.SoftwareComponent],
    ) -> None:
        """Take a release's reference values, in the transaction that publishes the release."""
        for component in components:
            tx.run(
                _INSERT_REFERENCE,
                release_id=release_id,
                release_version=release_version,
                security_counter=security_counter,
                implementation_id=implementation_id,
                measurement_type=component.measurement_type,
                measurement_value=component.measurement_value,
                version=component.version,
                signer_id=component.signer_id,
            )

    def latest(self) -> dict[int, AppraisalRecord]:
        """Return each device's last appraisal, by device id."""
        return {row["device_id"]: _appraisal_record(row) for row in self._database.all(_LATEST)}

    def first_affirming(self, device_id: int) -> AppraisalRecord | None:
        """Return a device's first affirming appraisal."""
        row = self._database.one(_FIRST_AFFIRMING, device_id=device_id)
        return _appraisal_record(row) if row else None

    def by_id(self, appraisal_id: int) -> AppraisalRecord | None:
        """Return one appraisal."""
        row = self._database.one(_BY_ID, id=appraisal_id)
        return _appraisal_record(row) if row else None


def _appraisal_record(row: Row) -> AppraisalRecord:
    return AppraisalRecord(
        appraisal_id=row["id"],
        device_id=row["device_id"],
        at=row["at"],
        status=row["status"],
        reason=row["reason"],
        release_id=row["release_id"],
        release_version=row["release_version"],
        measured=row["measured"],
        result=row["result"],
    )


def _anchor(attester: Attester) -> TrustAnchor:
    key = load_der_public_key(attester.attestation_key)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return TrustAnchor(key, attester.implementation_id)


def _spend(tx: Transaction, nonce: bytes, expires: float, now: float) -> None:
    tx.run(_FORGET, now=now)  # a stale nonce is refused before it is looked up
    try:
        tx.run(_SPEND, nonce=nonce, expires=expires)
    except sqlite3.IntegrityError as error:
        raise NonceSpent("the nonce was answered before") from error


def _session(nonce: bytes, expires: float, result: str | None = None) -> rats.Session:
    return rats.Session(
        nonce=base64.b64encode(nonce).decode(),
        expiry=dt.datetime.fromtimestamp(expires, dt.UTC).isoformat(),
        accept=[psa.MEDIA_TYPE],
        status="complete" if result else "waiting",
        result=result,
    )


def _session_id(nonce: bytes) -> str:
    return base64.urlsafe_b64encode(nonce).rstrip(b"=").decode()


def _session_nonce(session_id: str) -> bytes:
    try:
        return base64.b64decode(session_id + "=" * (-len(session_id) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise NonceInvalid("not a session of this verifier") from error
