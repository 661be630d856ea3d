"""The agent's round: enrol, attest, poll, update; and what to do when any of it fails."""

from __future__ import annotations

import enum
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from fuseline.device.agent import enrol as est_client
from fuseline.device.agent.attest import attest
from fuseline.device.agent.config import DeviceConfig
from fuseline.device.agent.enrol import Ldevid
from fuseline.device.agent.journal import Journal
from fuseline.device.agent.link import Identity, Line, PlaneLink
from fuseline.device.agent.update import Installer, PendingUpdate, Progress, Task, UpdateClient
from fuseline.device.element.interface import KeySlot, SecureElement
from fuseline.device.firmware.loader import BootDecision
from fuseline.errors import (
    DeviceError,
    ElementError,
    FormatError,
    FuselineError,
    ImageError,
    PlaneRefused,
    PlaneUnreachable,
)
from fuseline.formats.ddi import Execution, Finished

_FIRST_BACKOFF, _LAST_BACKOFF = 0.5, 60.0  # seconds
_JITTER = 0.2  # share of every wait, so that a fleet does not come back as one

# A server that closes in the handshake says nothing of the reason. After so many of these, the certificate
# may be what it does not like (a slow clock here cannot tell), and the IDevID gets another.
_SILENT_REFUSALS = 3

# What a round may fail with and the device go on.
Recoverable = (DeviceError, ElementError, FormatError)


class Outcome(enum.Enum):
    """Why the agent's round ended."""

    RESTART = "restart"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Boot:
    """The running boot, as the agent needs it.

    Attributes:
        decision: What the loader chose.
        confirm: Makes the running image permanent and raises the counter.
    """

    decision: BootDecision
    confirm: Callable[[], None]

    @property
    def version(self) -> str:
        """The running version."""
        return str(self.decision.image.version)


