"""Small plots as inline SVG: shapes and a line of text for those who cannot see them.

Colours come from the page's style sheet by class, so that they follow dark mode; whatever a
colour says, a shape says too. Coordinates are user units; plots scale with their column.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

_PLOT_WIDTH = 320
_CDF_HEIGHT = 248
_NIGHTS_HEIGHT = 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 10, 10, 26

# More nights than these would be too narrow to tell apart.
MOST_NIGHTS = 31


def _svg(width: float, height: float, label: str, *shapes: str, kind: str = "plot") -> Markup:
    body = Markup("").join(Markup(shape) for shape in shapes)
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        kind, _n(width), _n(height), label, body
    )


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"></line>'


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    return (
        f'<rect class="{kind}" x="{_n(x)}" y="{_n(y)}" width="{_n(max(width, 0))}" '
        f'height="{_n(max(height, 0))}"></rect>'
    )


def _circle(x: float, y: float, radius: float, kind: str) -> str:
    return f'<circle class="{kind}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"></circle>'


def _diamond(x: float, y: float, radius: float, kind: str) -> str:
    points = ((x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y))
    return f'<polygon class="{kind}" points="{_points(points)}"></polygon>'


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)


def _text(x: float, y: float, text: object, anchor: str = "middle", kind: str = "") -> str:
    return (
        f'<text class="tick {kind}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def change_mark(
    now: float, before: float | None, median: float | None, most: float, matters: bool, label: str
) -> Markup:
    """This night, the one before and the usual on one scale from 0 to `most`."""
    width, middle = 150.0, 9.0

    def x(value: float) -> float:
        return 6 + (width - 12) * min(1.0, value / most if most else 0.0)

    shapes = [_line(6, middle, width - 6, middle, "axis")]
    if median is not None:
        shapes.append(_line(x(median), 2, x(median), 16, "usual"))
    if before is not None:
        shapes.append(_line(x(before), middle, x(now), middle, "move"))
        shapes.append(_circle(x(before), middle, 3.5, "before"))
    mark = _diamond if matters else _circle
    shapes.append(mark(x(now), middle, 6 if matters else 4.5, "alarm" if matters else "now"))
    return _svg(width, 18, label, *shapes, kind="mark")


def interval_mark(
    value: float, low: float, high: float, label: str, reference: float | None = None
) -> Markup:
    """A share with its interval from 0 to 1, and what it is read against."""
    width, middle = 190.0, 9.0

    def x(share: float) -> float:
        return 6 + (width - 12) * share

    shapes = [_line(6, middle, width - 6, middle, "axis")]
    if reference is not None:
        shapes.append(_line(x(reference), 1, x(reference), 17, "usual"))
    shapes.append(_rect(x(low), middle - 3.5, x(high) - x(low), 7, "interval"))
    shapes.append(_circle(x(value), middle, 4.5, "now"))
    return _svg(width, 18, label, *shapes, kind="mark")


def bar_mark(share: float, most: float, label: str) -> Markup:
    """A bar of a share, of the longest in its table."""
    width = 190.0
    length = width * (share / most if most else 0.0)
    return _svg(width, 12, label, _rect(0, 2, max(length, 1.5), 8, "bar"), kind="mark")


def evidence_mark(text: float, image: float, most: float, label: str) -> Markup:
    """What both modalities say for a label: bars to the right for it, to the left against it."""
    width, half = 190.0, 95.0
    shapes = [_line(half, 1, half, 23, "usual")]
    for y, value, kind in ((2, text, "bar"), (13, image, "bar other")):
        length = max((half - 4) * abs(value) / (most or 1.0), 1.0)
        shapes.append(_rect(half if value > 0 else half - length, y, length, 9, kind))
    return _svg(width, 24, label, *shapes, kind="mark tall")


def quality_plot(said: Mapping[str, Any], before: Sequence[int] | None, label: str) -> Markup:
    """The cumulated distribution of qualities against the diagonal with its band.

    said: of one modality (compare.compare_with_reference). before: rows per bin of the night
    before, drawn thin.
    """
    width, height = _PLOT_WIDTH - _LEFT - _RIGHT, _CDF_HEIGHT - _TOP - _BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + width * x, _TOP + height * (1 - min(max(y, 0.0), 1.0))

    bound = said["diagonal_band"]
    steps = [step / 40 for step in range(41)]
    band = [at(s, s + bound) for s in steps] + [at(s, s - bound) for s in reversed(steps)]
    shapes = [f'<polygon class="band" points="{_points(band)}"></polygon>']
    for share in (0.0, 0.5, 1.0):
        _, y = at(0, share)
        shapes.append(_line(_LEFT, y, _PLOT_WIDTH - _RIGHT, y, "axis"))
        shapes.append(_text(_LEFT - 6, y + 4, f"{share:.0%}", "end"))
    for quality in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, _ = at(quality, 0)
        shapes.append(_text(x, _CDF_HEIGHT - 9, f"{quality:g}"))
    (x1, y1), (x2, y2) = at(0, 0), at(1, 1)
    shapes.append(_line(x1, y1, x2, y2, "even"))
    if before and sum(before):
        shares = [count / sum(before) for count in itertools.accumulate(before)]
        shapes.append(_steps(at, shares, "curve before"))
    shapes.append(_steps(at, said["cumulated"], "curve now"))
    return _svg(_PLOT_WIDTH, _CDF_HEIGHT, label, *shapes)


def _steps(at: Any, cumulated: Sequence[float], kind: str) -> str:
    shares = enumerate([0.0, *cumulated])
    points = [at(position / len(cumulated), share) for position, share in shares]
    return f'<polyline class="{kind}" points="{_points(points)}"></polyline>'


def nights_plot(nights: Sequence[Mapping[str, Any]], expected: float, label: str) -> Markup:
    """The share of low qualities, night by night, with the band that chance allows each.

    A night outside of its band is a diamond, one at which the chart alarms has a bar above;
    nights that are part of the reference are hatched.
    """
    shown = list(nights)[-MOST_NIGHTS:]
    width, height = _PLOT_WIDTH - _LEFT - _RIGHT, _NIGHTS_HEIGHT - _TOP - _BOTTOM
    most = max([0.12, *(1.15 * n["share"] for n in shown), *(1.1 * n["band"][1] for n in shown)])
    step = width / max(len(shown), 1)

    def y(share: float) -> float:
        return _TOP + height * (1 - min(share, most) / most)

    shapes = []
    for tick in (0.0, expected, *_ticks(most)):
        shapes.append(_line(_LEFT, y(tick), _PLOT_WIDTH - _RIGHT, y(tick), "axis"))
        shapes.append(_text(_LEFT - 6, y(tick) + 4, f"{tick:.0%}", "end"))
    centres = [_LEFT + step * (place + 0.5) for place in range(len(shown))]
    for night, x in zip(shown, centres, strict=True):
        low, high = night["band"]
        wide = max(step * 0.92, 3)
        shapes.append(_rect(x - wide / 2, y(high), wide, y(low) - y(high), "band"))
        if night["in_reference"]:
            shapes += _hatching(x - wide / 2, _TOP, wide, height)
    points = [(x, y(night["share"])) for night, x in zip(shown, centres, strict=True)]
    if len(points) > 1:
        shapes.append(f'<polyline class="thread" points="{_points(points)}"></polyline>')
    for night, (x, level) in zip(shown, points, strict=True):
        inside = night["band"][0] <= night["share"] <= night["band"][1]
        radius = max(2.5, min(5.0, step / 3))
        mark = _circle(x, level, radius, "now") if inside else _diamond(x, level, 6, "alarm")
        shapes.append(mark)
        if night["alarm"]:
            shapes.append(_rect(x - 5, _TOP, 10, 3, "alarm"))
    if shown:
        base = _NIGHTS_HEIGHT - 8
        shapes.append(
            _text(
                centres[-1], base, _short(shown[-1]["name"]), "end" if len(shown) > 1 else "middle"
            )
        )
        if len(shown) > 1:
            shapes.append(_text(centres[0], base, _short(shown[0]["name"]), "start"))
    return _svg(_PLOT_WIDTH, _NIGHTS_HEIGHT, label, *shapes)


def _ticks(most: float) -> list[float]:
    distance = next(d for d in (0.1, 0.2, 0.25, 0.5) if most / d <= 4 or d == 0.5)
    return [distance * place for place in range(1, int(most / distance) + 1)]


def _hatching(x: float, y: float, width: float, height: float) -> list[str]:
    """Slanted lines, drawn one by one: a pattern would need an id, which several plots share."""
    lines = []
    offset = 0.0
    while offset < height + width:
        # From the left edge or the bottom, rising to the right.
        x1, y1 = (x, y + offset) if offset <= height else (x + offset - height, y + height)
        x2, y2 = (x + offset, y) if offset <= width else (x + width, y + offset - width)
        lines.append(_line(x1, y1, x2, y2, "hatch"))
        offset += 7
    return lines


def _short(name: str) -> str:
    name = name.rpartition("=")[2] or name
    name = name if len(name) <= 16 else f"{name[:15]}…"
    return "".join(c if c.isprintable() else "\ufffd" for c in name)


def phases_plot(phases: Mapping[str, float], label: str) -> Markup:
    """How the time of a run was spent, as parts of one bar."""
    width, total = 640.0, sum(phases.values()) or 1.0
    shapes, x = [], 0.0
    for place, seconds in enumerate(phases.values()):
        length = width * seconds / total
        shapes.append(_rect(x, 0, max(length - 1.5, 0.5), 16, f"phase phase-{place % 4}"))
        x += length
    return _svg(width, 16, label, *shapes, kind="plot flat")
