"""Names that are nearly the same: what somebody may have meant who wrote one that does not exist."""

import difflib
import string
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

CUTOFF = 0.75  # of difflib: `userid` and `userids` are 0.92 alike, `status` and `sort` 0.6
LONGEST = 100  # characters of a name that may be near to one of ours
MOST_NAMED = 20  # unknown names of a request that are told one by one: a body may have tens of thousands
CHARACTERS = string.ascii_letters + string.digits + "-_./ "  # that one is mistyped for another


def did_you_mean(refused: Any, name: str, known: Iterable[str]) -> Any:
    """The text that refuses an unknown name, and names the known one that is near, if there is one."""
    if len(name) > LONGEST:
        return refused
    by_form = {_form(each): each for each in known}
    near = difflib.get_close_matches(_form(name), by_form, n=1, cutoff=CUTOFF)
    if not near:
        return refused
    return format_lazy("{} {}", refused, format_lazy(_("Did you mean {known}?"), known=by_form[near[0]]))


def refuse_unknown(
    names: Sequence[str], known: Iterable[str], refused: Any, *, most: int = MOST_NAMED, rest: str = "non_field_errors"
) -> dict[str, list[Any]]:
    """
    The texts that refuse these unknown names, by name.

    Only the first `most` are told, with what is near to them; how many more there are is told under the name `rest`.
    """
    told: dict[str, list[Any]] = {name: [did_you_mean(refused, name, known)] for name in names[:most]}
    if more := len(names) - len(told):
        told[rest] = [format_lazy(_("More unknown names: {number}."), number=more)]
    return told


def _form(name: str) -> str:
    """A name without what differs between habits of writing: userId, user-id and user_id are one."""
    return name.casefold().replace("_", "").replace("-", "")


# Edit distance ------------------------------------------------------------------------------------------------------


def allowed(name: str) -> int:
    """Return how many characters of a name of this length may differ: a short one is soon another name."""
    return 0 if len(name) < 4 else 1 if len(name) < 8 else 2


def nearest(name: str, known: Iterable[str]) -> str:
    """
    Return the first of the known names that differ least, in no more characters than are `allowed`, or "".

    Upper and lower case are the same here.
    """
    form, least, found = name.casefold(), allowed(name) + 1, ""
    for one in known:
        if (differing := distance(form, one.casefold(), most=least - 1)) < least:
            least, found = differing, one
        if not least:
            break
    return found


def distance(one: str, other: str, *, most: int) -> int:
    """
    Return the Damerau-Levenshtein distance of two names, or `most` + 1 if it is more than that.

    A wrong, missing or extra character counts as one, and so do two adjacent characters that are swapped. The time
    depends on `most`, and hardly on the lengths: each kind of change is tried at the first character that differs.
    """
    if abs(len(one) - len(other)) > most:
        return most + 1
    at, end = 0, min(len(one), len(other))
    while at < end and one[at] == other[at]:
        at += 1
    one, other = one[at:], other[at:]
    if not (one and other):
        return len(one) + len(other)
    rests = [(one[1:], other[1:]), (one[1:], other), (one, other[1:])]
    if one[1:2] == other[0] and other[1:2] == one[0]:
        rests.insert(0, (one[2:], other[2:]))
    least = most + 1
    for rest, other_rest in rests:
        if least > 1:
            least = min(least, 1 + distance(rest, other_rest, most=least - 2))
    return least


def cases(name: str) -> set[str]:
    """Return a name in upper and lower case."""
    return {name.lower(), name.upper(), name.title(), name.capitalize()}


def variants(name: str) -> set[str]:
    """Return a name in upper and lower case, and every name at a distance of one from it."""
    found = cases(name)
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


def most_variants(name: str) -> int:
    """Return how many `variants` a name has at most."""
    return 2 * (len(CHARACTERS) + len(name) + 1) * (len(name) + 1)
