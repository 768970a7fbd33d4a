"""The names and the addresses of the pages of a table in the admin, by the `_meta` of its model."""

from typing import Any

from django.urls import reverse


def name_of(opts: Any, page: str) -> str:
    """Return the name under which a page of a table is registered."""
    return f"{opts.app_label}_{opts.model_name}_{page}"


def url_of(opts: Any, page: str, *args: Any) -> str:
    """Return the address of a page of a table: of its list, "changelist", or of a row, "change"."""
    return reverse(f"admin:{name_of(opts, page)}", args=args)
