"""Durations as text for people."""

from django.utils.formats import number_format
from django.utils.translation import gettext as _


def duration(seconds: float) -> str:
    """Seconds in the largest unit that fits: "340 ms", "2.5 s", "11 min", "3 h", "4 days"."""
    if seconds < 1:
        return _("%(n)d ms") % {"n": round(seconds * 1000)}
    if seconds < 90:
        return _("%(n)s s") % {"n": _tenths(seconds)}
    if seconds < 5400:
        return _("%(n)d min") % {"n": round(seconds / 60)}
    if seconds < 172_800:
        return _("%(n)d h") % {"n": round(seconds / 3600)}
    return _("%(n)d days") % {"n": round(seconds / 86_400)}


def _tenths(seconds: float) -> str:
    tenths = round(float(seconds), 1)
    return number_format(tenths, 0 if tenths.is_integer() else 1)
