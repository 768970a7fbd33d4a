"""Template filters of the documentation."""

import re

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

register = template.Library()


@register.filter
def prose(text: str) -> SafeString:
    """A text as its paragraphs, in which `code` is marked."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return format_html_join("\n", "<p>{}</p>", ((coded(paragraph),) for paragraph in paragraphs if paragraph))


@register.filter
def coded(text: str) -> SafeString:
    """A text of one paragraph, in which `code` is marked."""
    parts = re.split(r"`([^`]+)`", text)
    return format_html_join(
        "", "{}", ((format_html("<code>{}</code>", part) if number % 2 else part,) for number, part in enumerate(parts))
    )
