"""Scores as text: percent, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

UNKNOWN = "-"


def percent(score: float | None, deviation: float | None = None) -> str:
    """A score of 0..1 in percent, such as `87.3` or `87.3 ± 0.4`; `-` where it is unknown."""
    if score is None:
        return UNKNOWN
    return number(100 * score, None if deviation is None else 100 * deviation)


def number(value: float, deviation: float | None = None) -> str:
    """A number with one decimal, and its deviation where there is one."""
    return f"{value:.1f}" if deviation is None else f"{value:.1f} ± {deviation:.1f}"


def cell(text: str | None) -> str | None:
    """A text that no spreadsheet takes for a formula: one that begins like one gets a quote."""
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown that can be read as plain text too."""
    rows = [list(row) for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Iterable[str]) -> str:
        padded = [f"{c:<{w}}" for c, w in zip(cells, widths, strict=True)]
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(header), line("-" * w for w in widths), *map(line, rows)])
