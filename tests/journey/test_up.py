"""`fuseline up`: the main job as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.journey


def _up(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuseline", "up", "--state", str(state), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


def _processes(marker: str) -> list[int]:
    """Return the processes whose command line names a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_the_journey_ends_with_every_device_attested_on_the_new_release(tmp_path: Path) -> None:
    state = tmp_path / "fleet"
    done = _up(state, "--until-attested", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["target"] == "2.0.0"
    assert len(document["devices"]) == 3
    serials: set[str] = set()
    for device in document["devices"]:
        stages = [stage["stage"] for stage in device["stages"]]
        assert stages == ["manufactured", "booted", "enrolled", "attested", "booted", "updated"]
        manufactured, first, enrolled, attested, second, updated = (s["evidence"] for s in device["stages"])
        serials |= {manufactured["idevid_serial"], enrolled["ldevid_serial"]}
        assert (first["version"], second["version"]) == ("1.0.0", "2.0.0")
        # What the device measured, what the verifier saw, and what the release is: one digest each.
        assert first["digest"] == attested["measured"]
        assert second["digest"] == updated["measured"] == device["measured"]
        assert (device["release"], device["security_counter"]) == ("2.0.0", 2)
        assert all(stage["seconds"] >= 0 for stage in device["stages"][1:])
    assert len(serials) == 6
    assert "update.proven" in done.stderr  # the story was told where people read it
    assert not _processes(str(state))

    again = _up(state, "--until-attested", "--json")
    assert again.returncode == 0, again.stderr
    document = json.loads(again.stdout)
    for device in document["devices"]:
        assert [s["evidence"]["version"] for s in device["stages"] if s["stage"] == "booted"] == ["2.0.0"]
        assert device["release"] == "2.0.0"
        assert sum(stage["stage"] == "updated" for stage in device["stages"]) == 1  # it went on, not anew


def test_a_journey_that_takes_too_long_says_which_stage_and_leaves_nothing_running(tmp_path: Path) -> None:
    state = tmp_path / "fleet"
    done = _up(state, "--until-attested", "--json", "--timeout", "2.2", "--devices", "1")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["error"]["code"] == "E_JOURNEY_TIMEOUT"
    assert document["stage"] == document["error"]["evidence"]["stage"]
    assert document["stage"] in ("plane", "attest", "update")
    assert not _processes(str(state))


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("not a fleet")
    done = _up(tmp_path, "--until-attested")
    assert done.returncode == 1
    assert "E_STATE_MISSING" in done.stderr
    document = json.loads(_up(tmp_path, "--until-attested", "--json").stdout)
    assert (document["stage"], document["error"]["code"]) == ("factory", "E_STATE_MISSING")
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.fixture
def start_up() -> Iterator[Callable[[Path, Path], subprocess.Popen[str]]]:
    """Start `fuseline up` without an end; it ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(state: Path, log: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fuseline", "up", "--state", str(state), "--devices", "1"]
        with log.open("w") as out:
            started.append(subprocess.Popen(command, stdout=out, stderr=out, text=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(20)


Start = Callable[[Path, Path], "subprocess.Popen[str]"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_every_child_ends_with_its_parent(
    tmp_path: Path, start_up: Start, wait: Callable[..., Any], number: signal.Signals
) -> None:
    state, log = tmp_path / "fleet", tmp_path / "up.log"
    process = start_up(state, log)
    wait(lambda: "console" in log.read_text(), "the console's address", 60)
    text = log.read_text()
    assert (state / "plane/operator.token").read_text().strip() in text
    assert "\x1b[" not in text  # plain when not a terminal
    assert len(_processes(str(state))) >= 4  # up, plane and worker, device, element
    process.send_signal(number)
    status = process.wait(20)
    assert status == (-number if number is signal.SIGKILL else 0)
    deadline = time.monotonic() + 10
    while _processes(str(state)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _processes(str(state))


def test_a_second_run_on_the_same_folder_is_refused_and_the_first_goes_on(
    tmp_path: Path, start_up: Start, wait: Callable[..., Any]
) -> None:
    state, log = tmp_path / "fleet", tmp_path / "up.log"
    process = start_up(state, log)
    wait(lambda: "console" in log.read_text(), "the console's address", 60)
    done = _up(state, "--until-attested", "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "E_JOURNEY_PROCESS"
    assert error["evidence"]["last_words"].startswith("E_STATE_BUSY")
    assert process.poll() is None
    assert (state / "plane/run.json").exists()


def test_a_device_that_dies_ends_the_journey_with_its_name(
    tmp_path: Path, start_up: Start, wait: Callable[..., Any]
) -> None:
    state, log = tmp_path / "fleet", tmp_path / "up.log"
    process = start_up(state, log)
    wait(lambda: "console" in log.read_text(), "the console's address", 60)
    [device] = [
        pid for pid in _processes(str(state)) if "device\0run" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    os.kill(device, signal.SIGKILL)
    assert process.wait(20) == 1
    assert "E_JOURNEY_PROCESS: sn-0001" in log.read_text()
    assert not _processes(str(state))


def test_the_state_says_that_it_is_for_development(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fuseline", "factory", "init", "--state", str(tmp_path / "fleet")]
    subprocess.run([*command, "--devices", "1"], check=True, capture_output=True, timeout=60)
    fleet = tmp_path / "fleet"
    assert "DEVELOPMENT" in (fleet / "DEVELOPMENT").read_text()
    assert "development = true" in (fleet / "plane/plane.toml").read_text()
    secrets = [
        *fleet.rglob("*.key"),
        *fleet.rglob("*.secret"),
        *fleet.rglob("secret"),
        *fleet.rglob("*.token"),
    ]
    assert len(secrets) >= 8
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in secrets)
