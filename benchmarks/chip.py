"""The emulated chip: how fast it boots, on both engines, and what ten thousand of them take.

A boot is the whole of it: a cold reset with a fresh readout of the PUF, the boot ROM's machine code from its
first instruction with key reconstruction, DICE keys and certificate, both checks of the loader's signature,
and the report. It ends where the shortest loader says that it runs.

Every worker has a core and chips of its own and takes these in turn. There are more of them than the crypto
block remembers signatures, so what one boot leaves to the next is the translated ROM and the loader's
signature, which all chips of a product share; in the fresh row not even that.

Boots a second of the clock move with whatever else the machine does. The targets are held against processor
time: how many boots two cores give when nothing else runs on them.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import multiprocessing
import os
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.table import Table

from benchmarks.claims import Claim, Goal, say
from benchmarks.measure import CLIENT_CORE, ROOT, SERVER_CORE, Spread
from fuseline.device.silicon.chip import Chip
from fuseline.device.silicon.crypto_block import ecdsa_p256_recover
from fuseline.device.silicon.engine import StopKind
from fuseline.device.silicon.qemu_engine import QemuEngine
from fuseline.device.silicon.report import Outcome
from fuseline.device.silicon.rom import rom_image
from fuseline.device.silicon.silicon import Silicon
from fuseline.device.silicon.unicorn_engine import UnicornEngine
from fuseline.errors import QemuMissing, SetupError
from fuseline.lab.chip.bench import Bench
from fuseline.lab.chip.fleet import FleetPlan, Workshop, product_of_its_own
from fuseline.lab.chip.manifest import read_manifest
from fuseline.lab.faults.campaign import Plan, run_campaign
from fuseline.lab.faults.models import Model
from fuseline.lab.faults.targets import Attack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.queues import SimpleQueue

    from benchmarks.claims import Effort
    from fuseline.device.silicon.run import Engine

FRESH_GOAL: Final = 200.0
REUSED_GOAL: Final = 3000.0
_CORES: Final = (SERVER_CORE, CLIENT_CORE)
_CHIPS: Final = 64
"""Of each worker; more than the crypto block remembers signatures."""
_HEAD_START: Final = 0.2  # seconds until both workers have their task
_FAULTS: Final = 1000
_FLEET_PATIENCE: Final = 1800.0
_ALU_LOOPS: Final = 20_000_000
_ALU_INSTRUCTIONS: Final = 5  # of a loop


class Kind(StrEnum):
    """How a chip comes to its engine."""

    FRESH = "a new engine for each boot"
    REUSED = "one engine, the next chip put in"


@dataclass(frozen=True, slots=True)
class Round:
    """Boots of one worker.

    Args:
        boots: How many.
        seconds: By the clock.
        processor_seconds: What the worker spent.
    """

    boots: int
    seconds: float
    processor_seconds: float


@dataclass(frozen=True, slots=True)
class Rate:
    """One round of all workers.

    Args:
        by_clock: Boots a second of the clock.
        by_processor: Boots a second of both cores' processor time.
    """

    by_clock: float
    by_processor: float

    @classmethod
    def of(cls, rounds: Sequence[Round]) -> Rate:
        """Return the rate of workers that ran at the same time."""
        boots = sum(each.boots for each in rounds)
        spent = sum(each.processor_seconds for each in rounds)
        return cls(sum(each.boots / each.seconds for each in rounds), len(rounds) * boots / spent)


@dataclass(frozen=True, slots=True)
class Stock:
    """What a worker has.

    Args:
        chips: How many live chips.
        octets_each: By how much each of them made the resident set grow.
    """

    chips: int
    octets_each: float


class _Worker:
    """One process: provisioned chips of its own, and an engine."""

    def __init__(self, manifest: Path, core: int) -> None:
        os.sched_setaffinity(0, {core})
        workshop = Workshop(read_manifest(manifest), dt.datetime.now(dt.UTC).replace(microsecond=0))
        seeds = FleetPlan(_CHIPS, seed=core).chip_seed
        self._engine = UnicornEngine()
        Bench(workshop.make(seeds(_CHIPS))[0].silicon, self._engine).boot()
        before = _resident()
        self._chips = [workshop.make(seeds(index))[0].silicon for index in range(_CHIPS)]
        for chip in self._chips:
            self._boot(chip, self._engine)
        self.stock = Stock(_CHIPS, (_resident() - before) / _CHIPS)

    def round(self, kind: Kind, begin: float, seconds: float) -> Round:
        """Boot one chip after another from a moment on."""
        time.sleep(max(0.0, begin - time.monotonic()))
        chips = itertools.cycle(self._chips)
        begun, spent = time.perf_counter(), time.process_time()
        for count in itertools.count(1):
            if kind is Kind.FRESH:
                ecdsa_p256_recover.cache_clear()
                self._boot(next(chips), UnicornEngine())
            else:
                self._boot(next(chips), self._engine)
            elapsed = time.perf_counter() - begun
            if elapsed >= seconds:
                return Round(count, elapsed, time.process_time() - spent)
        raise AssertionError

    @staticmethod
    def _boot(chip: Silicon, engine: Engine) -> None:
        report = Bench(chip, engine).boot()
        if report.outcome is not Outcome.BOOTED:
            raise SetupError("A chip of the benchmark does not boot", outcome=report.outcome.value)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


_worker: _Worker | None = None


def _begin_worker(manifest: Path, cores: SimpleQueue[int]) -> None:
    global _worker  # noqa: PLW0603 - one per worker process, made by the pool's initializer
    _worker = _Worker(manifest, cores.get())


def _the_worker() -> _Worker:
    if _worker is None:
        raise RuntimeError("`_begin_worker` comes first")
    return _worker


def _round(kind: Kind, begin: float, seconds: float) -> Round:
    return _the_worker().round(kind, begin, seconds)


def _stock(_: int) -> Stock:
    return _the_worker().stock


def boots(effort: Effort) -> Claim:
    """Measure boots of distinct chips on two cores, from new engines and on kept ones.

    Raises:
        SetupError: A chip does not boot.
    """
    say(f"{_CHIPS} chips provisioned for each of {len(_CORES)} workers")
    rates: dict[Kind, list[Rate]] = {kind: [] for kind in Kind}
    with tempfile.TemporaryDirectory(prefix="fuseline-bench-") as name:
        manifest = product_of_its_own(Path(name) / "factory")
        context = multiprocessing.get_context("spawn")
        cores: SimpleQueue[int] = context.SimpleQueue()
        for core in _CORES:
            cores.put(core)
        with ProcessPoolExecutor(len(_CORES), context, _begin_worker, (manifest, cores)) as pool:
            stock = next(pool.map(_stock, _CORES))
            say(f"{effort.rounds} rounds of {effort.seconds:g} s for each of {len(Kind)} rows")
            for _, kind in itertools.product(range(effort.rounds), Kind):
                begin = time.monotonic() + _HEAD_START
                tasks = [pool.submit(_round, kind, begin, effort.seconds) for _ in _CORES]
                rates[kind].append(Rate.of([task.result() for task in tasks]))
    say("faults in the boot ROM")
    return _boots_claim(rates, stock, _fault_rate())


def _fault_rate() -> float:
    """Return fault points a second on two cores, each a boot of its own from a snapshot on."""
    plan = Plan((Attack.UNSIGNED,), (Model.SKIP,), sample=_FAULTS, workers=len(_CORES))
    case = run_campaign(plan, rom_image()).cases[0]
    return case.faults / (case.seconds / len(_CORES))


def _boots_claim(rates: dict[Kind, list[Rate]], stock: Stock, faults: float) -> Claim:
    clock = {kind: Spread.of([rate.by_clock for rate in each]) for kind, each in rates.items()}
    processor = {kind: Spread.of([rate.by_processor for rate in each]) for kind, each in rates.items()}
    table = Table(title="Cold boots of distinct chips through the ROM, PUF and DICE included, on two cores")
    for heading in ("", "a second of the clock", "of processor time", "ms of a core each"):
        table.add_column(heading, justify="right" if heading else "left")
    for kind in Kind:
        each = f"{1e3 * len(_CORES) / processor[kind].median:.2f}"
        table.add_row(kind.value, clock[kind].show(), processor[kind].show(), each)
    each = f"{1e3 * len(_CORES) / faults:.2f}"
    table.add_row("faulted boots, from a snapshot on", "", f"{faults:,.0f}", each)
    table.add_row("memory of a live chip", f"{stock.octets_each / 2**20:.2f} MiB", "", "")
    goals = (
        Goal("fresh boots/s of two cores", processor[Kind.FRESH], FRESH_GOAL, at_least=True),
        Goal("reused boots/s of two cores", processor[Kind.REUSED], REUSED_GOAL, at_least=True),
    )
    data: dict[str, object] = {
        "boots_per_second": {
            kind.name.lower(): {"clock": asdict(clock[kind]), "processor": asdict(processor[kind])}
            for kind in Kind
        },
        "fault_points_per_second": faults,
        "octets_per_live_chip": stock.octets_each,
        "chips_per_worker": stock.chips,
    }
    return Claim("boots", table, goals, data)


@dataclass(frozen=True, slots=True)
class _Program:
    """Machine code in the ROM's place."""

    binary: bytes


