"""What the system won't do, and why: raised by services, put into words by doors."""


class Refusal(Exception):
    """
    A request that is understood and refused.

    `code` is stable and part of the API; `errors` says more, by field; `extra` goes into the answer as it is.
    """

    code = "refused"

    def __init__(
        self, detail: str, *, errors: dict[str, list[str]] | None = None, extra: dict[str, object] | None = None
    ) -> None:
        super().__init__(detail)
        self.errors = errors or {}
        self.extra = extra or {}
