"""A fleet of chips as one HTML page that needs nothing else: no script, no font, no other host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from fuseline.device.silicon.puf import Conditions
from fuseline.device.silicon.puf.helper import CODE_BITS, READINGS
from fuseline.lab.chip.fleet import ChipRow, FleetReport

_CSS: Final = """
:root { color-scheme: light dark; --ground: #f4f6f8; --surface: #fff; --ink: #131a22; --muted: #55616f;
  --line: #dbe1e8; --accent: #0b6470; --ok: #1a6e3c; --bad: #ae2018; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --surface: #151b23; --ink: #e6ebf1;
  --muted: #9aa7b5; --line: #2a333e; --accent: #63c8d0; --ok: #63d08f; --bad: #ff938a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 0.9375rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.0625rem; margin: 2rem 0 0.75rem; }
.muted { color: var(--muted); } .ok { color: var(--ok); } .bad { color: var(--bad); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
  gap: 0.75rem; }
figure, .table { background: var(--surface); border: 1px solid var(--line); border-radius: 0.5rem; }
figure { margin: 0; padding: 0.75rem; } figcaption { font-weight: 600; margin-bottom: 0.5rem; }
svg { width: 100%; max-width: 28rem; height: auto; display: block; } svg rect { fill: var(--accent); }
svg text { fill: var(--muted); font-size: 11px; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.75rem; text-align: left; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--muted); font-weight: 500; font-size: 0.8125rem; }
"""

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fleet of chips</title><style>{css}</style></head>
<body><main>
<h1>Fleet of {count:,} chips</h1>
<p class="muted">Seed {seed}. Each made, provisioned and booted through its ROM: {runs:,} runs of machine code
in {seconds:.0f} s on {workers} workers of at most {peak:.0f} MiB.</p>
<p class="{mark}"><strong>{verdict}</strong></p>
<h2>Outcomes</h2>
{outcomes}
<h2>Conditions</h2>
{conditions}
<h2>Readings that the PUF corrected</h2>
<p class="muted">Of {readings:,} readings that vote, how many were not as at enrolment, by chip.</p>
<div class="plots">{plots}</div>
<h2>Chips that did not boot</h2>
{failures}
</main></body></html>
"""

_BINS: Final = 30
_PLOT: Final = (360, 130, 18)
"""Width, height, and height of the line of labels, in the units of the picture."""
_SHOWN: Final = 500
"""Failures that the page lists; `--json` has all of them."""


def render_page(report: FleetReport) -> str:
    """Return the report as a page."""
    plan = report.plan
    return _PAGE.format(
        css=_CSS,
        count=plan.count,
        seed=plan.seed,
        runs=report.effort.runs,
        seconds=report.seconds,
        workers=plan.workers,
        peak=report.effort.peak_rss / 2**20,
        mark="ok" if report.held else "bad",
        verdict=escape(verdict(report)),
        outcomes=_table(["outcome", "chips"], ([name, f"{n:,}"] for name, n in report.outcomes.items())),
        conditions=_table(CONDITION_COLUMNS, condition_rows(report)),
        readings=READINGS * CODE_BITS,
        plots="".join(_plot(one, report.corrected(one)) for one in plan.conditions),
        failures=_failures(report),
    )


def verdict(report: FleetReport) -> str:
    """Say in one sentence what became of the fleet."""
    booted = report.plan.count - len(report.failures)
    same = (
        "no two identities equal" if not report.duplicates else f"{len(report.duplicates)} identities twice"
    )
    return f"{booted:,} of {report.plan.count:,} chips booted, {same}"


CONDITION_COLUMNS: Final = (
    "temperature °C",
    "age in years",
    "chips",
    "booted",
    "corrected: least",
    "median",
    "most",
)


def condition_rows(report: FleetReport) -> list[list[str]]:
    """Return a row for each of the fleet's conditions, in `CONDITION_COLUMNS`."""
    rows = []
    for conditions in report.plan.conditions:
        chips = [row for row in report.rows if row.conditions == conditions]
        corrected = report.corrected(conditions)
        middle = [corrected[0], corrected[len(corrected) // 2], corrected[-1]] if corrected else []
        rows.append(
            [
                f"{conditions.temperature_c:g}",
                f"{conditions.age_years:g}",
                f"{len(chips):,}",
                f"{sum(row.booted for row in chips):,}",
                *(f"{value:,}" for value in middle),
            ]
        )
    return rows


def failure_row(row: ChipRow) -> list[str]:
    """Return what there is to say of a chip that did not boot."""
    conditions = f"{row.conditions.temperature_c:g} °C, {row.conditions.age_years:g} years"
    return [str(row.index), str(row.seed), conditions, row.outcome, row.code or "", row.detail]


FAILURE_COLUMNS: Final = ("chip", "seed", "conditions", "outcome", "code", "why")


def _failures(report: FleetReport) -> str:
    failures = report.failures
    if not failures:
        return '<p class="ok">None.</p>'
    more = f'<p class="muted">and {len(failures) - _SHOWN:,} more</p>' if len(failures) > _SHOWN else ""
    return _table(FAILURE_COLUMNS, map(failure_row, failures[:_SHOWN])) + more


def _plot(conditions: Conditions, corrected: Sequence[int]) -> str:
    caption = f"{conditions.temperature_c:g} °C, {conditions.age_years:g} years"
    return f"<figure><figcaption>{escape(caption)}</figcaption>{_histogram(corrected)}</figure>"


def _histogram(values: Sequence[int]) -> str:
    if not values:
        return '<p class="muted">No chip booted.</p>'
    width, height, label = _PLOT
    least, most = min(values), max(values)
    step = max(1, -(-(most - least + 1) // _BINS))
    bins = [0] * (-(-(most - least + 1) // step))
    for value in values:
        bins[(value - least) // step] += 1
    bar = width / len(bins)
    bars = "".join(
        f'<rect x="{number * bar + 0.5:.1f}" y="{height - tall:.1f}" '
        f'width="{bar - 1:.1f}" height="{tall:.1f}"/>'
        for number, tall in enumerate(height * times / max(bins) for times in bins)
    )
    text = (
        f'<text x="0" y="{height + label - 4}">{least:,}</text>'
        f'<text x="{width}" y="{height + label - 4}" text-anchor="end">{most:,}</text>'
        f'<text x="{width / 2:g}" y="{height + label - 4}" text-anchor="middle">'
        f"tallest: {max(bins):,} chips</text>"
    )
    name = f"{len(values):,} chips, {least:,} to {most:,} corrected readings"
    return f'<svg viewBox="0 0 {width} {height + label}" role="img" aria-label="{name}">{bars}{text}</svg>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
