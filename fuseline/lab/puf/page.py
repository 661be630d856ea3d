"""The PUF report as one HTML page that needs nothing else: no script, no font, no other host."""

from __future__ import annotations

from html import escape
from typing import Final

from fuseline.device.silicon.puf.bch import T
from fuseline.device.silicon.puf.cells import CELLS
from fuseline.device.silicon.puf.extractor import MESSAGE_BITS
from fuseline.device.silicon.puf.helper import HELPER_SIZE, READINGS
from fuseline.lab.puf.facts import ConditionFacts, PufFacts, Spread, SweepPoint

_CSS: Final = """
:root { color-scheme: light dark; --ground: #f4f6f8; --surface: #fff; --ink: #131a22; --muted: #55616f;
  --line: #dbe1e8; --accent: #0b6470; --busy: #2457b3; --ok: #1a6e3c; --bad: #ae2018; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --surface: #151b23; --ink: #e6ebf1;
  --muted: #9aa7b5; --line: #2a333e; --accent: #63c8d0; --busy: #8db4f8; --ok: #63d08f; --bad: #ff938a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 0.9375rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 0.25rem; }
h2 { font-size: 1.0625rem; margin: 2rem 0 0.75rem; }
p { margin: 0 0 0.75rem; max-width: 46rem; }
.muted { color: var(--muted); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: 0.75rem;
  margin: 1.25rem 0; } .tile, figure, .table { background: var(--surface); border: 1px solid var(--line);
border-radius: 0.5rem; } .tile { padding: 0.75rem 0.875rem; } .tile dt { color: var(--muted); font-size:
0.8125rem; } .tile dd { margin: 0.125rem 0; font-size: 1.375rem; font-weight: 650; font-variant-numeric:
tabular-nums; } .tile dd + dd { font-size: 0.8125rem; font-weight: 400; color: var(--muted); } .tile.ok
dd:first-of-type { color: var(--ok); } .tile.bad dd:first-of-type { color: var(--bad); } .plots { display:
grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0.75rem; } figure {
margin: 0; padding: 0.75rem; min-width: 0; } figure svg { width: 100%; height: auto; display: block; }
figcaption { font-weight: 600; margin-bottom: 0.5rem; } .table { overflow-x: auto; } table {
border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; } th, td { padding: 0.4rem
0.75rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); } thead th { border-top:
0; color: var(--muted); font-weight: 500; font-size: 0.8125rem; } th:first-child, td:first-child {
text-align: left; }
"""

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>PUF report</title><style>{css}</style></head>
<body><main>
<h1>PUF report</h1><p class="muted">{lead}</p>
{tiles}
<div class="plots">{plots}</div>
<h2>Every chip, computed</h2>
<p>Enrolled at 25 °C when new. Each chip's probability to fail is computed from the probability of each of its
cells; the worst chip's is the one to quote.</p>
{conditions}
<h2>Injected bit errors</h2>
{sweep}
<h2>Measures</h2>
{measures}
<h2>Notes</h2>
{notes}
</main></body></html>
"""

_TINY: Final = 1e-300
"""Smaller numbers lose their digits in double precision."""


def render_page(facts: PufFacts) -> str:
    """Render what a study found as one self-contained HTML page."""
    plan = facts.study
    lead = (
        f"{plan.chips} simulated chips of {CELLS:,} SRAM cells, {plan.readouts} readouts each at 25 °C; "
        f"a secret of {MESSAGE_BITS} bits from BCH(255, 131, {T}) twice, {READINGS} readings to a code bit, "
        f"helper data of {HELPER_SIZE:,} octets."
    )
    return _PAGE.format(
        css=_CSS,
        lead=escape(lead),
        tiles=_tiles(facts),
        plots=_plots(facts),
        conditions=_conditions(facts.conditions),
        sweep=_sweep(facts.sweep),
        measures=_measures(facts),
        notes=_notes(facts),
    )


def _plots(facts: PufFacts) -> str:
    # matplotlib takes most of a second to import: only who renders a page pays.
    from fuseline.lab.puf.plots import conditions_plot, failure_plot, histogram_plot  # noqa: PLC0415

    figures = {
        "Reliability": histogram_plot(
            "reliability", facts.reliability_histogram, facts.reliability, "cells as at enrolment, %", "chips"
        ),
        "Uniqueness": histogram_plot(
            "uniqueness",
            facts.uniqueness_histogram,
            facts.uniqueness,
            "cells that differ, %",
            "pairs of chips",
        ),
        "Uniformity": histogram_plot(
            "uniformity", facts.uniformity_histogram, facts.uniformity, "cells that are 1, %", "chips"
        ),
        "Bit-aliasing": histogram_plot(
            "aliasing", facts.bit_aliasing_histogram, facts.bit_aliasing, "chips whose cell is 1, %", "cells"
        ),
        "Key failure against bit error": failure_plot(facts),
        "Temperature and age": conditions_plot(facts),
    }
    return "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>" for title, svg in figures.items()
    )


def _tiles(facts: PufFacts) -> str:
    campaign, entropy = facts.campaign, facts.entropy
    worst = max(facts.conditions, key=lambda condition: condition.key_failure_worst)
    tiles = [
        _tile(
            "Reliability",
            _percent(facts.reliability.mean),
            f"worst {_percent(facts.reliability.least)}",
        ),
        _tile("Uniqueness", _percent(facts.uniqueness.mean), "ideal 50 %"),
        _tile("Uniformity", _percent(facts.uniformity.mean), "ideal 50 %"),
        _tile(
            "Min-entropy of a cell",
            f"{entropy.across_chips:.3f}",
            f"ideal cells: {entropy.across_chips_ceiling:.3f}",
        ),
        _tile(
            "Key failure, worst chip",
            _probability(worst.key_failure_worst),
            f"at {worst.temperature_c:g} °C, {worst.age_years:g} years",
            "ok" if worst.key_failure_worst <= 1e-9 else "bad",
        ),
        _tile(
            "Simulated failures",
            f"{campaign.failures:,}",
            f"in {campaign.reconstructions:,} at 25 °C",
            "bad" if campaign.failures else "ok",
        ),
    ]
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def _tile(name: str, value: str, more: str, state: str = "") -> str:
    facts = f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd>{escape(more)}</dd>"
    return f'<div class="tile {state}">{facts}</div>'


def _conditions(conditions: tuple[ConditionFacts, ...]) -> str:
    return _table(
        (
            "Temperature",
            "Age",
            "Bit error, mean",
            "worst",
            "Key failure, mean",
            "worst",
            "Worst chip",
            "Worst bit outvoted",
        ),
        [
            (
                f"{condition.temperature_c:g} °C",
                f"{condition.age_years:g} years",
                _percent(condition.bit_error_mean),
                _percent(condition.bit_error_worst),
                _probability(condition.key_failure_mean),
                _probability(condition.key_failure_worst),
                f"seed {condition.worst_chip}",
                _probability(condition.worst_vote),
            )
            for condition in conditions
        ],
    )


def _sweep(sweep: tuple[SweepPoint, ...]) -> str:
    return _table(
        ("Bit error", "Reconstructions", "Failures", "Expected", "Wrong secrets"),
        [
            (
                _percent(point.bit_error),
                f"{point.campaign.reconstructions:,}",
                f"{point.campaign.failures:,}",
                f"{point.expected * point.campaign.reconstructions:.1f}",
                f"{point.campaign.wrong_secrets:,}",
            )
            for point in sweep
        ],
    )


def _measures(facts: PufFacts) -> str:
    rows: list[tuple[str, Spread]] = [
        ("Reliability, of a chip", facts.reliability),
        ("Uniqueness, of two chips", facts.uniqueness),
        ("Uniformity, of a chip", facts.uniformity),
        ("Bit-aliasing, of a cell", facts.bit_aliasing),
    ]
    return _table(
        ("Measure", "Mean", "Least", "Greatest", "Ideal", "Ideal deviation"),
        [
            (
                name,
                _percent(spread.mean),
                _percent(spread.least),
                _percent(spread.greatest),
                _percent(spread.ideal),
                _percent(spread.ideal_deviation) if spread.ideal_deviation else "none",
            )
            for name, spread in rows
        ],
    )


def _notes(facts: PufFacts) -> str:
    entropy, plan = facts.entropy, facts.study
    estimate = (
        f"Min-entropy across chips is an estimate from {plan.chips} chips, so it falls short of 1 even for "
        "ideal cells; what those would show stands beside it. The most common value estimate (SP 800-90B "
        f"6.3.1) of the worst chip is {entropy.within_worst_chip:.3f} bits a cell. Of the de-biased bits, "
        f"{_percent(entropy.debiased_ones)} are ones."
    )
    model = (
        f"Noise is {plan.noise:g} and bias {plan.bias:g} in units of the spread of mismatch. The noise is "
        "fitted to readouts of two real chips, ageing to two years of published measurement. Figures beyond "
        "two years extrapolate, and no chip of yours has been measured."
    )
    return "".join(f'<p class="muted">{escape(note)}</p>' for note in (estimate, model))


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _percent(share: float) -> str:
    return f"{100.0 * share:.2f} %"


def _probability(value: float) -> str:
    return "< 1e-300" if value < _TINY else f"{value:.1e}"
