"""The command line as people and scripts use it: exit statuses, --json, and errors that say what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fuseline.lab.factory import HARDWARE, VENDOR, DevelopmentFleet

if TYPE_CHECKING:
    from tests.conftest import RunningPlane


def _fuseline(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuseline", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


def _json(*arguments: str) -> Any:
    done = _fuseline(*arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def _error(*arguments: str) -> dict[str, Any]:
    done = _fuseline(*arguments, "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    return dict(json.loads(done.stdout)["error"])


def test_help_names_every_noun() -> None:
    done = _fuseline("--help")
    assert done.returncode == 0
    for noun in ("up", "doctor", "factory", "plane", "device", "release", "rollout"):
        assert noun in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("up", "--devices", "0"),
        ("up", "--timeout", "-1"),
        ("up", "--tls", "magic"),
        ("plane", "serve", "--device-port", "70000"),
        ("plane", "serve", "--workers", "0"),
        ("device", "run", "x"),
        ("device", "revoke", "x"),
    ],
)
def test_wrong_usage_is_told_and_does_nothing(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = _fuseline(*arguments, cwd=tmp_path)
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nouns_on_a_folder_without_a_fleet_say_what_to_do(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path))
    for arguments in (
        ("plane", "serve"),
        ("plane", "migrate"),
        ("device", "list"),
        ("device", "show", "x"),
        ("device", "run", "x", "--plane", "https://127.0.0.1:1"),
        ("release", "list"),
        ("rollout", "start", "2.0.0", "--vendor", "v", "--hardware", "h"),
    ):
        error = _error(*arguments, *state)
        assert (arguments, error["code"]) == (arguments, "E_STATE_MISSING")
        assert "fuseline up" in error["hint"]


def test_people_get_the_same_error_with_the_next_step(tmp_path: Path) -> None:
    done = _fuseline("device", "list", "--state", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("E_STATE_MISSING: ")
    assert "next: " in done.stderr


def test_an_operator_sees_publishes_rolls_out_and_revokes(plane: RunningPlane, tmp_path: Path) -> None:
    state = ("--state", str(plane.fleet.state))
    device = plane.soft_device()
    names = [one["name"] for one in _json("device", "list", *state)["devices"]]
    assert device.name in names
    assert _json("device", "show", device.name, *state)["stage"] == "enrolled"
    assert {one["version"] for one in _json("release", "list", *state)["releases"]} == {"1.0.0", "2.0.0"}

    image = tmp_path / "image.bin"
    image.write_bytes(plane.fleet.release("2.0.0"))
    hardware = ("--vendor", VENDOR, "--hardware", HARDWARE)
    assert _json("release", "publish", str(image), *hardware, *state)["version"] == "2.0.0"
    image.write_bytes(b"not an image")
    error = _error("release", "publish", str(image), *hardware, *state)
    assert error["evidence"]["plane_code"] == "E_IMAGE_MALFORMED"
    assert (
        _error("release", "publish", str(tmp_path / "gone"), *hardware, *state)["code"] == "E_STATE_MISSING"
    )

    assert device.name in _json("rollout", "start", "2.0.0", *hardware, *state)["devices"]
    assert _json("device", "revoke", device.name, "--reason", "lost", *state) == {"revoked": device.name}
    shown = _fuseline("device", "show", device.name, *state)
    assert "revoked" in shown.stdout
    for verb in (("device", "list"), ("release", "list")):
        assert _fuseline(*verb, *state).returncode == 0


def test_a_fleet_is_made_once_and_with_the_devices_it_was_made_with(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "fleet"))
    made = _json("factory", "init", "--devices", "2", *state)
    assert len(made["devices"]) == 2
    assert _json("factory", "init", *state) == made
    assert _error("factory", "init", "--devices", "3", *state)["code"] == "E_STATE_MISMATCH"


def test_the_database_is_made_by_migrate(make_fleet: Callable[..., DevelopmentFleet]) -> None:
    fleet = make_fleet(devices=1)
    assert _json("plane", "migrate", "--state", str(fleet.state))["revision"] == "0001"
    assert (fleet.plane / "fuseline.db").stat().st_mode & 0o077 == 0


# --- doctor ------------------------------------------------------------------------------------------


def _findings(state: Path) -> tuple[int, dict[str, str]]:
    done = _fuseline("doctor", "--state", str(state), "--json")
    document = json.loads(done.stdout)
    assert document["healthy"] == (done.returncode == 0)
    return done.returncode, {one["check"]: one["state"] for one in document["findings"]}


def test_the_doctor_finds_a_healthy_fleet_healthy(plane: RunningPlane) -> None:
    status, findings = _findings(plane.fleet.state)
    assert status == 0
    assert findings["plane running"] == "ok"
    assert "fail" not in findings.values()
    assert "imgtool" in _fuseline("doctor", "--state", str(plane.fleet.state)).stdout


def test_the_doctor_notes_that_there_is_nothing_yet(tmp_path: Path) -> None:
    status, findings = _findings(tmp_path / "nothing")
    assert (status, findings["state folder"]) == (0, "note")


@pytest.mark.parametrize(
    ("break_it", "check"),
    [
        (lambda fleet: (fleet.plane / "operational-ca.key").chmod(0o644), "secrets"),
        (lambda fleet: (fleet.plane / "nonce.secret").unlink(), "plane keys"),
        (lambda fleet: (fleet.plane / "server.pem").write_text("no certificate"), "plane TLS"),
        (lambda fleet: (fleet.plane / "plane.toml").write_text("fleet = 1"), "plane"),
        (lambda fleet: (fleet.plane / "release-keys/release.pem").unlink(), "plane keys"),
        (lambda fleet: (fleet.plane / "fuseline.db").write_bytes(b"SQLite? no, not at all" * 99), "database"),
    ],
    ids=["loose key", "no secret", "no certificate", "settings", "no release key", "no database"],
)
def test_the_doctor_names_what_is_broken(
    make_fleet: Callable[..., DevelopmentFleet], break_it: Callable[[DevelopmentFleet], object], check: str
) -> None:
    fleet = make_fleet(devices=1)
    break_it(fleet)
    status, findings = _findings(fleet.state)
    assert (status, findings[check]) == (1, "fail")
