"""The agent goes on whatever its plane says."""

from __future__ import annotations

SLOT_SIZE = 4096
