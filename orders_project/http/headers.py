"""The headers of every answer, whichever part of the system gives it."""

from collections.abc import Mapping

from django.conf import settings

from outbox import context

IDS = ("X-Correlation-ID", "X-Request-ID")  # two names of one id: the first well-formed one of a request is taken
VERSION = "API-Version"
MEANINGS = {
    IDS[0]: "The id under which the request and what follows from it are logged.",
    IDS[1]: f"The same as {IDS[0]}.",
    VERSION: "The version of the API, which is that of its description.",
}


def correlation_id(headers: Mapping[str, str]) -> str:
    """Return the id that a request has in its headers, or a new one if it has none that is well formed."""
    return context.accepted_correlation_id(*(headers.get(name) for name in IDS))


def of_every_answer(correlation_id: str) -> dict[str, str]:
    """Return the headers of the answer to the request with this id."""
    return {**dict.fromkeys(IDS, correlation_id), VERSION: str(settings.SPECTACULAR_SETTINGS["VERSION"])}
