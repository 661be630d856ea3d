"""The peer of the device plane: goosebit, the light update server in Python that speaks the same protocol.

It is installed from pinned hashes into a virtual environment of its own, gets a new SQLite database in a new
folder at every start, and is put where the plane is measured too: one registered device whose poll (hawkBit
DDI) is answered with a ``deploymentBase`` link.

As its authors ship it (their container image and ``python -m goosebit``), goosebit runs one uvicorn worker
without uvloop and httptools, that is on asyncio and h11; `Stack.SHIPPED` does the same. `Stack.TUNED` gives
it the event loop and the parser of the plane, which shows how much of a difference is only those.
Either way the access log is off and everything else is goosebit's default: no device authentication, and one
line of its own log for each poll.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from benchmarks.loadgen import Target
from benchmarks.measure import ROOT, exchange, serving
from fuseline.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.measure import Answer, Running

VERSION = "0.2.12"
REQUIREMENTS = Path(__file__).with_name("goosebit-requirements.txt")
VENV = ROOT / ".bench" / "goosebit-venv"
INSTALL_SECONDS = 300.0
DEVICE = "bench-1"
POLL_PATH = f"/DEFAULT/controller/v1/{DEVICE}"
_HARDWARE = ("bench-board", "1.0")
_BOUNDARY = "fuseline-benchmark-upload"


class Stack(StrEnum):
    """Event loop and HTTP parser under goosebit."""

    SHIPPED = "asyncio, h11"
    TUNED = "uvloop, httptools"

    def arguments(self) -> list[str]:
        """Return uvicorn's arguments for it."""
        loop, http = self.value.split(", ")
        return ["--loop", loop, "--http", http]


def install(venv: Path = VENV) -> Path:
    """Return goosebit's Python, after installing goosebit unless these very requirements are there already.

    Args:
        venv: Folder of the virtual environment; replaced when it is of other requirements or incomplete.

    Raises:
        SetupError: The environment cannot be made, or pip cannot install into it.
    """
    marker = venv / "installed-requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    python = venv / "bin" / "python"
    if marker.exists() and marker.read_text(encoding="ascii") == wanted:
        return python
    shutil.rmtree(venv, ignore_errors=True)
    venv.parent.mkdir(exist_ok=True)
    _run([sys.executable, "-m", "venv", str(venv)], "make the environment for goosebit")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--retries", "2", "--disable-pip-version-check"]
    _run([*pip, "--require-hashes", "-r", str(REQUIREMENTS)], "install goosebit from the package index")
    marker.write_text(wanted, encoding="ascii")
    return python


@contextmanager
def serving_unix(folder: Path, stack: Stack = Stack.SHIPPED, venv: Path = VENV) -> Iterator[Running]:
    """Run goosebit on a Unix socket with one device that has an update waiting.

    Args:
        folder: An existing, empty folder for its database, artifacts, socket and log; its name must be short
            (unix(7): a socket's path has up to 108 bytes).
        stack: Event loop and parser.
        venv: See `install`.

    Raises:
        SetupError: It cannot be installed, started, or brought to answer with the link.
    """
    python = install(venv)
    folder = folder.resolve()
    # Settings that the user has for a goosebit of their own must not reach this one.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GOOSEBIT_")} | {
        "GOOSEBIT_DB_URI": f"sqlite://{folder / 'goosebit.sqlite3'}",
        "GOOSEBIT_ARTIFACTS_DIR": str(folder / "artifacts"),
    }
    migrate(python, folder, env)
    target = Target(path=POLL_PATH, unix=folder / "goosebit.sock")
    command = [str(python), "-m", "uvicorn", "goosebit:app", "--uds", str(target.unix), "--no-access-log"]
    note = f"goosebit {VERSION}, {stack.value}, no access log, SQLite"
    with serving(
        [*command, *stack.arguments()],
        target,
        log=folder / "goosebit.log",
        cwd=folder,
        env=env,
        ready_seconds=30,
        note=note,
        expect=b"deploymentBase",
    ) as running:
        offer_update(target)
        running.check()
        yield running


