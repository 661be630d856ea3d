"""The application: started from the verified bytes, watched until it says that it is well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fuseline.device.os.application import Application
from fuseline.errors import AppUnhealthy
from fuseline.lab.releases import build_payload

READY = "import os\nos.write(int(os.environ['NOTIFY_FD']), b'READY=1\\n')\n"
SLEEP = "import time\ntime.sleep(60)\n"

# Tries, from inside, to change the bytes that it runs from.
TAMPER = """
import fcntl, json, os, sys
image = sys.argv[0]
found = {"start": open(image, "rb").read(2).decode("latin-1")}
number = int(image.rsplit("/", 1)[1])
for name, attempt in {
    "open": lambda: open(image, "r+b", buffering=0).write(b"XX"),
    "write": lambda: os.pwrite(number, b"XX", 0),
    "shrink": lambda: os.ftruncate(number, 0),
    "grow": lambda: os.ftruncate(number, 1 << 20),
    "unseal": lambda: fcntl.fcntl(number, fcntl.F_ADD_SEALS, 0),
}.items():
    try:
        attempt()
        found[name] = "done"
    except OSError as error:
        found[name] = type(error).__name__
found["end"] = open(image, "rb").read(2).decode("latin-1")
print(json.dumps(found), flush=True)
"""


@contextmanager
def started(source: str, folder: Path) -> Iterator[Application]:
    application = Application.start(build_payload("1.2.3", main=source), folder / "app")
    try:
        yield application
    finally:
        application.stop()


def log(folder: Path) -> str:
    return (folder / "app" / "app.log").read_text()


def lives(application: Application) -> bool:
    return application.running


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_a_verified_payload_runs_and_says_that_it_is_well(tmp_path: Path) -> None:
    with started(
        "from release import VERSION\nprint(VERSION, flush=True)\n" + READY + SLEEP, tmp_path
    ) as app:
        assert 0 < app.wait_ready(10) < 10
        assert lives(app)
    assert not lives(app)
    assert log(tmp_path) == "1.2.3\n"


def test_the_fleet_s_own_application_is_well(tmp_path: Path) -> None:
    application = Application.start(build_payload("3.0.0"), tmp_path / "app")
    application.wait_ready(10)
    application.stop()
    assert json.loads(log(tmp_path).splitlines()[0])["version"] == "3.0.0"


@pytest.mark.parametrize("status", [0, 3])
def test_an_application_that_ends_is_unhealthy(tmp_path: Path, status: int) -> None:
    with started(f"raise SystemExit({status})", tmp_path) as app, pytest.raises(AppUnhealthy) as caught:
        app.wait_ready(10)
    assert caught.value.evidence == {"status": status}
    assert not app.running


def test_a_silent_application_is_unhealthy_in_time(tmp_path: Path) -> None:
    begun = time.monotonic()
    with started(SLEEP, tmp_path) as app, pytest.raises(AppUnhealthy) as caught:
        app.wait_ready(0.3)
    assert caught.value.evidence == {"seconds": 0.3}
    assert time.monotonic() - begun < 5
    assert not app.running


def test_an_application_that_hangs_up_and_lives_on_is_unhealthy(tmp_path: Path) -> None:
    hang_up = "import os\nos.close(int(os.environ['NOTIFY_FD']))\n" + SLEEP
    with started(hang_up, tmp_path) as app:
        with pytest.raises(AppUnhealthy, match="will not say"):
            app.wait_ready(10)
        assert lives(app)
    assert not lives(app)


def test_other_words_are_not_ready(tmp_path: Path) -> None:
    words = "import os\nos.write(int(os.environ['NOTIFY_FD']), b'READY=0\\nREADY=1')\n" + SLEEP
    with started(words, tmp_path) as app, pytest.raises(AppUnhealthy):
        app.wait_ready(0.5)


def test_bytes_that_are_no_application_are_unhealthy(tmp_path: Path) -> None:
    application = Application.start(b"\x7fnot a zip application", tmp_path / "app")
    with pytest.raises(AppUnhealthy):
        application.wait_ready(10)
    application.stop()


def test_an_application_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + SLEEP
    with started(stubborn, tmp_path) as app:
        app.wait_ready(10)
    assert not app.running


def test_the_environment_and_open_files_of_the_device_do_not_leak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSELINE_SECRET", "hunter2")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "private.key").write_text("a key")
    show = (
        "import json, os, sys\n"
        "links = [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if int(n) > 2\n"
        "         and os.path.lexists(f'/proc/self/fd/{n}')]\n"
        "print(json.dumps([dict(os.environ), sys.path, links, os.getcwd()]), flush=True)\n"
    )
    with (tmp_path / "private.key").open() as held:
        os.set_inheritable(held.fileno(), True)
        with started(show + READY + SLEEP, tmp_path) as app:
            app.wait_ready(10)
    environment, path, links, cwd = json.loads(log(tmp_path))
    assert set(environment) - {"LC_CTYPE"} == {"NOTIFY_FD", "PATH"}
    assert str(tmp_path) not in path
    assert not any("site-packages" in entry for entry in path)
    assert not any("private.key" in link for link in links)
    assert cwd == str(tmp_path / "app")


def test_the_running_bytes_cannot_be_changed_from_inside(tmp_path: Path) -> None:
    with started(TAMPER + READY + SLEEP, tmp_path) as app:
        app.wait_ready(10)
    found = json.loads(log(tmp_path))
    assert found.pop("start") == found.pop("end") == "PK"
    assert set(found.values()) == {"PermissionError"}, found


def test_the_running_bytes_cannot_be_changed_from_outside(tmp_path: Path) -> None:
    with started(READY + SLEEP, tmp_path) as app:
        app.wait_ready(10)
        folder = Path(f"/proc/{app._process.pid}/fd")
        [image] = [entry for entry in folder.iterdir() if "fuseline-application" in str(entry.readlink())]
        before = image.read_bytes()
        with pytest.raises(PermissionError):
            image.write_bytes(b"XX")
        with image.open("r+b", buffering=0) as file, pytest.raises(PermissionError):
            file.write(b"XX")
        assert image.read_bytes() == before == build_payload("1.2.3", main=READY + SLEEP)


def test_a_life_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    before = descriptors()
    with started(READY + SLEEP, tmp_path) as app:
        app.wait_ready(10)
    assert descriptors() == before


def test_output_is_kept_between_lives_up_to_a_limit(tmp_path: Path) -> None:
    for _ in range(2):
        with started("print('life', flush=True)\n" + READY + SLEEP, tmp_path) as app:
            app.wait_ready(10)
    assert log(tmp_path) == "life\nlife\n"
    (tmp_path / "app" / "app.log").write_bytes(b"x" * (1024 * 1024 + 1))
    with started("print('life', flush=True)\n" + READY + SLEEP, tmp_path) as app:
        app.wait_ready(10)
    assert log(tmp_path) == "life\n"


# Starts a child of its own, in a session that a plain stop of the application would not reach.
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
os.write(int(os.environ["NOTIFY_FD"]), b"READY=1\\n")
child.wait()
"""


def _gone(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_stop_reaches_what_the_application_started(tmp_path: Path) -> None:
    with started(PARENT, tmp_path) as application:
        application.wait_ready(10)
        child = int(log(tmp_path).split()[0])
        assert not _gone(child, 0.1)
    assert _gone(child)


def test_an_application_ends_with_its_device_even_if_that_is_killed(tmp_path: Path) -> None:
    device = (
        "import sys, time; from pathlib import Path\n"
        "from fuseline.device.os.application import Application\n"
        "from fuseline.lab.releases import build_payload\n"
        "running = Application.start(build_payload('1.0.0'), Path(sys.argv[1]))\n"
        "running.wait_ready(10)\n"
        "print(running.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", device, str(tmp_path / "app")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    application = int(process.stdout.readline())
    assert not _gone(application, 0.1)
    process.kill()
    process.communicate()
    assert _gone(application)
