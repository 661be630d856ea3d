"""Worker processes for campaigns and fleets, which never outlive the command that started them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from fuseline.device.element.hardening import die_with_parent


def _begin(parent: int, begin: Callable[..., object] | None, arguments: tuple[object, ...]) -> None:
    die_with_parent(parent)
    if begin is not None:
        begin(*arguments)


@contextmanager
def worker_pool(
    count: int, begin: Callable[..., object] | None = None, *arguments: object
) -> Iterator[ProcessPoolExecutor]:
    """Run processes for work that keeps a core busy.

    They are fresh interpreters: a fork would share the emulators' memory. Call from the main thread: the
    kernel ends them with the thread that started them. Work not begun when the block is left is dropped.

    Args:
        count: How many.
        begin: What each does first; importable by name.
        *arguments: Its arguments.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, _begin, (os.getpid(), begin, arguments)) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
