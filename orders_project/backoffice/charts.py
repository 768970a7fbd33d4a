"""Bar charts as SVG, without scripts: the stylesheet gives the colors, and every bar is a link."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 960, 220, 44, 22, 8


@dataclass(frozen=True)
class Part:
    """A part of a bar; the stylesheet has a color for its kind."""

    kind: str
    label: Any
    amount: int


@dataclass(frozen=True)
class Bar:
    """A bar of a chart, with its label and link."""

    label: str
    url: str
    parts: Sequence[Part]

    @property
    def height(self) -> int:
        return sum(part.amount for part in self.parts)

    @property
    def description(self) -> str:
        """The bar as text."""
        amounts = ", ".join(f"{part.label} {part.amount}" for part in self.parts if part.amount)
        return f"{self.label}: {amounts or 0}"


def bars(columns: Sequence[Bar], *, title: Any) -> SafeString:
    """A chart of stacked bars."""
    top = nice(max((bar.height for bar in columns), default=0))
    step = (WIDTH - LEFT) / max(len(columns), 1)
    floor = HEIGHT - BOTTOM
    scale = (floor - TOP) / top
    drawn = [
        _bar(bar, x=LEFT + index * step, width=step * 0.8, floor=floor, scale=scale, labeled=index % 3 == 0)
        for index, bar in enumerate(columns)
    ]
    lines = [
        (LEFT, round(floor - level * scale, 1), WIDTH, round(floor - level * scale, 1), LEFT - 6,
         round(floor - level * scale + 4, 1), _short(level))
        for level in (0, top / 2, top)
    ]  # fmt: skip
    return format_html(
        '<svg class="chart" viewBox="0 0 {} {}" role="group" aria-label="{}">{}{}</svg>',
        WIDTH,
        HEIGHT,
        title,
        format_html_join(
            "",
            '<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>'
            '<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>',
            lines,
        ),
        format_html_join("", "{}", ((one,) for one in drawn)),
    )


def _bar(bar: Bar, *, x: float, width: float, floor: float, scale: float, labeled: bool) -> SafeString:
    rects, y = [], floor
    for part in bar.parts:
        height = part.amount * scale
        y -= height
        if part.amount:
            rects.append((part.kind, round(x, 1), round(y, 1), round(width, 1), round(height, 1)))
    label = (
        format_html(
            '<text class="axis" x="{}" y="{}" text-anchor="middle" aria-hidden="true">{}</text>',
            round(x + width / 2, 1),
            HEIGHT - 6,
            bar.label,
        )
        if labeled
        else ""
    )
    shape = format_html_join("", '<rect class="bar bar-{}" x="{}" y="{}" width="{}" height="{}"/>', rects)
    hit = format_html(
        '<rect class="hit" x="{}" y="{}" width="{}" height="{}"/>', round(x, 1), TOP, round(width, 1), floor - TOP
    )
    return format_html(
        '<a href="{}" aria-label="{}"><title>{}</title>{}{}</a>{}',
        bar.url,
        bar.description,
        bar.description,
        hit,
        shape,
        label,
    )


def nice(maximum: float) -> float:
    """The next round number, where the axis ends."""
    if maximum <= 2:
        return 2
    unit = 10 ** (len(str(int(maximum))) - 1)
    return next(unit * step for step in (1, 2, 4, 6, 8, 10) if unit * step >= maximum)


def _short(number: float) -> str:
    if number >= 1_000_000:
        return f"{number / 1_000_000:g}M"
    return f"{number / 1000:g}k" if number >= 1000 else f"{number:g}"
