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
    Whether two names differ in nothing but case, in one letter, or in two if they are long enough for that.

    A letter that is wrong, missing, too many or swapped with its neighbour counts as one.
    """
    return distance(one, other) <= allowed(one)


def allowed(name: str) -> int:
    """How many letters of a name of this length may differ: of a short one few are left that say what was meant."""
    return 0 if len(name) < 4 else 1 if len(name) < 8 else 2


def distance(one: str, other: str) -> int:
    """The number of letters, case aside, that are wrong, missing, too many or swapped (Damerau and Levenshtein)."""
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
    """A name in upper and lower case, and with one letter wrong, missing, too many or swapped."""
    found = {name.lower(), name.upper(), name.title(), name.capitalize()}
    if not allowed(name):
        return found
    splits = [(name[:at], name[at:]) for at in range(len(name) + 1)]
    characters: Collection[str] = {*CHARACTERS, *name}
    for before, after in splits:
        found.update(before + letter + after for letter in characters)
        if after:
            found.add(before + after[1:])
            found.update(before + letter + after[1:] for letter in characters)
        if len(after) > 1:
            found.add(before + after[1] + after[0] + after[2:])
    return found
