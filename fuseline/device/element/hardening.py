"""Making a process that holds keys hard to read for its neighbours."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal

# Linux uapi, include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
# bits/mman.h
_MCL_CURRENT, _MCL_FUTURE = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int = 0) -> int:
    result: int = _libc.prctl(option, argument, 0, 0, 0)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")
    return result


def harden() -> None:
    """Forbid core dumps, ptrace and /proc/self/mem by equals, and privilege gain.

    Root with CAP_SYS_PTRACE still reads everything: a virtual element guards against a compromised
    application, not against a compromised kernel. Memory is locked where the limits allow it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    with contextlib.suppress(OSError):
        _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends (also when it is SIGKILLed).

    If the parent is gone already, end at once: the request came too late for the kernel to act on it.

    Args:
        parent: The process that is the parent, as it told of itself: asking the kernel would not show
            that it ended while this process was loading its program.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
