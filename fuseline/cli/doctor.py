"""`fuseline doctor`: what is missing or misconfigured, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import ssl
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from fuseline.cli.output import DEFAULT_STATE, AsJson, State, print_json, print_table
from fuseline.device.element import provider
from fuseline.errors import FuselineError, SchemaVersion, ToolMissing
from fuseline.lab.factory import open_fleet
from fuseline.lab.releases import imgtool
from fuseline.plane.config import PlaneConfig
from fuseline.plane.serve import Running, device_tls
from fuseline.plane.store import migrate

_MIN_FREE = 200 * 1024 * 1024  # bytes: a fleet of a hundred devices and its releases


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `state` is ok, note or fail."""

    check: str
    state: str
    found: str
    advice: str = ""


def doctor(*, state: State = DEFAULT_STATE, as_json: AsJson = False) -> int:
    """Say what is missing or misconfigured; ends with status 1 if something must be mended."""
    folder = state.resolve()
    findings = [*_machine(), *_state(folder)]
    healthy = all(finding.state != "fail" for finding in findings)
    if as_json:
        print_json({"healthy": healthy, "findings": [asdict(finding) for finding in findings]})
    else:
        rows = [[one.check, one.state, one.found, one.advice] for one in findings]
        print_table("Doctor", ["check", "state", "found", "what to do"], rows)
    return 0 if healthy else 1


def _machine() -> Iterator[Finding]:
    yield Finding("operating system", *_when(sys.platform == "linux", platform.platform(), "use Linux"))
    version = platform.python_version()
    yield Finding("Python", *_when(sys.version_info >= (3, 11), version, "install Python 3.11 or later"))
    yield _asked("element key in TLS", _key_provider, failing="note")
    yield _asked("imgtool", lambda: str(imgtool()), failing="fail")
    yield _asked("chip engine", _chip_engine, failing="note")
    yield _program("QEMU (second chip engine)", "qemu-system-arm")
    yield _program("Chromium (browser test)", "chromium")


def _program(check: str, package: str) -> Finding:
    """Look for a program that Debian's package of the same name brings, and that nobody has to have."""
    path = shutil.which(package)
    return (
        Finding(check, "ok", path) if path else Finding(check, "note", "none", f"apt-get install {package}")
    )


def _chip_engine() -> str:
    try:
        # Loaded here: an installation that only runs a plane lacks the extra `chip`.
        from fuseline.device.silicon.cortexm.unicorn_layout import layout  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise ToolMissing("the emulated chip's packages are not installed", package=missing.name) from missing
    layout()
    return f"Unicorn {metadata.version('unicorn')}"


def _key_provider() -> str:
    provider.available()
    return f"provider, {ssl.OPENSSL_VERSION}"


def _plane_tls(config: PlaneConfig) -> str:
    device_tls(config)
    return "certificate and chain load"


def _state(folder: Path) -> Iterator[Finding]:
    if not folder.exists():
        yield Finding("state folder", "note", f"{folder} does not exist", "`fuseline up` makes it")
        return
    free = shutil.disk_usage(folder).free
    yield Finding("disk", *_when(free > _MIN_FREE, f"{free // 2**20} MiB free", "make room"))
    yield _asked("fleet", lambda: f"{len(open_fleet(folder).device_names)} devices, development")
    loose = list(_readable_secrets(folder))
    yield Finding(
        "secrets",
        *_when(not loose, f"{len(loose)} readable by others", "chmod 600: " + ", ".join(map(str, loose[:5]))),
    )
    try:
        config = PlaneConfig.load(folder / "plane")
    except FuselineError as error:
        yield Finding("plane", "fail", error.message, error.hint)
        return
    yield _asked("plane keys", lambda: f"{len(config.load_keys().release_keys)} release key(s) trusted")
    yield _asked("plane TLS", lambda: _plane_tls(config))
    yield _schema(config)
    yield _running(config)


def _schema(config: PlaneConfig) -> Finding:
    if not config.database.exists():
        return Finding("database", "note", "not made yet", "the plane makes it when it starts")
    try:
        revision = migrate.current(config.database)
    except SchemaVersion as error:
        return Finding("database", "fail", error.message, error.hint)
    return Finding(
        "database",
        *_when(revision == migrate.head(), f"revision {revision}", "fuseline plane migrate"),
    )


def _running(config: PlaneConfig) -> Finding:
    try:
        running = Running.of(config)
        os.kill(running.pid, 0)
    except (FuselineError, ProcessLookupError):
        return Finding("plane running", "note", "no", "fuseline up, or fuseline plane serve")
    return Finding("plane running", "ok", f"process {running.pid}, {running.operator_url}")


def _when(good: bool, found: str, advice: str) -> tuple[str, str, str]:
    return ("ok", found, "") if good else ("fail", found, advice)


def _asked(check: str, ask: Callable[[], str], *, failing: str = "fail") -> Finding:
    try:
        return Finding(check, "ok", ask())
    except FuselineError as error:
        return Finding(check, failing, error.message, error.hint)


def _readable_secrets(folder: Path) -> Iterator[Path]:
    patterns = ("**/*.key", "**/*.secret", "**/operator.token", "devices/*/element/secret")
    for pattern in patterns:
        for path in folder.glob(pattern):
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                yield path.relative_to(folder)
