"""Charts as inline SVG, in one look: numbers in, text out.

Colours and fonts are those of the page, by CSS classes, so that a chart fits a dark page, a light
one and paper. All text is escaped; what is not finite is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]
Range = tuple[float, float]

WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 40
# A line of more points than its pixels is thinned out to so many.
_MOST_POINTS = 400
# Numbers on a logarithmic axis.
_ROUND = [mantissa * 10.0**power for power in range(5) for mantissa in (1, 2, 5)]
COLOURS = 10


def lines(
    title: str,
    series: Mapping[str, Points],
    *,
    xlabel: str,
    ylabel: str = "",
    x_range: Range | None = None,
    y_range: Range | None = None,
    diagonal: bool = False,
    log_x: bool = False,
    errors: Sequence[float] = (),
) -> str:
    """A line for each series of points (x, y), with a legend where there are several.

    `title` is what a screen reader says of the chart. `diagonal` draws a dashed line from corner to
    corner, `errors` a bar of so much up and down at each point of the first series; `log_x` takes
    x > 0. Without points the chart says so.
    """
    finite = {name: _finite(points) for name, points in series.items()}
    finite = {name: points for name, points in finite.items() if points}
    everything = [point for points in finite.values() for point in points]
    if not everything:
        return _frame(title, _text(WIDTH / 2, HEIGHT / 2, "no values", "middle"))
    frame = _Frame(
        x_range or _spread([x for x, _ in everything]),
        y_range or _spread([y for _, y in everything]),
        log_x=log_x,
    )
    parts = [frame.axes(xlabel, ylabel)]
    if diagonal:
        parts.append(_line(frame.x(frame.low_x), frame.y(frame.low_y), frame.x(frame.high_x),
                           frame.y(frame.high_y), "level"))  # fmt: skip
    for number, points in enumerate(finite.values()):
        kind = number % COLOURS
        places = [(frame.x(x), frame.y(y)) for x, y in _thinned(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line c{kind}" points="{path}"/>')
        if number == 0:
            for (x, y), error in zip(points, errors, strict=False):
                at = frame.x(x)
                parts.append(_line(at, frame.y(y - error), at, frame.y(y + error), "tick"))
        if len(places) <= 30:
            parts += [f'<circle class="dot c{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
                      for x, y in places]  # fmt: skip
    return _frame(title, "".join(parts)) + (legend(list(finite)) if len(finite) > 1 else "")


def columns(title: str, edges: Sequence[float], counts: Sequence[float], *, xlabel: str,
            ylabel: str) -> str:  # fmt: skip
    """A histogram: `counts` of what lies between one of the n+1 `edges` and the next."""
    frame = _Frame((edges[0], edges[-1]), (0.0, max([*counts, 1e-9]) * 1.05))
    parts = [frame.axes(xlabel, ylabel)]
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count > 0:
            left, top = frame.x(low), frame.y(count)
            size = f'width="{max(0.5, frame.x(high) - left - 0.6):.1f}"'
            size += f' height="{frame.y(0) - top:.1f}"'
            says = f"<title>{low:.2f} to {high:.2f}: {count:g}</title>"
            parts.append(f'<rect class="fill c0" x="{left:.1f}" y="{top:.1f}" {size}>{says}</rect>')
    return _frame(title, "".join(parts))


def legend(names: Sequence[str]) -> str:
    """What the colours of `lines` stand for, as HTML."""
    keys = [f'<li><span class="key c{number % COLOURS}"></span>{escape(name)}</li>'
            for number, name in enumerate(names)]  # fmt: skip
    return f'<ul class="legend">{"".join(keys)}</ul>'


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` + 1 round numbers in low..high, evenly spaced."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


class _Frame:
    """Where values lie on the picture."""

    def __init__(self, x_range: Range, y_range: Range, *, log_x: bool = False):
        self.low_x, self.high_x = x_range
        self.low_y, self.high_y = y_range
        self.log_x = log_x

    def x(self, value: float) -> float:
        low, high = self.low_x, self.high_x
        if self.log_x:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low_y) / (self.high_y - self.low_y)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    def axes(self, xlabel: str, ylabel: str) -> str:
        parts = []
        heights = ticks(self.low_y, self.high_y, 4)
        for value, number in zip(heights, _numbers(heights), strict=True):
            y = self.y(value)
            parts.append(_line(_LEFT, y, WIDTH - _RIGHT, y, "grid"))
            parts.append(_text(_LEFT - 5, y + 3.5, number, "end"))
        places = ticks(self.low_x, self.high_x)
        if self.log_x:
            places = [p for p in _ROUND if self.low_x <= p <= self.high_x] or places
        for value, number in zip(places, _numbers(places), strict=True):
            x = self.x(value)
            parts.append(_line(x, HEIGHT - _BOTTOM, x, HEIGHT - _BOTTOM + 4, "tick"))
            parts.append(_text(x, HEIGHT - _BOTTOM + 15, number, "middle"))
        parts.append(_line(_LEFT, HEIGHT - _BOTTOM, WIDTH - _RIGHT, HEIGHT - _BOTTOM, "axis"))
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        parts.append(_text(middle, HEIGHT - 8, xlabel, "middle", "label"))
        if ylabel:
            place = f'transform="translate(11 {(_TOP + HEIGHT - _BOTTOM) / 2:.0f}) rotate(-90)"'
            text = escape(ylabel)
            parts.append(f'<text class="label" text-anchor="middle" {place}>{text}</text>')
        return "".join(parts)


def _frame(title: str, inner: str) -> str:
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg class="chart" {box} role="img"><title>{escape(title)}</title>{inner}</svg>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "number") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(text)}</text>'


def _numbers(values: Sequence[float]) -> list[str]:
    """Evenly spaced numbers, as short as they can be told apart: 0.25, 1,000, 20k, 1e-05."""
    largest = max(map(abs, values), default=0.0)
    if largest >= 10_000:
        return [f"{value / 1000:,g}k" if value else "0" for value in values]
    step = values[1] - values[0] if len(values) > 1 else largest or 1.0
    if largest < 1e-3:
        return [f"{value:.3g}" for value in values]
    digits = max(0, 3 - math.floor(math.log10(step)))
    return [f"{round(value, digits):,.{digits}f}".rstrip("0").rstrip(".") if digits else
            f"{value:,.0f}" for value in values]  # fmt: skip


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _spread(values: Sequence[float]) -> Range:
    """From the lowest to the highest; wider where they are one."""
    low, high = min(values), max(values)
    room = 0.0 if high - low > 1e-9 * max(abs(low), abs(high)) else max(abs(low) * 0.1, 1e-3)
    return low - room, high + room


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most _MOST_POINTS of them, evenly, with the first and the last."""
    if len(points) <= _MOST_POINTS:
        return points
    step = (len(points) - 1) / (_MOST_POINTS - 1)
    return [points[round(i * step)] for i in range(_MOST_POINTS)]
