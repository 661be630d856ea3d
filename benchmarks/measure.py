"""Compare servers on one machine: interleaved rounds, medians with their range, ratios per round.

Every server is pinned to one core and the client to another. All servers run for the whole comparison and
are asked in turn (A, B, C, A, B, C, ...), so that a busy neighbour hits all of them alike. Two figures come
out of a round:

* requests per second, which moves with whatever else the machine does;
* server CPU microseconds per request (user and system time of the server's whole process tree), which moves
  far less and is the one to trust. It includes opening the connections: a few of them against thousands of
  requests in ``keep`` mode, and the very thing measured in ``handshake`` mode.

A round with an error or with an answer outside 2xx taints its row: the row says so and gives no figures.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.loadgen import GRACE_SECONDS, Load, Outcome, Target
from fuseline.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SERVER_CORE = 0
CLIENT_CORE = 1
ROOT = Path(__file__).resolve().parent.parent
# proc(5): utime and stime are counted in ticks of this length.
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_DIAL_SECONDS = 5.0
_STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of one HTTP exchange."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers.

    Args:
        pid: Its root process; children count as part of it.
        target: How the load generator reaches it.
        note: What a reader of the figures must know, for example the event loop.
        expect: Bytes that must be in the body of every checked answer, so that an empty answer is never
            mistaken for a fast one.
    """

    pid: int
    target: Target
    note: str = ""
    expect: bytes = b""

    def check(self) -> Answer:
        """Ask once and return the answer.

        Raises:
            SetupError: The status is not 200, or the expected bytes are missing.
        """
        answer = exchange(self.target)
        if answer.status != 200 or self.expect not in answer.body:
            raise SetupError(
                "The server does not give the answer that is to be measured",
                status=answer.status,
                body=answer.body[:300].decode("latin-1"),
                expected=self.expect.decode("latin-1"),
            )
        return answer


@dataclass(frozen=True, slots=True)
class Configuration:
    """One row of the comparison: a running server under one kind of load."""

    name: str
    server: Running
    load: Load


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that could not be measured, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Round:
    """One run of the load generator and what the server spent on it."""

    outcome: Outcome
    server_cpu_seconds: float

    @property
    def requests_per_second(self) -> float:
        """Answers per wall second."""
        return self.outcome.requests / self.outcome.wall_seconds

    @property
    def cpu_us(self) -> float:
        """Server CPU microseconds per answer."""
        return self.server_cpu_seconds * 1e6 / max(self.outcome.requests, 1)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def show(self, digits: int = 0) -> str:
        """Return ``median (low-high)``."""
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f}-{self.high:,.{digits}f})"


@dataclass(frozen=True, slots=True)
class Row:
    """All rounds of one configuration."""

    name: str
    load: Load
    note: str
    rounds: tuple[Round, ...]

    @property
    def flaw(self) -> str:
        """Why the figures do not count; empty when they do."""
        errors = sum(r.outcome.errors for r in self.rounds)
        non_2xx = sum(r.outcome.non_2xx for r in self.rounds)
        if errors or non_2xx:
            return f"{errors} errors, {non_2xx} answers outside 2xx"
        return "" if all(r.outcome.requests for r in self.rounds) else "a round without answers"

    @property
    def requests_per_second(self) -> Spread:
        """Answers per second over the rounds."""
        return Spread.of([r.requests_per_second for r in self.rounds])

    @property
    def cpu_us(self) -> Spread:
        """Server CPU microseconds per answer over the rounds."""
        return Spread.of([r.cpu_us for r in self.rounds])

    @property
    def p50_ms(self) -> Spread:
        """Median latency over the rounds."""
        return Spread.of([r.outcome.p50_ms for r in self.rounds])

    @property
    def p99_ms(self) -> Spread:
        """99th percentile of the latency over the rounds."""
        return Spread.of([r.outcome.p99_ms for r in self.rounds])

    @property
    def client_busy(self) -> Spread:
        """Share of its core that the client used over the rounds."""
        return Spread.of([r.outcome.client_busy for r in self.rounds])


