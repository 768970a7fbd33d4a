"""Pictures of the figures, as SVG that is legible on a light and on a dark page."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from xml.sax.saxutils import escape

WIDTH, MARGIN = 720, 16
# Told apart also by those who see few colors, and about equally far from black and from white.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56a0d3", "#8c6bb1", "#808080", "#a0522d")
STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 15px }
.faint { fill: #59636e }
.grid { stroke: #59636e; stroke-opacity: .35 }
@media (prefers-color-scheme: dark) { text { fill: #f0f6fc } .faint { fill: #9198a1 } .grid { stroke: #9198a1 } }
</style>"""


def stacked_bars(title: str, bars: Mapping[str, Mapping[str, float]], *, unit: str, how: str) -> str:
    """One bar for each key, made of its parts, with a table of the parts under them; `how` says how it was measured."""
    parts = list(dict.fromkeys(part for bar in bars.values() for part in bar))
    colors = {part: COLORS[number % len(COLORS)] for number, part in enumerate(parts)}
    left, top, step = 130, 64, 34
    most = max(sum(bar.values()) for bar in bars.values())
    scale = (WIDTH - left - 110) / most
    drawn = _headings(title, how)
    for row, (name, bar) in enumerate(bars.items()):
        y = top + row * step
        drawn.append(_text(left - 10, y + 17, name, anchor="end"))
        here = [(part, bar[part]) for part in parts if part in bar]
        ends = list(accumulate(value for _part, value in here))
        for (part, value), end in zip(here, ends, strict=True):
            drawn.append(
                f'<rect x="{left + (end - value) * scale:.1f}" y="{y}" width="{value * scale:.1f}" height="24"'
                f' fill="{colors[part]}"><title>{escape(part)}: {value:.1f} {escape(unit)}</title></rect>'
            )
        drawn.append(_text(left + ends[-1] * scale + 8, y + 17, f"{ends[-1]:.1f} {unit}"))
    y = top + len(bars) * step + 20
    columns = [left + 180 + 120 * number for number in range(len(bars))]
    drawn += [_text(x, y, name, anchor="end", kind="faint") for x, name in zip(columns, bars, strict=True)]
    for part in parts:
        y += 20
        drawn.append(f'<rect x="{left}" y="{y - 11}" width="12" height="12" fill="{colors[part]}"/>')
        drawn.append(_text(left + 20, y, part))
        for x, bar in zip(columns, bars.values(), strict=True):
            drawn.append(_text(x, y, f"{bar[part]:.1f}" if part in bar else "–", anchor="end"))
    return _svg(drawn, height=y + MARGIN, title=title)


def over_time(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], *, unit: str, how: str, marks: Mapping[str, float]
) -> str:
    """A line for each key, over seconds; `marks` are named seconds, each a vertical line."""
    left, top, right, height = 60, 86, WIDTH - MARGIN, 240
    points = [point for line in series.values() for point in line]
    latest = max([x for x, _y in points] + list(marks.values()))
    most = max(y for _x, y in points) or 1
    bottom = top + height
    drawn = _headings(title, how)
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = bottom - share * height
        drawn.append(_line(left, y, right, y))
        drawn.append(_text(left - 8, y + 4, f"{share * most:.0f}", anchor="end", kind="faint"))
    for share in (0, 0.5, 1):
        x = left + share * (right - left)
        drawn.append(_text(x, bottom + 18, f"{share * latest:.0f} s", anchor="end" if share else "start", kind="faint"))
    for name, second in marks.items():
        x = left + second / latest * (right - left)
        drawn += [_line(x, top, x, bottom), _text(x, top - 10, name, anchor="end", kind="faint")]
    drawn.append(_text(MARGIN, top - 10, unit, kind="faint"))
    x = left + 120.0
    for number, (name, line) in enumerate(series.items()):
        color = COLORS[number % len(COLORS)]
        path = " ".join(
            f"{left + at / latest * (right - left):.1f},{bottom - value / most * height:.1f}" for at, value in line
        )
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        drawn.append(f'<rect x="{x}" y="{top - 21}" width="12" height="12" fill="{color}"/>')
        drawn.append(_text(x + 18, top - 10, name))
        x += 18 + 9 * len(name) + 24
    return _svg(drawn, height=bottom + 18 + MARGIN, title=title)


def _headings(title: str, how: str) -> list[str]:
    return [_text(MARGIN, 24, title, kind="title"), _text(MARGIN, 44, how, kind="faint")]


def _text(x: float, y: float, what: str, *, anchor: str = "start", kind: str = "") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{of_kind}>{escape(what)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _svg(drawn: Iterable[str], *, height: float, title: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img"'
    return "\n".join([f'{head} aria-label="{escape(title, {chr(34): "&quot;"})}">', STYLE, *drawn, "</svg>", ""])
