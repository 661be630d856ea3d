"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from fuseline.errors import ElementPeer

_UCRED = struct.Struct("3i")  # unix(7), SO_PEERCRED: pid, uid, gid
_MAX_ANCESTORS = 64  # a device's process tree is four deep


def _parent_of(pid: int) -> int:
    # proc(5): the command may hold spaces and parentheses, so read after the last one.
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return int(stat.rpartition(")")[2].split()[1])


def _descends_from(pid: int, ancestor: int) -> bool:
    for _ in range(_MAX_ANCESTORS):
        if pid == ancestor:
            return True
        if pid <= 1:
            return False
        try:
            pid = _parent_of(pid)
        except (OSError, ValueError, IndexError):
            return False
    return False


def require_own_device(connection: socket.socket, device_pid: int) -> None:
    """Let only processes of one device through.

    Args:
        connection: A connected Unix socket.
        device_pid: The device's first process; its descendants are the device.

    Raises:
        ElementPeer: Another user, or a process of another device.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(raw)
    if uid != os.getuid():
        raise ElementPeer("the caller is another user", uid=uid)
    if not _descends_from(pid, device_pid):
        raise ElementPeer("the caller is not a process of this device", pid=pid)