def _alu_program(loops: int) -> _Program:
    """Return a program that counts down with some arithmetic, then ends by semihosting (SYS_EXIT)."""
    code = (
        *(0x4A05, 0x2101),  # ldr r2, loops; movs r1, #1
        *(0x4048, 0x3007, 0x00C1, 0x3A01, 0xD1FA),  # eors r0, r1; adds r0, #7; lsls r1, r0, #3; subs; bne
        *(0x2018, 0x4902, 0xBEAB, 0xE7FE),  # movs r0, #0x18; ldr r1, reason; bkpt 0xab; b .
        0xBF00,
    )
    vectors = struct.pack("<16I", 0x2000_1000, 0x41, *[0x41] * 14)
    # ADP_Stopped_ApplicationExit (Arm semihosting, 5.8).
    return _Program(vectors + struct.pack(f"<{len(code)}H2I", *code, loops, 0x20026))


def engines(effort: Effort) -> Claim:
    """Measure the same binaries on both engines; for information, so there is no target.

    Raises:
        SetupError: A boot fails, or the two engines do not agree.
    """
    table = Table(title="The same machine code on both engines")
    for heading in ("", "Unicorn", "QEMU"):
        table.add_column(heading, justify="right" if heading else "left")
    chip = _one_chip()
    makers: dict[str, type[UnicornEngine | QemuEngine]] = {"unicorn": UnicornEngine, "qemu": QemuEngine}
    data: dict[str, object] = {}
    cells: dict[str, list[str]] = {"boot with a new engine, ms": [], "arithmetic, million instructions/s": []}
    for name, make in makers.items():
        say(f"boots and arithmetic on {name}")
        try:
            boot = Spread.of([1e3 * _boot_seconds(chip, make) for _ in range(2 * effort.rounds)])
            speed = Spread.of([_alu_speed(make) for _ in range(effort.rounds)])
        except QemuMissing as missing:
            for row in cells.values():
                row.append("not installed")
            data[name] = {"skipped": missing.message}
            continue
        data[name] = {"boot_ms": asdict(boot), "million_instructions_per_second": asdict(speed)}
        for row, spread in zip(cells.values(), (boot, speed), strict=True):
            row.append(spread.show(1))
    for what, row in cells.items():
        table.add_row(what, *row)
    return Claim("engines", table, (), data)


