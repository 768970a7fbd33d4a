"""Money in the back office."""

import operator
from functools import reduce
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import (
    Action,
    ActionCall,
    Age,
    AmountField,
    ConfirmationForm,
    IdempotencyKeyAdmin,
    ReadOnlyAdmin,
    ReasonForm,
    panels,
    register_outbox_admin,
    scan_filter,
)
from common.admin import display as show

from . import ledger, services
from .gateways import GATEWAYS
from .models import Account, DeadLetter, Entry, IdempotencyKey, Incoming, Outgoing, Payment

register_outbox_admin(Outgoing, Incoming, DeadLetter)


class Deposit(ReasonForm):
    """How much, and why."""

    amount = AmountField(label=_("Amount"))
    field_order = ("amount", "reason")

    def clean_amount(self) -> int:
        return _for_a_customer(self, int(self.cleaned_data["amount"]))


class Correction(Deposit):
    """By how much, up or down, and why."""

    amount = AmountField(label=_("Amount"), least=None, help_text=_("Negative to take money off the account."))


def _for_a_customer(form: ConfirmationForm, amount: int) -> int:
    if form.row.currency != settings.CURRENCY:
        raise ValidationError(_("This account is in %(currency)s."), params={"currency": form.row.currency})
    return amount


def _is_customers(account: Account) -> bool:
    return account.kind == Account.Kind.CUSTOMER


def _deposit(call: ActionCall) -> str:
    entry = services.deposit(
        user_id=call.row.user_id, amount=call.values["amount"], reason=call.values["reason"], actor=call.actor,
        now=call.now, request_id=call.request_id,
    )  # fmt: skip
    return _g("Deposited %(amount)s.") % {"amount": show.money_text(entry.amount, entry.currency)}


def _correct(call: ActionCall) -> str:
    services.correct(
        user_id=call.row.user_id, amount=call.values["amount"], reason=call.values["reason"], actor=call.actor,
        now=call.now, request_id=call.request_id,
    )  # fmt: skip
    return _g("The balance is corrected by %(amount)s.") % {
        "amount": show.money_text(call.values["amount"], call.row.currency)
    }


@admin.register(Account)
class Accounts(ReadOnlyAdmin):
    """Accounts of customers, and the system's own."""

    list_display = ("user_id", "kind", show.amount("balance", _("balance")), "created_at")
    list_filter = ("kind",)
    search_by = ("user_id", "id")
    order = ("-id",)
    empty = _("No accounts yet. POST /accounts?user_id=… opens one.")
    fields = ("user_id", "kind", "principal", show.amount("balance", _("balance")), "created_at")
    page_actions = (
        Action(
            name="deposit",
            label=_("Deposit"),
            explanation=_("Puts money on this account by a new entry in the ledger. Sent twice, it happens once."),
            permission="orders_project.deposit",
            form=Deposit,
            perform=_deposit,
            is_possible=_is_customers,
        ),
        Action(
            name="correct",
            label=_("Correct the balance"),
            explanation=_("Sets the balance right by a new entry, up or down. No entry is ever changed or deleted."),
            permission="orders_project.correct_account",
            form=Correction,
            perform=_correct,
            is_possible=_is_customers,
            destructive=True,
        ),
    )

    def way(self, name: str, term: str) -> Q:
        """Users are unique among customers, and among the system's own: each has an index of its own."""
        if name == "user_id":
            return reduce(operator.or_, (Q(user_id=term, kind=kind) for kind in Account.Kind.values))
        return super().way(name, term)

    def panels_for(self, request: HttpRequest, row: Any) -> list[panels.Panel]:
        entries = Entry.objects.select_related("source", "target").order_by("-id")
        return [
            panels.newest(
                (entries.filter(source=row), entries.filter(target=row)),
                (_("at"), lambda entry: show.ago(entry.at)),
                (_("kind"), lambda entry: entry.get_kind_display()),
                (_("from"), lambda entry: entry.source),
                (_("to"), lambda entry: entry.target),
                (_("amount"), lambda entry: show.money_text(entry.amount, entry.currency)),
                (_("order"), lambda entry: show.order_link(entry.order_id)),
                (_("reason"), lambda entry: entry.reason or show.NOTHING),
                (_("by"), lambda entry: entry.actor or show.NOTHING),
                title=_("Ledger"),
                more=show.list_url("payments", "entry", f"q={row.pk}"),
                empty=_("No money has moved on this account yet."),
            )
        ]


class Direction(admin.SimpleListFilter):
    """Money that came in from outside, or went out."""

    title = _("direction")
    parameter_name = "direction"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("in", _("in")), ("out", _("out"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        side = {"in": "source", "out": "target"}.get(str(self.value()))
        if side is None:
            return queryset
        # Known here, and not a part of the query: so it is a range of the index on that side of the entries.
        outside = Account.objects.filter(kind=Account.Kind.SYSTEM, user_id=ledger.CASH).values_list("pk", flat=True)
        return queryset.filter(**{f"{side}__in": list(outside)})


@admin.register(Entry)
class Entries(ReadOnlyAdmin):
    """The ledger."""

    list_display = (
        "id", "kind", "source", "target", show.amount("amount", _("amount")), show.order(), "reason", "actor", "at",
    )  # fmt: skip
    list_filter = (Age, Direction, "kind")
    list_select_related = ("source", "target")
    search_by = ("id", "order_id", "source_id", "target_id")
    order = ("-id",)
    empty = _("No money has moved yet. A deposit on an account is the first entry.")
    fields = (
        "id", "kind", "source", "target", show.amount("amount", _("amount")), show.order(), "reason", "actor",
        "request_id", "at",
    )  # fmt: skip


@admin.register(Payment)
class Payments(ReadOnlyAdmin):
    """The money side of orders."""

    list_display = (
        "order_id", show.status(), show.amount("amount", _("amount")), "method", "gateway", "gateway_payment_id",
        "user_id", "created_at",
    )  # fmt: skip
    list_filter = (
        "status",
        scan_filter("method", _("method"), (("account", _("account")), ("gateway", _("gateway")))),
        scan_filter("gateway", _("gateway"), [(name, name) for name in GATEWAYS]),
    )
    search_by = ("order_id", "gateway_payment_id")
    order = ("-order_id",)
    empty = _("No payments yet. Every order that asks for money has one.")
    fields = (
        show.order(), show.status(), show.amount("amount", _("amount")), "method", "user_id", "gateway",
        "gateway_payment_id", "fail_reason", "tried_at", "unanswered", "ask_at", "created_at", "updated_at",
    )  # fmt: skip


@admin.register(IdempotencyKey)
class IdempotencyKeys(IdempotencyKeyAdmin):
    """What was answered under an Idempotency-Key."""

    empty = _("No request that moves money has carried an Idempotency-Key yet.")
