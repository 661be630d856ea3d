"""The pictures of the PUF report: SVG in the colours of the page, right in light and in dark."""

from __future__ import annotations

import io
from typing import Any, Final, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fuseline.lab.puf.facts import Histogram, PufFacts, Spread

_INK: Final = "#010203"
_MUTED: Final = "#010204"
_LINE: Final = "#010205"
_ACCENT: Final = "#010206"
_BUSY: Final = "#010207"
_BAD: Final = "#010208"
_VARIABLES: Final = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _LINE: "var(--line)",
    _ACCENT: "var(--accent)",
    _BUSY: "var(--busy)",
    _BAD: "var(--bad)",
}
"""Colours that nobody would choose stand for the page's own, and are replaced in the text of the SVG."""

_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "ytick.minor.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
_SIZE: Final = (4.3, 2.7)
"""Inches. At 72 points an inch a phone of 390 pixels shows it at about its own size."""
_FLOOR: Final = 1e-15
"""The failure plot ends here: nothing below it has a meaning outside mathematics."""


def _render(name: str, figure: Figure) -> str:
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg


def _axes(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        figure.patch.set_alpha(0.0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0.0)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
    return figure, axes


def _legend(axes: Axes, location: Literal["upper right", "lower right", "upper center"]) -> None:
    with mpl.rc_context(_STYLE):
        axes.legend(loc=location)


def histogram_plot(name: str, histogram: Histogram, spread: Spread, xlabel: str, ylabel: str) -> str:
    """Draw a histogram in percent, with what ideal cells would give as a line where there is such a thing."""
    figure, axes = _axes(xlabel, ylabel)
    edges = 100.0 * np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)
    axes.stairs(histogram.counts, edges, fill=True, color=_ACCENT, alpha=0.55, label="simulated chips")
    if spread.ideal_deviation:
        at = np.linspace(edges[0], edges[-1], 200)
        width = 100.0 * spread.ideal_deviation
        density = np.exp(-(((at - 100.0 * spread.ideal) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
        axes.plot(
            at, density * sum(histogram.counts) * (edges[1] - edges[0]), color=_BUSY, label="ideal cells"
        )
    else:
        axes.axvline(100.0 * spread.ideal, color=_BUSY, label="expected of this noise")
    axes.set_ylim(top=1.35 * max(axes.get_ylim()[1] / 1.05, 1.0))
    _legend(axes, "upper right")
    return _render(name, figure)


def failure_plot(facts: PufFacts) -> str:
    """Draw the probability of failure against bit error: exact curves, and what was simulated."""
    figure, axes = _axes("bit error of a reading, %", "probability that the key is not found")
    error = [100.0 * point.bit_error for point in facts.curve]
    one_cell = [point.one_cell_of_each_pair for point in facts.curve]
    axes.semilogy(
        error, [point.key_failure for point in facts.curve], color=_ACCENT, label="this code, exact"
    )
    axes.semilogy(error, one_cell, color=_MUTED, linestyle="--", label="one cell of each pair, exact")
    seen = [point for point in facts.sweep if point.campaign.failures]
    axes.semilogy(
        [100.0 * point.bit_error for point in seen],
        [point.campaign.failures / point.campaign.reconstructions for point in seen],
        "o",
        color=_BUSY,
        markersize=4.5,
        label="simulated",
    )
    axes.axhline(1e-9, color=_BAD, linewidth=1.0, linestyle=":", label="1e-9, the goal at 20 %")
    axes.set_ylim(_FLOOR, 3.0)
    axes.set_xlim(14.0, 56.0)
    axes.set_yticks([10.0**power for power in range(-15, 1, 3)])
    axes.minorticks_off()
    _legend(axes, "lower right")
    return _render("failure", figure)


def conditions_plot(facts: PufFacts) -> str:
    """Draw the worst chip's bit error against temperature, one line for each age."""
    figure, axes = _axes("temperature, °C", "bit error of the worst chip, %")
    ages = sorted({condition.age_years for condition in facts.conditions})
    for age, colour, marker in zip(
        ages, [_ACCENT, _BUSY, _BAD, _MUTED] * len(ages), "os^D" * len(ages), strict=False
    ):
        points = sorted(
            (condition.temperature_c, 100.0 * condition.bit_error_worst)
            for condition in facts.conditions
            if condition.age_years == age
        )
        label = "new" if age == 0 else f"{age:g} years"
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, color=colour, label=label)
    axes.set_ylim(0.0, 25.0)
    _legend(axes, "upper center")
    return _render("conditions", figure)
