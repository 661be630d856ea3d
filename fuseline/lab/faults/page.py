"""A fault campaign as one HTML page that needs nothing else: no script, no font, no other host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from fuseline.lab.faults.run import Outcome

if TYPE_CHECKING:
    from fuseline.lab.faults.campaign import CampaignReport

_CSS: Final = """
:root { color-scheme: light dark; --ground: #f4f6f8; --surface: #fff; --ink: #131a22; --muted: #55616f;
  --line: #dbe1e8; --ok: #1a6e3c; --bad: #ae2018; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --surface: #151b23; --ink: #e6ebf1;
  --muted: #9aa7b5; --line: #2a333e; --ok: #63d08f; --bad: #ff938a; } }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 0.9375rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.0625rem; margin: 2rem 0 0.75rem; }
.muted { color: var(--muted); } .ok { color: var(--ok); } .bad { color: var(--bad); }
.table { overflow-x: auto; background: var(--surface); border: 1px solid var(--line); border-radius: 0.5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.75rem; text-align: left; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--muted); font-weight: 500; font-size: 0.8125rem; }
"""

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fault campaign</title><style>{css}</style></head>
<body><main>
<h1>Fault campaign against the boot ROM</h1>
<p class="muted">ROM {rom}, {reset} reset, seed {seed}. {faults:,} faults in {elapsed:.0f} s.</p>
<p class="{mark}"><strong>{verdict}</strong></p>
<h2>Cases</h2>
{cases}
<h2>Not withstood</h2>
{findings}
</main></body></html>
"""


def render_page(report: CampaignReport) -> str:
    """Return the report as a page."""
    case_rows = (
        [
            case.case.attack.value,
            case.case.model.value,
            f"{case.instructions:,}",
            f"{case.faults:,}",
            f"{case.population:,}",
            *(f"{case.count(outcome):,}" for outcome in Outcome),
        ]
        for case in report.cases
    )
    finding_rows = [
        [
            case.case.attack.value,
            case.case.model.value,
            finding.outcome.value,
            finding.place,
            f"{finding.address:#06x}",
            f"{finding.index:,}",
            finding.fault,
            finding.how,
        ]
        for case in report.cases
        for finding in case.findings
    ]
    case_columns = (
        "attack",
        "model",
        "instructions",
        "faults",
        "of",
        *(outcome.value for outcome in Outcome),
    )
    finding_columns = ("attack", "model", "outcome", "place", "address", "instruction", "fault", "how")
    return _PAGE.format(
        css=_CSS,
        rom=report.rom_digest.hex(),
        reset=report.plan.reset.name.lower(),
        seed=report.plan.seed,
        faults=report.faults,
        elapsed=report.elapsed,
        mark="ok" if report.holds else "bad",
        verdict="The ROM holds." if report.holds else "There are ways in.",
        cases=_table(case_columns, case_rows),
        findings=_table(finding_columns, finding_rows) if finding_rows else "<p>Nothing.</p>",
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
