"""What the device has to tell: one JSON object a line, for people, for logs and for the lab."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, Protocol


class LineSink(Protocol):
    """Where lines go: a text stream, or whatever shows them."""

    def write(self, text: str, /) -> int:
        """Take a line."""

    def flush(self) -> None:
        """Hold nothing back."""


class Journal:
    """Writes events of one device to a text stream."""

    def __init__(self, stream: LineSink, device: str) -> None:
        self._stream = stream
        self._device = device
        self._lock = threading.Lock()

    def write(self, layer: str, event: str, **facts: Any) -> None:
        """Write an event.

        Args:
            layer: The layer of the stack that speaks: silicon, boot, firmware, os, application.
            event: What happened, for instance ``boot.measured``.
            **facts: JSON-able evidence, without secrets.
        """
        line = {"at": time.time(), "device": self._device, "layer": layer, "event": event} | facts
        with self._lock:
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()
