"""The campaign itself: it makes the faults it says, in the boots it says, and judges them by what runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fuseline.device.silicon.commands import KeySlot, Lock
from fuseline.device.silicon.engine import Limits, StopKind
from fuseline.device.silicon.fault_probe import FaultProbe
from fuseline.device.silicon.memory_map import DebugState, ResetReason
from fuseline.device.silicon.rom import requirement_of, rom_image
from fuseline.errors import RomDamaged
from fuseline.lab.faults.campaign import CampaignReport, Plan, run_campaign
from fuseline.lab.faults.engine import WatchedEngine
from fuseline.lab.faults.models import BitFlip, FarPair, Fault, Model, NearPair, Skip, ZeroLoad, select
from fuseline.lab.faults.page import render_page
from fuseline.lab.faults.roms import rom_named
from fuseline.lab.faults.run import FaultRunner, Outcome, exposures
from fuseline.lab.faults.targets import Attack, make_target
from fuseline.lab.faults.trace import LIMIT, Trace, record

REFUSALS = {
    Attack.UNSIGNED: "ROM-SIG-1",
    Attack.FORGED: "ROM-SIG-5",
    Attack.ALTERED: "ROM-SIG-4",
    Attack.WRONG_KEY: "ROM-KEY-1",
    Attack.REVOKED: "ROM-KEY-2",
    Attack.ROLLBACK: "ROM-CNT-2",
    Attack.DEBUG: "ROM-DBG-5",
}


@pytest.fixture(scope="module")
def trace() -> Trace:
    return record(make_target(Attack.UNSIGNED), rom_image())


@pytest.fixture(scope="module")
def report() -> CampaignReport:
    return run_campaign(Plan(attacks=(Attack.UNSIGNED,), sample=60, workers=1), rom_image())


@pytest.mark.parametrize("reset", list(ResetReason), ids=lambda reset: reset.name)
@pytest.mark.parametrize("attack", list(Attack))
def test_without_a_fault_each_attack_is_refused_for_its_own_reason(
    attack: Attack, reset: ResetReason
) -> None:
    stop = record(make_target(attack, reset), rom_image()).stop
    if attack is Attack.LOCKS:
        assert (stop.kind, stop.detail) == (StopKind.EXIT, "main RAM was entered at 0x21400028")
    else:
        assert requirement_of(stop.value).id == REFUSALS[attack]


def test_the_trace_is_what_the_processor_executes_step_by_step(trace: Trace) -> None:
    probe = FaultProbe(make_target(Attack.UNSIGNED).prepare(rom_image()), rom_image().binary, WatchedEngine())
    first = probe.instructions
    stop = None
    while stop is None:
        executed = trace.executed[probe.instructions - first]
        assert probe.pc == executed.address
        assert probe.inside_it_block == (executed.place > 0)
        stop = probe.step()
    assert probe.instructions - first == len(trace)
    assert [index for unit in map(trace.unit, trace.starts) for index in unit] == list(range(len(trace)))


def test_each_model_counts_and_draws_what_it_says(trace: Trace) -> None:
    whole = select(Model.SKIP, trace, sample=None, seed=1)
    assert [fault.index for fault in whole.faults] == list(range(len(trace)))
    assert not whole.sampled
    loads = select(Model.ZERO_LOAD, trace, sample=None, seed=1)
    assert loads.population == len(loads.faults) == sum(len(executed.loads) for executed in trace.executed)
    assert any(len(executed.loads) > 1 for executed in trace.executed)
    flips = select(Model.BITFLIP, trace, sample=None, seed=1)
    assert flips.population == len(trace) * (14 * 32 + 30 + 4)
    assert len(flips.faults) == 64 * len({executed.address for executed in trace.executed})
    for model in Model:
        assert len(select(model, trace, sample=400, seed=1).faults) == 400


def test_the_same_seed_draws_the_same_faults_and_another_one_others(trace: Trace) -> None:
    for model in Model:
        first = select(model, trace, sample=300, seed=1)
        assert first == select(model, trace, sample=300, seed=1)
        assert first != select(model, trace, sample=300, seed=2)


@pytest.mark.parametrize("model", [Model.SKIP, Model.BITFLIP])
def test_no_loop_crowds_out_the_rest_of_the_rom(model: Model, trace: Trace) -> None:
    addresses = {executed.address for executed in trace.executed}
    faults = select(model, trace, sample=len(addresses) + 100, seed=1).faults
    drawn = Counter(trace.executed[fault.index].address for fault in faults)
    assert drawn.keys() == addresses
    assert max(drawn.values()) <= 2


def _runner(attack: Attack) -> tuple[FaultRunner, Trace]:
    target = make_target(attack)
    trace = record(target, rom_image())
    return FaultRunner(target, rom_image(), trace), trace


def test_a_fault_leaves_no_trace_in_the_next_boot() -> None:
    runner, trace = _runner(Attack.UNSIGNED)
    faults: list[Fault] = [*select(Model.SKIP, trace, sample=80, seed=3).faults]
    first, second = runner.run(faults), runner.run(faults)
    assert first == second
    # One by one, each on an engine of its own: the same.
    alone: Counter[Outcome] = Counter()
    for fault in faults[::8]:
        alone.update(_runner(Attack.UNSIGNED)[0].run([fault]).outcomes)
    assert alone == _runner(Attack.UNSIGNED)[0].run(faults[::8]).outcomes


def test_every_kind_of_fault_can_be_made_at_every_kind_of_instruction() -> None:
    runner, trace = _runner(Attack.UNSIGNED)
    member = next(index for index, executed in enumerate(trace.executed) if executed.place == 2)
    load = next(index for index, executed in enumerate(trace.executed) if executed.loads)
    faults: list[Fault] = [
        *(Skip(member - place) for place in (0, 1, 2)),
        *(BitFlip(member - place, "flags", 30) for place in (0, 1, 2)),
        BitFlip(member, "sp", 4),
        ZeroLoad(load, *trace.executed[load].loads[0]),
        *(NearPair(member - 2, gap) for gap in range(1, 13)),
        FarPair(member, len(trace) - 2, trace.executed[-2].address),
    ]
    faults.sort(key=lambda fault: fault.index)
    assert runner.run(faults).outcomes.total() == len(faults)
    assert len({fault.detail() for fault in faults}) > 10


def test_a_zeroed_load_reads_zeros_and_changes_nothing_else(trace: Trace) -> None:
    probe = FaultProbe(make_target(Attack.UNSIGNED).prepare(rom_image()), rom_image().binary, WatchedEngine())
    # The first instruction that loads one word and nothing else.
    at = next(
        index
        for index, executed in enumerate(trace.executed)
        if executed.place == 0 and len(executed.loads) == 1 and executed.loads[0][1] == 4
    )
    begun = probe.instructions
    while probe.instructions - begun < at:
        assert probe.step() is None
    address, size = trace.executed[at].loads[0]
    memory = probe.memory_at(address, size)
    assert memory is not None
    value = int.from_bytes(memory, "little")
    moment = probe.snapshot()
    assert probe.step() is None
    as_it_is = [probe.read(f"r{number}") for number in range(13)]
    probe.restore(moment)
    assert probe.load_zeros(address, size) is None
    zeroed = [probe.read(f"r{number}") for number in range(13)]
    changed = [(before, after) for before, after in zip(as_it_is, zeroed, strict=True) if before != after]
    assert changed == [(value, 0)]
    assert int.from_bytes(memory, "little") == value


def test_memory_outside_the_chip_cannot_be_zeroed(trace: Trace) -> None:
    probe = FaultProbe(make_target(Attack.UNSIGNED).prepare(rom_image()), rom_image().binary, WatchedEngine())
    assert probe.memory_at(0x5000_0000, 4) is None
    with pytest.raises(RuntimeError):
        probe.load_zeros(0x5000_0000, 4)


def test_what_a_loader_could_use_is_found_by_trying() -> None:
    silicon = make_target(Attack.LOCKS).prepare(rom_image())
    probe = FaultProbe(silicon, rom_image().binary, WatchedEngine())
    while KeySlot.IDEVID_KEY not in silicon.keys.filled():
        assert probe.step() is None
    early = exposures(silicon)
    assert early[:2] == ["IDevID CDI", "IDevID key"]
    assert f"lock {Lock.EXEC.name}" in early
    probe.resume(LIMIT)
    assert probe.left_rom is not None
    assert exposures(silicon) == []
    assert silicon.debug is DebugState.LOCKED


def test_a_gate_that_opened_is_remembered_though_the_chip_failed_afterwards() -> None:
    engine = WatchedEngine()
    silicon = make_target(Attack.LOCKS).prepare(rom_image())
    probe = FaultProbe(silicon, rom_image().binary, engine)
    start = probe.snapshot()
    probe.resume(LIMIT)
    silicon.fail(1)
    assert (silicon.exec_enabled, engine.opened) == (False, True)
    probe.restore(start)
    assert not engine.opened


def test_a_waiting_uart_of_one_boot_does_not_hang_the_next() -> None:
    engine = WatchedEngine()
    probe = FaultProbe(make_target(Attack.UNSIGNED).prepare(rom_image()), rom_image().binary, engine)
    start = probe.snapshot()
    whole = probe.resume(LIMIT).stop
    probe.restore(start)
    engine.cpu.uc.mem_write(0x4000_4004, b"\x01")
    assert probe.resume(Limits(instructions=50_000)).stop.kind is StopKind.TIMEOUT
    probe.restore(start)
    assert probe.resume(LIMIT).stop == whole


def test_workers_find_what_one_process_finds(report: CampaignReport) -> None:
    parallel = run_campaign(Plan(attacks=(Attack.UNSIGNED,), sample=60, workers=2), rom_image())
    assert [case.outcomes for case in parallel.cases] == [case.outcomes for case in report.cases]
    assert [case.findings for case in parallel.cases] == [case.findings for case in report.cases]


def test_the_report_is_data_and_a_page_that_stands_alone(report: CampaignReport) -> None:
    document = json.loads(json.dumps(report.as_dict()))
    assert document["holds"] is True
    assert document["faults"] == 240
    assert {case["model"] for case in document["cases"]} == {model.value for model in Model}
    for case in document["cases"]:
        assert case["sampled"] is True
        assert sum(case["outcomes"].values()) == case["faults"] == 60
    page = render_page(report)
    HTMLParser().feed(page)
    assert "src=" not in page
    assert "http" not in page
    assert report.rom_digest.hex() in page


def test_a_rom_is_named_or_lies_in_a_folder(tmp_path: Path) -> None:
    assert rom_named("hardened") is rom_image()
    (tmp_path / "rom.bin").write_bytes(rom_image().binary)
    (tmp_path / "rom.lines").write_text("00040 main.c:1 rom_main\n")
    assert rom_named(str(tmp_path)).digest == rom_image().digest
    with pytest.raises(RomDamaged) as caught:
        rom_named(str(tmp_path / "nothing"))
    assert caught.value.evidence["folder"] == str(tmp_path / "nothing")


def test_the_command_prints_the_report_and_says_by_its_status_whether_the_rom_holds(tmp_path: Path) -> None:
    page = tmp_path / "faults.html"
    command = [sys.executable, "-m", "fuseline", "lab", "faults", "--attack", "unsigned", "--model", "skip"]
    command += ["--sample", "40", "--workers", "1", "--report", str(page), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["faults"] == 40
    assert page.read_text().startswith("<!doctype html>")