class Agent:
    """One device's agent, for one boot."""

    def __init__(
        self,
        config: DeviceConfig,
        *,
        boot: Boot,
        line: Line,
        installer: Installer,
        journal: Journal,
        stop: threading.Event,
    ) -> None:
        self._config = config
        self._boot = boot
        self._line = line
        self._installer = installer
        self._journal = journal
        self._stop = stop
        self._on_trial = not boot.decision.confirmed
        self._ldevid: Ldevid | None = None
        self._link: PlaneLink | None = None
        self._attested_at: float | None = None
        self._backoff = _FIRST_BACKOFF
        self._silent_refusals = 0
        self._distrusted: str | None = None  # serial of an LDevID that the plane does not take

    @property
    def _element(self) -> SecureElement:
        return self._line.element

    def run(self) -> Outcome:
        """Work until the device must restart or stop."""
        trial_ends = time.monotonic() + self._config.settings.trial_seconds
        while not self._stop.is_set():
            try:
                wait = self._round()
                self._backoff, self._silent_refusals = _FIRST_BACKOFF, 0
            except Recoverable as error:
                self._note_failure(error)
                wait, self._backoff = self._backoff, min(self._backoff * 2, _LAST_BACKOFF)
            if wait is None:
                return Outcome.RESTART
            if self._on_trial and time.monotonic() > trial_ends:
                self._journal.write("firmware", "trial.failed", reason="the plane was not reached in time")
                return Outcome.RESTART
            self._stop.wait(wait * (1 + random.uniform(-_JITTER, _JITTER)))  # noqa: S311 - not a secret
        if self._link is not None:
            self._link.close()
        return Outcome.STOP

    def _note_failure(self, error: FuselineError) -> None:
        if isinstance(error, PlaneUnreachable) and isinstance(error.__cause__, ConnectionResetError):
            self._silent_refusals += 1
        if self._ldevid is not None and (
            (isinstance(error, PlaneRefused) and est_client.must_enrol_again(error, self._ldevid))
            or self._silent_refusals >= _SILENT_REFUSALS
        ):
            self._silent_refusals = 0
            self._distrusted = self._ldevid.serial
            self._drop_link()
        self._journal.write("application", "trouble", **error.as_dict())

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link, self._ldevid = None, None

    def _round(self) -> float | None:
        """Do everything that is due; returns seconds to wait, None to restart into a new image."""
        link = self._connected()
        if self._on_trial:
            UpdateClient(self._config, link).poll()  # the plane is reached with the new image: it is well
            self._boot.confirm()
            self._on_trial = False
            self._journal.write(
                "firmware", "image.confirmed", version=self._boot.version, counter=self._element.counter()
            )
        if self._attestation_due():
            self._attest(link)
        return self._serve_plane(UpdateClient(self._config, link), link)

    # --- identity -----------------------------------------------------------------------------------

    def _connected(self) -> PlaneLink:
        """Return a link under a usable operational certificate, getting or renewing one if needed."""
        now = time.time()
        current = self._ldevid or est_client.stored(self._config)
        if current is None or not current.usable(now) or current.serial == self._distrusted:
            self._drop_link()
            current = est_client.enrol(self._config, self._line)
            self._journal.write(
                "application",
                "enrolled",
                ldevid_serial=current.serial,
                not_after=current.not_after,
                tls=self._line.mode.value,
            )
        elif self._link is not None and current.due(now):
            current = est_client.renew(self._config, self._line, self._link, current)
            self._drop_link()
            self._journal.write(
                "application", "renewed", ldevid_serial=current.serial, not_after=current.not_after
            )
        if self._link is None:
            self._link = PlaneLink(self._line, Identity(KeySlot.LDEVID, current.pem))
        self._ldevid = current
        return self._link

    # --- attestation --------------------------------------------------------------------------------

    def _attestation_due(self) -> bool:
        if self._attested_at is None:
            return True
        return time.monotonic() - self._attested_at >= self._config.settings.attest_seconds

    def _attest(self, link: PlaneLink) -> None:
        started = time.monotonic()
        verdict = attest(link, self._element)
        self._attested_at = time.monotonic()
        self._journal.write(
            "application",
            "attested",
            status=verdict.status,
            release=verdict.release,
            explanation=verdict.explanation,
            took=round(self._attested_at - started, 4),
        )

    # --- update -------------------------------------------------------------------------------------

    def _serve_plane(self, client: UpdateClient, link: PlaneLink) -> float | None:
        self._tell_end(client)
        offer = client.poll()
        if offer.config_data is not None:
            settings = self._config.settings
            client.tell_attributes(
                offer.config_data,
                {"hardware": settings.hardware, "vendor": settings.vendor, "version": self._boot.version},
            )
        if offer.deployment is None:
            return float(offer.sleep)
        return self._carry_out(client, link, client.task(offer.deployment), offer.sleep)

    def _tell_end(self, client: UpdateClient) -> None:
        """Tell the plane how the last update ended, once it is known which image runs."""
        pending = self._installer.pending
        if pending is None:
            return
        try:
            self._report_end(client, pending)
        except PlaneRefused as error:
            if error.evidence.get("plane_code") != "E_NOT_FOUND":
                raise
            # A plane that has lost the action must not keep the device from its next one.
            self._journal.write("application", "trouble", **error.as_dict())
        self._installer.told()

    def _report_end(self, client: UpdateClient, pending: PendingUpdate) -> None:
        decision = self._boot.decision
        if pending.digest == decision.image.digest.hex():
            client.report(pending.action, Execution.CLOSED, Finished.SUCCESS, f"runs {pending.version}")
            return
        if not pending.installed and decision.reverted is None:
            return  # the power went before there was anything to try; the plane still offers it
        reason = decision.reverted.reason if decision.reverted else "the new image did not boot"
        refused = [f"slot {entry.slot}: {entry.code}" for entry in decision.refused]
        text = f"reverted to {self._boot.version}: {reason}"
        client.report(pending.action, Execution.CLOSED, Finished.FAILURE, text, *refused)

    def _carry_out(self, client: UpdateClient, link: PlaneLink, task: Task, sleep: int) -> float | None:
        started = time.monotonic()
        self._journal.write("firmware", "update.started", action=task.action, version=task.version)
        client.report(task.action, Execution.PROCEEDING, Finished.NONE, "downloading")
        try:
            path = self._installer.download(link, task, self._progress())
            image = self._installer.install(
                path, task, running=self._boot.decision, counter=self._element.counter()
            )
        except (ImageError, FormatError) as error:
            self._journal.write("firmware", "update.refused", **error.as_dict())
            client.report(task.action, Execution.CLOSED, Finished.FAILURE, f"{error.code}: {error.message}")
            return float(sleep)
        self._journal.write(
            "firmware",
            "update.installed",
            action=task.action,
            version=str(image.version),
            digest=image.digest.hex(),
            bytes=image.size,
            slot=1 - self._boot.decision.slot,
            took=round(time.monotonic() - started, 3),
        )
        try:
            client.report(task.action, Execution.PROCEEDING, Finished.NONE, "installed; restarting into it")
        except Recoverable as error:
            # Whatever becomes of this courtesy: the next thing to do is the restart.
            self._journal.write("application", "trouble", **error.as_dict())
        link.close()
        return None

    def _progress(self) -> Progress:
        """Return what journals one download, and where it was taken up."""
        start: int | None = None

        def note(done: int, size: int) -> None:
            nonlocal start
            start = done if start is None else start
            if done == size:
                self._journal.write("firmware", "update.downloaded", bytes=size, resumed_from=start)

        return note