def migrate(python: Path, folder: Path, env: Mapping[str, str]) -> None:
    """Create goosebit's database.

    goosebit does not do so by itself, and its advice (``poetry run aerich upgrade``) needs a configuration
    file that only the repository has; this writes the same one with the path of this environment.

    Raises:
        SetupError: aerich fails.
    """
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    migrations = Path(_run(ask, "ask goosebit's Python for its packages").strip()) / "goosebit/db/migrations"
    (folder / "pyproject.toml").write_text(
        "[tool.aerich]\n"
        'tortoise_orm = "goosebit.db.config.TORTOISE_CONF"\n'
        f"location = {json.dumps(str(migrations))}\n"
        'src_folder = "./."\n',
        encoding="utf-8",
    )
    aerich = [str(python.with_name("aerich")), "upgrade"]
    _run(aerich, "create goosebit's database", cwd=folder, env=env)


def offer_update(target: Target) -> None:
    """Register the device at version 1.0.0 and roll version 2.0.0 out to it.

    Args:
        target: A goosebit that nobody has set up: the first visitor becomes its administrator.

    Raises:
        SetupError: goosebit refuses a step.
    """
    login = urlencode({"username": "bench@localhost", "password": secrets.token_urlsafe()}).encode()
    form = "Content-Type: application/x-www-form-urlencoded"
    token = _accepted(exchange(target, "POST", path="/setup", body=login, headers=[form]), "set-up")
    operator = replace(target, headers=(f"Authorization: Bearer {token['access_token']}",))

    device = {"data": {"hw_boardname": _HARDWARE[0], "hw_revision": _HARDWARE[1], "sw_version": "1.0.0"}}
    _accepted(exchange(target), "the first poll")
    _accepted(_put_json(target, f"{POLL_PATH}/configData", device), "configData")

    upload = _multipart("update.swu", build_swu("2.0.0"))
    multipart = f"Content-Type: multipart/form-data; boundary={_BOUNDARY}"
    software = _accepted(
        exchange(operator, "PUT", path="/api/v1/software", body=upload, headers=[multipart]), "the upload"
    )
    rollout = {"name": "bench", "feed": "default", "software_id": software["id"]}
    _accepted(_put_json(operator, "/api/v1/rollouts", rollout), "the rollout")


def build_swu(version: str) -> bytes:
    """Return a small SWUpdate archive for the benchmark's hardware.

    Source: SWUpdate's documentation, "Software management": a cpio archive (new ASCII format) whose first
    member is ``sw-description``.
    """
    payload = b"benchmark payload\n"
    board, revision = _HARDWARE
    description = (
        f'software = {{ version = "{version}"; {board} = {{ hardware-compatibility: [ "{revision}" ]; '
        f'files: ( {{ filename = "payload"; path = "/tmp/payload"; '
        f'sha256 = "{hashlib.sha256(payload).hexdigest()}"; }} ); }}; }};\n'
    )
    members = (("sw-description", description.encode()), ("payload", payload), ("TRAILER!!!", b""))
    return b"".join(_cpio_member(number, name, data) for number, (name, data) in enumerate(members, 1))


def _cpio_member(inode: int, name: str, data: bytes) -> bytes:
    """Return one member in the new ASCII format of cpio(5): 13 hexadecimal fields, parts padded to 4."""
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    fields = (inode, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _multipart(filename: str, data: bytes) -> bytes:
    head = (
        f"--{_BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="{filename}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + data + f"\r\n--{_BOUNDARY}--\r\n".encode()


def _put_json(target: Target, path: str, document: Mapping[str, object]) -> Answer:
    body = json.dumps(document).encode()
    return exchange(target, "PUT", path=path, body=body, headers=["Content-Type: application/json"])


def _accepted(answer: Answer, step: str) -> dict[str, object]:
    if answer.status != 200:
        reply = answer.body[:300].decode("latin-1")
        raise SetupError(f"goosebit refuses {step}", status=answer.status, body=reply)
    document = json.loads(answer.body)
    assert isinstance(document, dict)
    return document


def _run(
    command: Sequence[str], purpose: str, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Return a command's output; raise `SetupError` with its last words when it fails."""
    try:
        done = subprocess.run(
            list(command),
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"Cannot {purpose}: {error}") from error
    if done.returncode:
        output = done.stderr.strip() or done.stdout.strip()
        last = output.splitlines()[-1] if output else "no output"
        raise SetupError(f"Cannot {purpose}: {last}", exit_status=done.returncode, output=output[-800:])
    return done.stdout
