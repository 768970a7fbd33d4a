"""The forms of actions, and a field for amounts."""

import re
from typing import Any, ClassVar
from uuid import uuid4

from django import forms
from django.conf import settings
from django.utils.formats import get_format
from django.utils.translation import gettext_lazy as _

from .. import money

GROUPED = re.compile(r"-?\d{1,3}(,\d{3})+\.\d+")  # 1,250.00
PLAIN = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)", re.ASCII)  # and not 1e3, which Decimal reads
AMBIGUOUS = re.compile(r"-?\d+,\d{3}")  # 1,250 may be either; 12,50 can only be 12.50


class ConfirmationForm(forms.Form):
    """
    Asks only for a confirmation. The forms of actions that ask for more subclass it.

    The values of fields that are `unlogged` are not repeated in the log of what people did.
    """

    unlogged: ClassVar[frozenset[str]] = frozenset()

    once = forms.UUIDField(widget=forms.HiddenInput, initial=uuid4)

    def __init__(self, *args: Any, row: Any = None, **kwargs: Any) -> None:
        self.row = row
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        for name, field in self.fields.items():
            if field.help_text:
                field.widget.attrs["aria-describedby"] = f"id_{name}_help"
            if isinstance(field, AmountField) and not field.currency:
                field.currency = getattr(row, "currency", "") or settings.CURRENCY


class ReasonForm(ConfirmationForm):
    """Asks for the reason, which is stored with the action."""

    reason = forms.CharField(
        label=_("Reason"), max_length=200, widget=forms.TextInput(attrs={"autocomplete": "off", "size": 60})
    )


class ShortReasonForm(ReasonForm):
    """Asks for a reason of a few words, where no more are stored."""

    reason = forms.CharField(label=_("Reason"), max_length=50)


class AmountField(forms.CharField):
    """
    An amount as people write it; its value is in minor units.

    It is in the given currency, or in that of the row that its form is about, or else in the default one.
    """

    def __init__(self, *, min_value: int | None = 1, currency: str = "", **kwargs: Any) -> None:
        self.min_value = min_value
        self.currency = currency
        widget = forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off", "size": 16})
        super().__init__(widget=widget, **kwargs)

    def to_python(self, value: Any) -> Any:
        text = "".join((super().to_python(value) or "").split())
        if not text:
            return None
        if GROUPED.fullmatch(text):
            text = text.replace(",", "")
        elif "." not in text and (self._writes_a_comma() or not AMBIGUOUS.fullmatch(text)):
            text = text.replace(",", ".")
        try:
            if not PLAIN.fullmatch(text):
                raise money.NotAnAmount("An amount must be a number.")
            minor = money.minor_units(text, currency=self.currency)
        except money.NotAnAmount as error:
            raise forms.ValidationError(
                _("Enter an amount such as %(example)s."),
                params={"example": money.bare_text(12_345, currency=self.currency)},
            ) from error
        if self.min_value is not None and minor < self.min_value:
            raise forms.ValidationError(_("The amount must be greater than zero."))
        if minor == 0 and self.min_value is None:
            raise forms.ValidationError(_("An amount of zero changes nothing."))
        return minor

    def _writes_a_comma(self) -> bool:
        """Whether 1,250 can only be 1.250: in this language, for a currency with three decimals."""
        return get_format("DECIMAL_SEPARATOR") == "," and money.EXPONENTS.get(self.currency) == 3
