"""The application: the payload of the image that the loader verified, run as a process of its own.

It runs from sealed memory that holds the verified bytes, so nothing between the check and the start can
change them. It says that it is well over a pipe, in systemd's words (`READY=1`).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from fuseline.device.element.hardening import die_with_parent
from fuseline.errors import AppUnhealthy

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_STOP_GRACE = 2.0  # seconds
_MAX_LOG = 1024 * 1024  # bytes kept of the application's output


class Application:
    """One running application."""

    def __init__(self, process: subprocess.Popen[bytes], notify: int, started: float) -> None:
        self._process = process
        self._notify = notify
        self._started = started

    @classmethod
    def start(cls, payload: bytes, folder: Path) -> Application:
        """Start a Python zip application (PEP 441).

        Args:
            payload: The verified image's payload.
            folder: Where its output goes (`app.log`) and where it may keep its data.
        """
        folder.mkdir(mode=0o700, exist_ok=True)
        image = _sealed(payload)
        notify_read, notify_write = os.pipe()
        try:
            with _open_log(folder / "app.log") as output:
                process = subprocess.Popen(
                    # Isolated mode: neither the environment nor the user's packages reach it.
                    [sys.executable, "-I", "-S", f"/proc/self/fd/{image}"],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=folder,
                    env={"NOTIFY_FD": str(notify_write), "PATH": "/usr/bin:/bin"},
                    pass_fds=(image, notify_write),
                    # A group of its own, so that a stop reaches what the application started too.
                    start_new_session=True,
                    preexec_fn=functools.partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - no threads yet
                )
        finally:
            os.close(notify_write)
            os.close(image)
        return cls(process, notify_read, time.monotonic())

    def wait_ready(self, seconds: float) -> float:
        """Wait until the application says that it is well; returns how long that took, in seconds.

        Raises:
            AppUnhealthy: It ended, or said nothing in time.
        """
        deadline = self._started + seconds
        said = b""
        while b"READY=1\n" not in said:
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self._notify], [], [], max(0.0, left))
            if not readable:
                raise AppUnhealthy("the application said nothing in time", seconds=seconds)
            part = os.read(self._notify, 4096)
            if not part:
                raise self._fell_silent()
            said += part
        return time.monotonic() - self._started

    def _fell_silent(self) -> AppUnhealthy:
        try:
            return AppUnhealthy("the application ended", status=self._process.wait(_STOP_GRACE))
        except subprocess.TimeoutExpired:
            return AppUnhealthy("the application lives and will not say that it is well")

    @property
    def pid(self) -> int:
        """The application's process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the application and what it started, kindly and then not."""
        os.close(self._notify)
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_GRACE)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _sealed(payload: bytes) -> int:
    descriptor = os.memfd_create("fuseline-application", os.MFD_ALLOW_SEALING)
    view = memoryview(payload)
    while view:
        view = view[os.write(descriptor, view) :]
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def _open_log(path: Path) -> IO[bytes]:
    """Open the log for appending; start it anew when it has grown past its limit."""
    full = path.exists() and path.stat().st_size > _MAX_LOG
    return path.open("wb" if full else "ab")