@dataclass(frozen=True, slots=True)
class Ratio:
    """How two rows compare, round by round: both sides of a pair were measured seconds apart.

    Args:
        name: The row that is judged.
        against: The row it is judged by.
        throughput: Its requests per second divided by the other's; above 1 it is faster.
        cost: Its CPU per request divided by the other's; below 1 it is cheaper.
    """

    name: str
    against: str
    throughput: Spread
    cost: Spread


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the figures come from."""

    processor: str
    cores: int
    kernel: str
    python: str
    load_average: float

    @classmethod
    def here(cls) -> Machine:
        """Describe this machine, with its load average of the last minute."""
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in facts if line.startswith("model name")]
        return cls(
            processor=names[0] if names else platform.machine(),
            cores=os.cpu_count() or 1,
            kernel=platform.release(),
            python=platform.python_version(),
            load_average=os.getloadavg()[0],
        )


@dataclass(frozen=True, slots=True)
class Report:
    """Everything measured in one comparison."""

    machine: Machine
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...] = ()

    def row(self, name: str) -> Row | None:
        """Return the row of that name if it was measured without a flaw."""
        return next((row for row in self.rows if row.name == name and not row.flaw), None)

    def ratio(self, name: str, against: str) -> Ratio | None:
        """Compare two rows; None when either was skipped or is flawed."""
        ours, theirs = self.row(name), self.row(against)
        if ours is None or theirs is None:
            return None
        pairs = list(zip(ours.rounds, theirs.rounds, strict=True))
        return Ratio(
            name,
            against,
            throughput=Spread.of([a.requests_per_second / b.requests_per_second for a, b in pairs]),
            cost=Spread.of([a.cpu_us / max(b.cpu_us, 1e-3) for a, b in pairs]),
        )

    def as_json(self, ratios: Sequence[Ratio] = ()) -> str:
        """Return all rounds, their summaries and the ratios as JSON."""
        rows = [asdict(row) | _summary(row) for row in self.rows]
        document = {
            "machine": asdict(self.machine),
            "rows": rows,
            "skipped": [asdict(row) for row in self.skipped],
            "ratios": [asdict(ratio) for ratio in ratios],
        }
        return json.dumps(document, indent=2)

    def table(self, title: str) -> Table:
        """Return the rows as a table: medians with their range."""
        table = Table(title=title, caption=f"{self.machine.processor}, {self.machine.cores} cores")
        table.add_column("configuration")
        for heading in ("requests/s", "server CPU us/request", "p50 ms", "p99 ms", "client busy"):
            table.add_column(heading, justify="right")
        for row in self.rows:
            table.add_row(row.name, *_cells(row))
        for skipped in self.skipped:
            table.add_row(skipped.name, f"skipped: {skipped.reason}")
        return table


def _summary(row: Row) -> dict[str, object]:
    if row.flaw:
        return {"flaw": row.flaw}
    return {
        "requests_per_second": asdict(row.requests_per_second),
        "cpu_us_per_request": asdict(row.cpu_us),
        "p50_ms": asdict(row.p50_ms),
        "p99_ms": asdict(row.p99_ms),
    }


def _cells(row: Row) -> list[str]:
    if row.flaw:
        return [f"void: {row.flaw}"]
    busy = row.client_busy
    return [
        row.requests_per_second.show(),
        row.cpu_us.show(),
        row.p50_ms.show(2),
        row.p99_ms.show(2),
        f"{busy.median:.0%}",
    ]


def compare(
    configurations: Sequence[Configuration],
    *,
    rounds: int = 3,
    warm_up_seconds: float = 1.0,
    skipped: Sequence[Skipped] = (),
) -> Report:
    """Warm every configuration up, then measure all of them in turn, ``rounds`` times.

    Args:
        configurations: What to compare; their servers are running.
        rounds: How often each is measured.
        warm_up_seconds: Load before the first round, not counted.
        skipped: Rows to carry into the report.

    Raises:
        SetupError: A server stopped giving the expected answer, or the load generator failed to run.
    """
    machine = Machine.here()
    for configuration in configurations:
        configuration.server.check()
        load = configuration.load
        drive(configuration.server.target, Load(load.mode, load.connections, warm_up_seconds))
    measured: list[list[Round]] = [[] for _ in configurations]
    for _ in range(rounds):
        for configuration, done in zip(configurations, measured, strict=True):
            done.append(measure_round(configuration))
    for configuration in configurations:
        configuration.server.check()
    rows = [
        Row(c.name, c.load, c.server.note, tuple(done))
        for c, done in zip(configurations, measured, strict=True)
    ]
    return Report(machine, tuple(rows), tuple(skipped))


def measure_round(configuration: Configuration) -> Round:
    """Run the load once and charge the server's CPU time to it."""
    pid = configuration.server.pid
    before = process_tree_cpu_seconds(pid)
    outcome = drive(configuration.server.target, configuration.load)
    return Round(outcome, process_tree_cpu_seconds(pid) - before)