def _one_chip() -> Silicon:
    with tempfile.TemporaryDirectory(prefix="fuseline-bench-") as name:
        manifest = read_manifest(product_of_its_own(Path(name) / "factory"))
    workshop = Workshop(manifest, dt.datetime.now(dt.UTC).replace(microsecond=0))
    return workshop.make(FleetPlan(1).chip_seed(0))[0].silicon


def _boot_seconds(chip: Silicon, make: type[UnicornEngine | QemuEngine]) -> float:
    begun = time.perf_counter()
    engine = make()
    report = Bench(chip, engine).boot()
    if report.outcome is not Outcome.BOOTED:
        raise SetupError("A chip of the benchmark does not boot", engine=engine.name)
    return time.perf_counter() - begun


def _alu_speed(make: type[UnicornEngine | QemuEngine]) -> float:
    """Return million instructions a second: a long run less a short one, so that starting does not count."""
    engine: Engine = QemuEngine(semihosting=True) if make is QemuEngine else make()
    spent = []
    for loops in (1, 1 + _ALU_LOOPS):
        begun = time.perf_counter()
        stop = Chip(Silicon(1)).boot(engine, rom=_alu_program(loops)).stop
        spent.append(time.perf_counter() - begun)
        if stop.kind is not StopKind.EXIT:
            raise SetupError("The arithmetic does not end", engine=engine.name, stop=str(stop))
    return _ALU_INSTRUCTIONS * _ALU_LOOPS / (spent[1] - spent[0]) / 1e6


def chips(effort: Effort) -> Claim:
    """Run `fuseline lab chips` once; for information, so there is no target.

    Raises:
        SetupError: A chip does not boot, or two have one identity.
    """
    count = effort.chips
    say(f"fuseline lab chips --count {count}")
    command = [sys.executable, "-m", "fuseline", "lab", "chips", "--count", str(count), "--json"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=_FLEET_PATIENCE, check=False
    )
    if done.returncode:
        raise SetupError("`fuseline lab chips` fails", status=done.returncode, stderr=done.stderr[-800:])
    facts = json.loads(done.stdout)
    table = Table(title=f"{count:,} distinct chips made, provisioned and booted by one command")
    for heading in ("chips", "seconds", "chips a second", "runs of machine code", "largest worker, MiB"):
        table.add_column(heading, justify="right")
    rate = count / facts["seconds"]
    peak = facts["worker_peak_rss"] / 2**20
    table.add_row(f"{count:,}", f"{facts['seconds']:.0f}", f"{rate:.0f}", f"{facts['runs']:,}", f"{peak:.0f}")
    shown: Sequence[str] = ("count", "seconds", "runs", "run_seconds", "worker_peak_rss", "identities")
    return Claim("chips", table, (), {key: facts[key] for key in shown})
