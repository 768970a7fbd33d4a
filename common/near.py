"""Names that are nearly the same: what somebody may have meant who wrote one that does not exist."""

import difflib
import string
from collections.abc import Collection, Iterable
from functools import cache
from typing import Any

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

CUTOFF = 0.75  # of difflib: `userid` and `userids` are 0.92 alike, `status` and `sort` 0.6
CHARACTERS = string.ascii_letters + string.digits + "-_./ "  # that one is mistyped for another


def did_you_mean(refused: Any, name: str, known: Iterable[str]) -> Any:
    """The text that refuses an unknown name, and names the known one that is near, if there is one."""
    by_form = {_form(each): each for each in known}
    near = difflib.get_close_matches(_form(name), by_form, n=1, cutoff=CUTOFF)
    if not near:
        return refused
    return format_lazy("{} {}", refused, format_lazy(_("Did you mean {known}?"), known=by_form[near[0]]))


def _form(name: str) -> str:
    """A name without what differs between habits of writing: userId, user-id and user_id are one."""
    return name.casefold().replace("_", "").replace("-", "")


# Edit distance ------------------------------------------------------------------------------------------------------


def is_near(one: str, other: str) -> bool:
    """
    Return whether two names differ in case only, in one character, or in two if they are long enough.

    A wrong, missing or extra character counts as one, and so do two adjacent characters that are swapped.
    """
    return distance(one, other) <= allowed(one)


def allowed(name: str) -> int:
    """Return how many characters of a name of this length may differ: a short one is soon another name."""
    return 0 if len(name) < 4 else 1 if len(name) < 8 else 2


def distance(one: str, other: str) -> int:
    """Return the Damerau-Levenshtein distance of two names without regard to case."""
    one, other = one.casefold(), other.casefold()

    @cache
    def between(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        least = min(between(i - 1, j) + 1, between(i, j - 1) + 1, between(i - 1, j - 1) + (one[i - 1] != other[j - 1]))
        if i > 1 and j > 1 and one[i - 2 : i] == other[j - 1] + other[j - 2]:
            least = min(least, between(i - 2, j - 2) + 1)
        return least

    return between(len(one), len(other))


def variants(name: str) -> set[str]:
    """Return a name in upper and lower case, and every name at a distance of one from it."""
    found = {name.lower(), name.upper(), name.title(), name.capitalize()}
    if not allowed(name):
        return found
    splits = [(name[:at], name[at:]) for at in range(len(name) + 1)]
    characters: Collection[str] = {*CHARACTERS, *name}
    for before, after in splits:
        found.update(before + character + after for character in characters)
        if after:
            found.add(before + after[1:])
            found.update(before + character + after[1:] for character in characters)
        if len(after) > 1:
            found.add(before + after[1] + after[0] + after[2:])
    return found
