"""Child processes of the lab: started with their output read, and never left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

_GRACE = 6.0  # seconds; the plane gives open requests three

OnEvent = Callable[[dict[str, Any]], None]


class Child:
    """One `fuseline` process that writes JSON lines."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, on_event: OnEvent) -> None:
        """Start `python -m fuseline ARGUMENTS`; standard error goes to `log`."""
        self.name = name
        self.log = log
        self.error: dict[str, Any] | None = None
        """The coded error it ended with, if it told one."""
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fuseline", *arguments, "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                # Ctrl-C reaches the parent alone, which then ends its children in order.
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout, on_event), daemon=True, name=f"read {name}"
        )
        self._reader.start()

    def _read(self, stream: IO[str], on_event: OnEvent) -> None:
        for line in stream:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a library wrote to standard output; its words are in nobody's contract
            if isinstance(event, dict) and "error" in event:
                self.error = event["error"]
            elif isinstance(event, dict):
                on_event(event)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self._process.kill()
        self._process.wait()

    def wait(self) -> int:
        """Wait for the end, and force it when it takes too long."""
        try:
            status = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._reader.join(_GRACE)
        return status

    def last_words(self, lines: int = 6) -> str:
        """Return why it ended, as far as it said: its coded error, else the end of its log."""
        self._reader.join(_GRACE)
        if self.error is not None:
            return f"{self.error['code']}: {self.error['message']}"
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


def stop_all(children: Sequence[Child]) -> None:
    """End children together, then wait for each."""
    for child in children:
        child.terminate()
    for child in children:
        child.wait()
