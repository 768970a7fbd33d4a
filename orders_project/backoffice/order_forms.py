"""The forms of what operators do with an order."""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import AmountField, ReasonForm
from orders import refunds, repair
from orders.models import OrderLine

EVENTS = {
    "payment.pending": _("The gateway is processing the payment"),
    "payment.authorized": _("The gateway has reserved the money"),
    "payment.succeeded": _("The payment has succeeded"),
    "payment.failed": _("The payment has failed: no money was taken"),
    "payment.voided": _("The payment was voided: no money will be taken"),
    "payment.refunded": _("The payment has been refunded"),
    "order.processed": _("The processor has accepted the order"),
    "processing.refused": _("The processor has refused the order"),
    "stock.released": _("The stock of the order has been released"),
    "stock.hold_expired": _("The hold on the stock has expired"),
}


class VersionForm(ReasonForm):
    """Carries the version that the operator has seen, so that an order that has changed since is left alone."""

    version = forms.IntegerField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, row: Any, **kwargs: Any) -> None:
        super().__init__(*args, row=row, initial={"version": row.version}, **kwargs)


class EvidenceForm(VersionForm):
    """Asks what has happened, and for the evidence."""

    truth = forms.ChoiceField(label=_("What has happened"))
    reason = forms.CharField(
        label=_("Evidence"),
        max_length=500,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("How you know: the reference at the gateway, a ticket number, who confirmed it."),
    )
    field_order = ("truth", "reason")

    def __init__(self, *args: Any, row: Any, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        self.fields["truth"].choices = [  # type: ignore[attr-defined]
            (name, f"{EVENTS.get(name, name)} ({name})") for name in repair.possible_events(row)
        ]


class CaptureForm(VersionForm):
    """Asks how much of the reserved money to take."""

    amount = AmountField(label=_("Amount"), required=False, help_text=_("Leave empty to take all of it."))
    field_order = ("amount", "reason")


class RefundForm(VersionForm):
    """Asks what to refund: an amount, or pieces of each line of goods, and whether they go back into stock."""

    amount = AmountField(label=_("Amount"), required=False, help_text=_("Leave empty to refund the pieces below."))
    restock = forms.BooleanField(
        label=_("Back into stock"), required=False, help_text=_("The pieces can be sold again once the money is back.")
    )
    PIECES = "pieces_"  # and the position of the line

    def __init__(self, *args: Any, row: Any, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        left = refunds.left_of(row).pieces
        for line in row.lines.filter(kind=OrderLine.Kind.ITEM):
            self.fields[f"{self.PIECES}{line.position}"] = forms.IntegerField(
                label=_g("Pieces of %(line)s")
                % {"line": line.sku or line.name or _g("line %(number)d") % {"number": line.position}},
                help_text=_g("%(left)d of %(quantity)d are left.")
                % {"left": left[line.position], "quantity": line.quantity},
                min_value=0,
                max_value=left[line.position],
                required=False,
            )
        self.order_fields(["amount", *(name for name in self.fields if name.startswith(self.PIECES)), "restock"])

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        wanted = self.wanted(values)
        if wanted.amount is not None and wanted.lines is not None:
            raise forms.ValidationError(_("Give an amount or pieces, not both."), code="at_most_one")
        return values

    @classmethod
    def wanted(cls, values: Mapping[str, Any]) -> refunds.Wanted:
        """What the values of this form ask for."""
        pieces = {
            int(name.removeprefix(cls.PIECES)): quantity
            for name, quantity in values.items()
            if name.startswith(cls.PIECES) and quantity
        }
        return refunds.Wanted(
            amount=values.get("amount"),
            lines=pieces or None,
            restock=values.get("restock", False),
            reason=values.get("reason", ""),
        )
