"""Admin pages of accounts and their entries."""

import operator
from functools import reduce
from typing import Any, ClassVar

from django.conf import settings
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import (
    Action,
    ActionCall,
    Age,
    AmountField,
    ReadOnlyAdmin,
    ReasonForm,
    display,
    panels,
    scan_filter,
)

from .. import ledger, services
from ..books.admin import StatementPages
from ..models import ACCOUNT_PARTS, Account, Entry


class Deposit(ReasonForm):
    """Asks for the amount and the reason."""

    amount = AmountField(label=_("Amount"))
    field_order = ("amount", "reason")


class Correction(Deposit):
    """Asks for the difference, positive or negative, and the reason."""

    amount = AmountField(
        label=_("Amount"), min_value=None, help_text=_("A negative amount takes money from the account.")
    )


def _is_customer_account(account: Account) -> bool:
    return account.kind == Account.Kind.CUSTOMER


def _deposit(call: ActionCall) -> str:
    entry = services.deposit(
        user_id=call.row.user_id, principal=call.row.principal, currency=call.row.currency,
        amount=call.values["amount"], reason=call.values["reason"], by=call.by, now=call.now,
        request_id=call.request_id,
    )  # fmt: skip
    return _g("Deposited %(amount)s.") % {"amount": display.money_text(entry.amount, entry.currency)}


def _correct(call: ActionCall) -> str:
    services.correct(
        user_id=call.row.user_id, principal=call.row.principal, currency=call.row.currency,
        amount=call.values["amount"], reason=call.values["reason"], by=call.by, now=call.now,
        request_id=call.request_id,
    )  # fmt: skip
    return _g("The balance has been corrected by %(amount)s.") % {
        "amount": display.money_text(call.values["amount"], call.row.currency)
    }


_kept = display.amount("balance", _("balance"))


@admin.display(description=_("balance"))
def _balance(account: Account) -> Any:
    """What a customer has. The accounts of the system keep no balance: the trial balance sums their entries."""
    if _is_customer_account(account):
        return _kept(account)
    return _g("%(currency)s: see the trial balance") % {"currency": account.currency}


_balance.exported = _kept.exported  # type: ignore[attr-defined]


@admin.register(Account)
class Accounts(StatementPages, ReadOnlyAdmin):
    """The accounts of customers and of the system."""

    list_display = ("user_id", "kind", _balance, "created_at")
    list_filter = ("kind",)
    search_by = ("user_id", "id")
    search_parts = ACCOUNT_PARTS
    part_fields = ("user_id",)
    order = ("-id",)
    sorts: ClassVar = {"created_at": ("id",)}
    empty = _("No accounts yet. POST /accounts?user_id=… opens one.")
    fields = ("user_id", "kind", "principal", _balance, "created_at")
    page_actions = (
        Action(
            name="deposit",
            label=_("Deposit"),
            explanation=_("Adds money to this account with a new entry in the ledger."),
            permission="deposit",
            form=Deposit,
            perform=_deposit,
            is_possible=_is_customer_account,
        ),
        Action(
            name="correct",
            label=_("Correct the balance"),
            explanation=_("Corrects the balance with a new entry. Existing entries are never changed or deleted."),
            permission="correct_account",
            form=Correction,
            perform=_correct,
            is_possible=_is_customer_account,
            destructive=True,
        ),
    )

    def search_condition(self, name: str, term: str) -> Q:
        """User ids are unique within each kind of account, and the index begins with the kind."""
        if name == "user_id":
            return reduce(operator.or_, (Q(user_id=term, kind=kind) for kind in Account.Kind.values))
        return super().search_condition(name, term)

    def panels_for(self, request: HttpRequest, row: Any) -> list[panels.Panel]:
        entries = Entry.objects.select_related("source", "target").order_by("-id")
        return [
            panels.newest(
                (entries.filter(source=row), entries.filter(target=row)),
                (_("at"), lambda entry: display.moment(entry.at)),
                (_("kind"), lambda entry: entry.get_kind_display()),
                (_("from"), lambda entry: entry.source),
                (_("to"), lambda entry: entry.target),
                (_("amount"), lambda entry: display.money_cell(entry.amount, entry.currency)),
                (_("order"), lambda entry: display.order_link(entry.order_id)),
                (_("reason"), lambda entry: entry.reason or display.NOTHING),
                (_("by"), lambda entry: entry.actor or display.NOTHING),
                title=_("Ledger"),
                more=display.list_url("payments", "entry", f"q={row.pk}"),
                empty=_("No entries for this account yet."),
            )
        ]


class Direction(admin.SimpleListFilter):
    """Money that came in from outside the system, left it, or moved between accounts."""

    title = _("direction")
    parameter_name = "direction"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("in", _("in")), ("out", _("out")), ("within", _("between accounts"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in {"in", "out", "within"}:
            return queryset
        # Looked up first: with known ids the query reads a range of the index on this side of the entries.
        outside = list(
            Account.objects.filter(kind=Account.Kind.SYSTEM, user_id=ledger.CASH).values_list("pk", flat=True)
        )
        if self.value() == "within":
            return queryset.exclude(source__in=outside).exclude(target__in=outside)
        return queryset.filter(**{"source__in" if self.value() == "in" else "target__in": outside})


@admin.register(Entry)
class Entries(ReadOnlyAdmin):
    """The ledger."""

    list_display = (
        "id", "kind", "source", "target", display.amount("amount", _("amount")), display.order(), "reason", "actor",
        "at",
    )  # fmt: skip
    list_filter = (
        Age, Direction, "kind",
        scan_filter("currency", _("currency"), [(currency, currency) for currency in settings.CURRENCIES]),
    )  # fmt: skip
    list_select_related = ("source", "target")
    search_by = ("id", "order_id", "source_id", "target_id")
    order = ("-id",)
    sorts: ClassVar = {"at": ("id",)}
    empty = _("No entries yet. Deposit money on an account to create the first one.")
    fields = (
        "id", "kind", "source", "target", display.amount("amount", _("amount")), display.order(), "reason", "actor",
        "request_id", "at",
    )  # fmt: skip
