"""The error that services raise when they refuse a request. Each endpoint puts it into its own words."""

from django.utils.translation import gettext as _g


class Refusal(Exception):
    """
    A request that was understood and is refused.

    `code` is stable and part of the API. `errors` holds messages by field. `extra` is added to the response as it is.
    """

    code = "refused"

    def __init__(
        self, detail: str, *, errors: dict[str, list[str]] | None = None, extra: dict[str, object] | None = None
    ) -> None:
        super().__init__(detail)
        self.errors = errors or {}
        self.extra = extra or {}


class NotDuringUpgrade(Refusal):
    """Processes of the release before run as well, and would not understand what follows."""

    code = "not_during_upgrade"

    def __init__(self) -> None:
        super().__init__(_g("This is not possible while the system is being upgraded. Try again later."))


class NotRebuilt(Refusal):
    """What a service has forgotten cannot be made again as it was told of it; says why, and what a person can do."""

    code = "not_rebuilt"