def drive(target: Target, load: Load) -> Outcome:
    """Run the load generator in its own process on the client's core.

    Raises:
        SetupError: It did not run, or did not end in time.
    """
    command = [sys.executable, "-m", "benchmarks.loadgen", "--json", "--core", str(CLIENT_CORE)]
    command += [*target.arguments(), *load.arguments()]
    patience = load.seconds + 2 * GRACE_SECONDS
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=patience, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SetupError("The load generator does not end", seconds=patience) from error
    if not done.stdout:
        raise SetupError("The load generator does not run", stderr=done.stderr[-500:])
    return Outcome(**json.loads(done.stdout))


@contextlib.contextmanager
def serving(
    command: Sequence[str],
    target: Target,
    *,
    log: Path,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    ready_seconds: float = 20.0,
    note: str = "",
    expect: bytes = b"",
) -> Iterator[Running]:
    """Run a server on its core for the length of the ``with`` block.

    The block begins when the server answers ``target`` with any status.

    Args:
        command: Program and arguments.
        target: Where it will answer.
        log: File for its output.
        cwd: Its working folder.
        env: Its whole environment; ours when None.
        ready_seconds: How long it may take to answer.
        note: See `Running`.
        expect: See `Running`.

    Raises:
        SetupError: It ended or did not answer in time; the evidence holds the end of its log.
    """
    require_cores()
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        # Before the interpreter has started a thread or a child: all of them inherit the core.
        os.sched_setaffinity(process.pid, {SERVER_CORE})
        _wait_until_answers(process, target, log, ready_seconds)
        yield Running(process.pid, target, note, expect)
    finally:
        _stop(process)


def _wait_until_answers(process: subprocess.Popen[bytes], target: Target, log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(encoding="utf-8", errors="replace")[-800:]
            state = "ended" if process.poll() is not None else f"did not answer within {seconds:.0f} s"
            raise SetupError(f"The server {state}", exit_status=process.poll(), log=tail)
        with contextlib.suppress(SetupError):
            exchange(target)
            return
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        # The session is its own (start_new_session), so this reaches its children and nobody else.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(_STOP_SECONDS)


def exchange(
    target: Target,
    method: str = "GET",
    *,
    path: str | None = None,
    body: bytes = b"",
    headers: Sequence[str] = (),
) -> Answer:
    """Make one request on a connection of its own.

    Args:
        target: Where to.
        method: The HTTP method.
        path: Another path than the target's.
        body: The request body.
        headers: Header lines besides the target's.

    Raises:
        SetupError: Nothing answers there, or not in HTTP.
    """
    request = Target(path=path or target.path, headers=(*target.headers, *headers)).request(method, body=body)
    try:
        with _connect(target) as connection:
            connection.sendall(request)
            response = http.client.HTTPResponse(connection, method=method)
            response.begin()
            return Answer(response.status, response.read())
    except (OSError, http.client.HTTPException) as error:
        raise SetupError("The server does not answer", path=target.path, reason=repr(error)) from error


def _connect(target: Target) -> socket.socket:
    if target.unix is not None:
        connection = socket.socket(socket.AF_UNIX)
    else:
        connection = socket.socket(socket.AF_INET6 if ":" in target.host else socket.AF_INET)
    try:
        connection.settimeout(_DIAL_SECONDS)
        connection.connect(str(target.unix) if target.unix is not None else (target.host, target.port))
        if target.tls is None:
            return connection
        return target.tls.context().wrap_socket(connection, server_hostname=target.tls.server_name)
    except OSError:
        connection.close()
        raise


def process_tree_cpu_seconds(pid: int) -> float:
    """Return the user and system CPU seconds of a process, its descendants and its reaped children.

    Source: proc(5), /proc/PID/stat, fields ppid, utime, stime, cutime and cstime.
    """
    processes = {
        int(entry.name): stat
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and (stat := _stat_fields(entry / "stat"))
    }
    tree = {pid}
    # A child can have a smaller number than its parent, so one pass is not enough.
    while grown := {p for p, stat in processes.items() if int(stat[1]) in tree} - tree:
        tree |= grown
    ticks = sum(int(tick) for p in tree & processes.keys() for tick in processes[p][11:15])
    return ticks / _TICKS_PER_SECOND


def _stat_fields(path: Path) -> list[str]:
    """Return the fields from ``state`` on; empty when the process is gone."""
    try:
        # The name before them is in brackets and may itself hold blanks and brackets.
        return path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def require_cores() -> None:
    """Make sure that server and client get a core each.

    Raises:
        SetupError: This process may not use both cores.
    """
    allowed = os.sched_getaffinity(0)
    if not {SERVER_CORE, CLIENT_CORE} <= allowed:
        raise SetupError("The benchmark needs cores 0 and 1", allowed=sorted(allowed))


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
