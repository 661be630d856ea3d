"""The whole device as one process tree for one power cycle: power, boot, application, agent."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from fuseline.device.agent.agent import Agent, Boot, Outcome
from fuseline.device.agent.config import DeviceConfig
from fuseline.device.agent.journal import Journal
from fuseline.device.agent.link import Line, TlsMode
from fuseline.device.agent.update import Installer
from fuseline.device.element.client import ElementClient, ElementPower
from fuseline.device.firmware import loader
from fuseline.device.firmware.loader import BootDecision
from fuseline.device.firmware.slots import SlotStore
from fuseline.device.os.application import Application
from fuseline.errors import AppUnhealthy, BindRefused
from fuseline.formats.measurement import measure_image


class Device:
    """An embedded-Linux-class device."""

    def __init__(
        self, folder: Path, *, plane: str, tls: TlsMode, journal: Journal, config: DeviceConfig
    ) -> None:
        """Prepare the device in `folder` for the plane at URL `plane` (https://host:port)."""
        url = urlsplit(plane)
        if url.scheme != "https" or url.hostname is None or url.port is None:
            raise BindRefused("the plane's address is https://HOST:PORT", plane=plane)
        self._host, self._port = url.hostname, url.port
        self._config = config
        self._tls = tls.resolve()
        self._journal = journal
        self._store = SlotStore(folder / "slots", config.settings.slot_size)
        self._power = ElementPower(folder / "element", dial=(f"{self._host}:{self._port}",))
        self._stop = threading.Event()

    def stop(self) -> None:
        """End the device after what it is doing; safe in a signal handler."""
        self._stop.set()

    def run(self) -> Outcome:
        """Live one power cycle: power on, boot, run, power off.

        After `Outcome.RESTART` the caller MUST start a new process for the next cycle: a restart that kept
        this one's memory would be none.

        Raises:
            BootNoImage: Nothing may run; the device needs recovery.
            ElementError: The element does not come up.
        """
        try:
            element = self._power.on()
            self._journal.write(
                "silicon", "power.on", counter=element.counter(), element="virtual", pid=self._power.pid
            )
            outcome = self._boot_once(element)
            element.close()
        finally:
            self._power.dispose()
        if outcome is Outcome.RESTART and not self._stop.is_set():
            self._journal.write("silicon", "restart")
            return Outcome.RESTART
        return Outcome.STOP

    def _boot_once(self, element: ElementClient) -> Outcome:
        started = time.monotonic()
        decision = loader.boot(
            self._store,
            keys=self._config.release_keys,
            hardware=self._config.hardware_id,
            counter_floor=element.counter(),
        )
        component = measure_image(decision.image)
        element.record(component, decision.image.security_counter)
        element.close_boot()
        if decision.confirmed:
            element.advance_counter()
        self._journal_boot(decision, element.counter(), time.monotonic() - started)
        application = Application.start(bytes(decision.image.payload), self._config.folder / "app")
        try:
            return self._live(element, decision, application)
        finally:
            application.stop()

    def _journal_boot(self, decision: BootDecision, counter: int, seconds: float) -> None:
        if decision.reverted is not None:
            reverted = decision.reverted
            self._journal.write("boot", "reverted", version=str(reverted.version), reason=reverted.reason)
        for refused in decision.refused:
            self._journal.write("boot", "refused", slot=refused.slot, code=refused.code)
        self._journal.write(
            "boot",
            "measured",
            slot=decision.slot,
            version=str(decision.image.version),
            digest=decision.image.digest.hex(),
            signer_id=decision.image.signer_id.hex(),
            confirmed=decision.confirmed,
            counter=counter,
            took=round(seconds, 4),
        )

    def _live(self, element: ElementClient, decision: BootDecision, application: Application) -> Outcome:
        try:
            seconds = application.wait_ready(self._config.settings.app_seconds)
            self._journal.write("os", "application.ready", took=round(seconds, 3))
        except AppUnhealthy as error:
            self._journal.write("os", "application.unhealthy", **error.as_dict())
            if not decision.confirmed:
                return Outcome.RESTART  # the trial is lost; the loader goes back
            # A confirmed image has nowhere to go back to, so the agent must live to fetch a better one.
        line = Line(
            host=self._host,
            port=self._port,
            plane_name=self._config.settings.plane_name,
            trust_pem=self._config.trust_pem(),
            element=element,
            relay_path=self._power.relay_path,
            mode=self._tls,
        )

        def confirm() -> None:
            self._store.confirm(decision.slot)
            element.advance_counter()

        agent = Agent(
            self._config,
            boot=Boot(decision, confirm),
            line=line,
            installer=Installer(self._config, self._store),
            journal=self._journal,
            stop=self._stop,
        )
        return agent.run()
