"""The back office's ways of showing things, for its templates."""

from django import template

from common.admin import display as show

register = template.Library()
register.filter("laid_out", show.laid_out)
register.filter("preformatted", show.preformatted)
register.filter("ago", show.ago)
