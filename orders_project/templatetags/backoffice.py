"""Template filters of the back office."""

from django import template

from common import reasons
from common.admin import display

register = template.Library()
register.filter("laid_out", display.laid_out)
register.filter("preformatted", display.preformatted)
register.filter("ago", display.ago)
register.filter("explained", reasons.explained)
