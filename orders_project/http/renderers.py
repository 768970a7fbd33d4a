"""The pages of the API for people, as assistive programs need them: in a named language, each field with its label."""

from typing import Any

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from rest_framework.renderers import BrowsableAPIRenderer, HTMLFormRenderer


class LabeledForm(HTMLFormRenderer):
    """The form of an endpoint, with each label bound to its field."""

    def render_field(self, field: Any, parent_style: Any) -> SafeString | str:
        shown: SafeString | str = super().render_field(field, parent_style)
        name = f'name="{escape(field.name)}"'
        if shown.count("<label ") != 1 or shown.count(name) != 1:
            return shown  # a group of fields, whose own are bound already
        key = f"field-{escape(field.name)}"
        bound = shown.replace("<label ", f'<label for="{key}" ').replace(name, f'id="{key}" {name}')
        return mark_safe(bound)  # noqa: S308 - the template has escaped it


class ApiPage(BrowsableAPIRenderer):
    """The page of an endpoint, in English as the API is."""

    form_renderer_class = LabeledForm

    def render(self, *args: Any, **kwargs: Any) -> str:
        return str(super().render(*args, **kwargs)).replace("<html>", '<html lang="en">', 1)
