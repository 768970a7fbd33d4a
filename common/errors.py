"""The error that services raise when they refuse a request. Each endpoint puts it into its own words."""


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
