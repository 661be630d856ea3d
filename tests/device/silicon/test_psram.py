"""The shared memory and what blocks reach in it."""

from __future__ import annotations

import mmap
import os

import pytest

from fuseline.device.silicon.dma import READABLE, WRITABLE, Dma
from fuseline.device.silicon.memory_map import (
    DOORBELL,
    FUSE_SHADOW,
    MAILBOX,
    MAILBOX_DATA,
    PSRAM_BASE,
    PSRAM_SIZE,
    PUF_ROWS,
    RAM_BASE,
    RAM_SIZE,
    RETENTION,
    ROM_BASE,
    SRAM_BASE,
    SYSTEM,
)
from fuseline.device.silicon.psram import Psram
from fuseline.errors import PortAddress


@pytest.fixture
def psram() -> Psram:
    return Psram()


def test_views_and_a_second_mapping_see_the_same_memory(psram: Psram) -> None:
    psram.view(RAM_BASE, 4)[:] = b"seen"
    with mmap.mmap(psram.fd, PSRAM_SIZE) as second:
        assert second[RAM_BASE - PSRAM_BASE :][:4] == b"seen"
        second[0:4] = b"back"
    assert bytes(psram.view(PSRAM_BASE, 4)) == b"back"


def test_untouched_memory_costs_nothing(psram: Psram) -> None:
    psram.view(RAM_BASE, 1)[0] = 1
    assert os.fstat(psram.fd).st_blocks * 512 <= 64 * 1024


def test_the_host_address_is_that_of_the_octet(psram: Psram) -> None:
    assert psram.host_address(RAM_BASE) - psram.host_address(PSRAM_BASE) == RAM_BASE - PSRAM_BASE


@pytest.mark.parametrize(
    ("address", "size"),
    [(PSRAM_BASE - 1, 1), (PSRAM_BASE + PSRAM_SIZE, 1), (PSRAM_BASE, PSRAM_SIZE + 1), (0, 4)],
)
def test_a_view_outside_is_a_mistake_of_ours(psram: Psram, address: int, size: int) -> None:
    with pytest.raises(RuntimeError):
        psram.view(address, size)


def test_the_file_is_closed_with_the_memory() -> None:
    psram = Psram()
    fd = psram.fd
    del psram
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


OUT_OF_REACH = [
    (ROM_BASE, 4),
    (ROM_BASE, RAM_BASE + RAM_SIZE),
    (SRAM_BASE, 32),
    (PUF_ROWS, 1),
    (MAILBOX, 4),
    (MAILBOX + MAILBOX_DATA - 1, 1),
    (MAILBOX + MAILBOX_DATA - 1, 8),
    (DOORBELL, 1),
    (DOORBELL - 1, 2),
    (SYSTEM, 4),
    (RETENTION, 32),
    (RAM_BASE - 1, 2),
    (RAM_BASE + RAM_SIZE - 1, 2),
    (RAM_BASE + RAM_SIZE, 1),
    (RAM_BASE, RAM_SIZE + 1),
    (RAM_BASE, 0xFFFF_FFFF),
    (RAM_BASE + 4, 0x1_0000_0000 - 4),
    (0xFFFF_FFFF, 2),
    (0xFFFF_FFF0, 0x20),
    (0x4000_4000, 4),
]


@pytest.mark.parametrize(("address", "length"), OUT_OF_REACH)
def test_dma_outside_the_windows_is_refused_both_ways(psram: Psram, address: int, length: int) -> None:
    dma = Dma(psram)
    with pytest.raises(PortAddress):
        dma.view(address, length)
    with pytest.raises(PortAddress):
        dma.require_writable(address, length)


@pytest.mark.parametrize("window", sorted(set(READABLE) - set(WRITABLE)))
def test_dma_into_flash_or_the_fuse_shadow_is_refused(psram: Psram, window: tuple[int, int]) -> None:
    dma = Dma(psram)
    first, after = window
    assert len(dma.read(first, after - first)) == after - first
    for address in (first, after - 4):
        with pytest.raises(PortAddress):
            dma.write(address, bytes(4))


@pytest.mark.parametrize("window", READABLE)
def test_a_window_ends_where_it_ends(psram: Psram, window: tuple[int, int]) -> None:
    dma = Dma(psram)
    first, after = window
    dma.view(first, 1)
    dma.view(after - 1, 1)
    for address, length in ((first - 1, 2), (after - 1, 2)):
        with pytest.raises(PortAddress):
            dma.view(address, length)


def test_nothing_can_stand_anywhere(psram: Psram) -> None:
    dma = Dma(psram)
    assert dma.read(0, 0) == b""
    dma.require_writable(FUSE_SHADOW, 0)
    dma.write(FUSE_SHADOW, b"")
