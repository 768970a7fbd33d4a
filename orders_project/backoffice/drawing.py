"""
The timeline of an order as a drawing: a row for each moment, indented under its cause, with bars for the time spent.

# Note [The scale]: an order takes milliseconds or days. So the time axis is not linear: each gap between two moments
has a width by the logarithm of its length, and the real duration is written beside the bar.
"""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from common.admin.display import time_of_day, time_text
from common.durations import duration

from .timeline import Moment, Timeline

WIDTH, LABELS, ROW, TOP, NOTE = 1080, 400, 24, 30, 130
INDENT, DEEPEST = 12, 8

KINDS = {
    "request": _("request"), "key": _("idempotency key"), "message": _("message"), "fact": _("fact"),
    "timer": _("timer"), "step": _("step"), "webhook": _("webhook"), "dead": _("dead letter"),
}  # fmt: skip
STAGES = {"wait": _("wait"), "outbox": _("outbox"), "broker": _("broker"), "inbox": _("inbox")}


def drawn(timeline: Timeline) -> SafeString:
    """The timeline as an SVG drawing."""
    rows = [_Row(moment) for moment in timeline.moments]
    scale = _Scale(edge for row in rows for edge in row.edges)
    height = TOP + ROW * len(rows) + 6
    shapes = format_html_join("", "{}", ((_draw(row, scale, y=TOP + ROW * index),) for index, row in enumerate(rows)))
    return format_html(
        '<svg class="timeline-drawing" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>',
        WIDTH,
        height,
        _("Drawing of the timeline; the table below has the same content"),
        _axis(scale, height),
        shapes,
    )


class _Row:
    """A moment with the start and end of each of its stages."""

    def __init__(self, moment: Moment) -> None:
        self.moment = moment
        # The wait of a timer is so long that its bar would hide everything else.
        stages = [] if moment.kind == "timer" else list(moment.stages)
        self.edges = [moment.at]
        self.bars: list[tuple[str, datetime, datetime]] = []
        at = moment.at
        for stage in stages:
            end = at + timedelta(seconds=stage.seconds)
            self.bars.append((stage.name, at, end))
            self.edges.append(end)
            at = end


class _Scale:
    """The horizontal position of each time."""

    def __init__(self, times: Iterable[datetime]) -> None:
        self.times = sorted(set(times)) or [timezone.now()]
        weights = [math.log1p((after - before).total_seconds() * 1000) for before, after in pairwise(self.times)]
        width, total, x = WIDTH - LABELS - NOTE, sum(weights) or 1, float(LABELS)
        self.places = {self.times[0]: x}
        for time, weight in zip(self.times[1:], weights, strict=True):
            x += weight / total * width
            self.places[time] = x

    def __call__(self, time: datetime) -> float:
        return round(self.places[time], 1)


def _axis(scale: _Scale, height: int) -> SafeString:
    first, last = scale.times[0], scale.times[-1]
    ends = [(scale(first), "start", first)] + ([(scale(last), "end", last)] if last > first else [])
    return format_html_join(
        "",
        '<line class="grid" x1="{0}" y1="{1}" x2="{0}" y2="{2}"/>'
        '<text class="axis" x="{0}" y="14" text-anchor="{3}">{4}</text>',
        ((x, TOP - 8, height, side, time_of_day(time)) for x, side, time in ends),
    )


def _draw(row: _Row, scale: _Scale, *, y: int) -> SafeString:
    moment, middle = row.moment, y + ROW / 2
    indent = 20 + min(moment.depth, DEEPEST) * INDENT
    max_length = (LABELS - indent - 8) // 7
    title = moment.title if len(moment.title) <= max_length else moment.title[: max_length - 1] + "…"
    bars = [
        (name, scale(start), y + 6, max(round(scale(end) - scale(start), 1), 1.5), ROW - 12)
        for name, start, end in row.bars
    ]
    return format_html(
        '<g class="moment kind-{} service-{}{}"><title>{}</title>'
        '<rect class="lane" x="0" y="{}" width="{}" height="{}"/>'
        '<circle class="dot" cx="{}" cy="{}" r="5"/><text x="{}" y="{}">{}</text>{}'
        '<circle class="at" cx="{}" cy="{}" r="3"/><text class="axis" x="{}" y="{}">{}</text></g>',
        moment.kind,
        moment.service,
        " trouble" if moment.trouble else "",
        f"{moment.title} {moment.detail}",
        y,
        WIDTH,
        ROW,
        indent - 10,
        middle,
        indent,
        middle + 4,
        title,
        format_html_join("", '<rect class="stage stage-{}" x="{}" y="{}" width="{}" height="{}"/>', bars),
        scale(moment.at),
        middle,
        scale(row.edges[-1]) + 8,
        middle + 4,
        duration(sum(stage.seconds for stage in moment.stages)) if row.bars else "",
    )


def as_rows(moments: Sequence[Moment]) -> list[list[object]]:
    """The timeline as rows of a table."""
    start = moments[0].at if moments else timezone.now()
    return [
        [
            f"{time_text(moment.at)}.{moment.at.microsecond // 1000:03}",
            "+" + duration((moment.at - start).total_seconds()),
            moment.service,
            KINDS.get(moment.kind, moment.kind),
            moment.title,
            ", ".join(f"{STAGES.get(stage.name, stage.name)} {duration(stage.seconds)}" for stage in moment.stages),
            moment.detail or ("!" if moment.trouble else ""),
        ]
        for moment in moments
    ]


HEADS = (_("at"), _("after"), _("service"), _("kind"), _("what"), _("time spent in"), _("details"))


def legend() -> list[tuple[str, str]]:
    """The stages with their names, for the legend of the colors."""
    return [(name, str(words)) for name, words in STAGES.items()]
