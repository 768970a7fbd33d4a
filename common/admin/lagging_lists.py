"""Lists that a standby may answer."""

from typing import Any

from django.http import HttpRequest

from ..reads import may_lag, name_of


class ListsMayLag:
    """
    Shows lists as they were a moment ago, where a standby answers them; see `common.reads`.

    It comes before whatever adds to a list: cells read too, so the page is rendered here.
    """

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Show the list, which may lag, or act on what is selected in it."""
        here: Any = self

        def show() -> Any:
            answer = super(ListsMayLag, self).changelist_view(request, extra_context)  # type: ignore[misc]
            return answer.render() if hasattr(answer, "render") else answer

        if request.method == "POST":
            return show()
        return may_lag(show, here.opts.app_label, who=name_of(request))
