"""Admin pages for people who keep books: comparisons with gateways, differences, statements and the trial balance."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import quote, unquote
from django.db import OperationalError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.text import capfirst
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import Action, ActionCall, Age, ReadOnlyAdmin, ReasonForm, display, panels, scan_filter
from common.money import Money
from common.reads import may_lag, name_of
from outbox import clock

from ..models import Difference, GatewayTransaction, Reconciliation
from . import repairs, statements, trial_balance

PAGE_TIMEOUT = "15s"  # of the query of a page

# Comparisons ----------------------------------------------------------------------------------------------------------

OUTCOMES: dict[str, Any] = {
    "matched": _("matched"),
    **{kind.value: kind.label for kind in Difference.Kind},
    "in_flight": _("in flight"),
    "returned": _("came in and went back"),
    "elsewhere": _("of another installation"),
}


@admin.register(Reconciliation)
class Reconciliations(ReadOnlyAdmin):
    """Comparisons of the ledger with what gateways have booked."""

    list_display = ("gateway", display.status(), "source", "since", "until", "transactions", "started_at")
    list_filter = (scan_filter("status", _("status"), Reconciliation.Status.choices), Age)
    order = ("-id",)
    empty = _("Nothing has been compared yet. It is done every night, or by manage.py reconcile.")
    fields = (
        "gateway", display.status(), "source", "since", "until", "transactions", "error", "started_at", "finished_at",
    )  # fmt: skip

    def panels_for(self, request: HttpRequest, row: Any) -> list[panels.Panel]:
        return [
            panels.panel(
                row.found,
                (_("outcome"), lambda one: OUTCOMES.get(one["outcome"], one["outcome"])),
                (_("number"), lambda one: one["count"]),
                (_("sum"), lambda one: display.money_cell(one["sum"], one["currency"])),
                title=_("Found"),
                more=display.list_url("payments", "difference", "waiting=yes"),
                empty=_("Nothing was booked in this period."),
            )
        ]


@admin.register(GatewayTransaction)
class GatewayTransactions(ReadOnlyAdmin):
    """What gateways have booked."""

    list_display = (
        "transaction_id", "gateway", "kind", display.amount("amount", _("amount")),
        display.amount("fee", _("fee"), currency="fee_currency"), "payment_id", display.order(), "at",
    )  # fmt: skip
    list_filter = (Age, scan_filter("kind", _("kind"), GatewayTransaction.Kind.choices))
    search_by = ("id", "transaction_id", "payment_id", "order_id")
    order = ("-id",)
    empty = _("No transactions of gateways are stored yet. They are listed every night, or by manage.py reconcile.")
    fields = (
        "gateway", "transaction_id", "kind", display.amount("amount", _("amount")),
        display.amount("fee", _("fee"), currency="fee_currency"),
        "payment_id", "source_id", display.order(), "reference", "description", "at",
    )  # fmt: skip


# Differences ----------------------------------------------------------------------------------------------------------


class Waiting(admin.SimpleListFilter):
    """Differences that are open."""

    title = _("waiting")
    parameter_name = "waiting"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("for a decision"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(status=Difference.Status.OPEN) if self.value() else queryset


def _asked(call: ActionCall) -> Mapping[str, Any]:
    return {"said": repairs.ask(difference_id=call.row.pk)}


def _repair(call: ActionCall) -> str:
    return repairs.apply(difference_id=call.row.pk, said=call.found["said"], now=call.now)


def _stray(call: ActionCall) -> Mapping[str, Any]:
    found = repairs.stray(difference_id=call.row.pk, now=call.now)
    return {"receipt_id": found.receipt_id, "amount": found.money.amount, "currency": found.money.currency}


def _refund(call: ActionCall) -> str:
    money = Money(call.found["amount"], call.found["currency"])
    stray = repairs.Stray(call.found["receipt_id"], money)
    return repairs.refund_stray(stray, reason=call.values["reason"], by=call.by)


def _accept(call: ActionCall) -> str:
    repairs.accept(difference_id=call.row.pk, reason=call.values["reason"], by=call.by, now=call.now)
    return _g("Accepted.")


def _is_open(difference: Difference) -> bool:
    return difference.status == Difference.Status.OPEN


def _can_be_asked(difference: Difference) -> bool:
    return _is_open(difference) and difference.kind != Difference.Kind.DIFFERING


def _is_stray(difference: Difference) -> bool:
    is_charge = difference.what == GatewayTransaction.Kind.CHARGE
    return _is_open(difference) and is_charge and difference.kind == Difference.Kind.UNKNOWN_PAYMENT


@admin.register(Difference)
class Differences(ReadOnlyAdmin):
    """Where the ledger and a gateway differ."""

    list_display = (
        "kind", display.status(), "gateway", "what",
        display.amount("amount_there", _("at the gateway"), currency="currency_there"),
        display.amount("amount_here", _("in the ledger"), currency="currency_here"),
        "payment_id", display.order(), "at",
    )  # fmt: skip
    list_filter = (
        Waiting,
        scan_filter("kind", _("kind"), Difference.Kind.choices),
        scan_filter("status", _("status"), Difference.Status.choices),
        Age,
    )
    search_by = ("id", "payment_id", "order_id")
    order = ("-id",)
    empty = _("The ledger and the gateways have agreed so far.")
    fields = (
        "kind", display.status(), "gateway", "what", "transaction_id",
        display.amount("amount_there", _("at the gateway"), currency="currency_there"),
        display.amount("amount_here", _("in the ledger"), currency="currency_here"),
        "payment_id", display.order(), "entry_id", "at", "found_at", "seen_at", "tried_at", "closed_at", "closed_by",
        "closed_why",
    )  # fmt: skip
    page_actions = (
        Action(
            name="repair",
            label=_("Ask the gateway, and apply what it says"),
            explanation=_(
                "What the gateway says of this payment happens to it, as if its webhooks had come. The next comparison"
                " closes the difference if both agree then."
            ),
            permission="match_webhook",
            first=_asked,
            perform=_repair,
            is_possible=_can_be_asked,
        ),
        Action(
            name="refund",
            label=_("Refund the money"),
            explanation=_("The money belongs to no order. The gateway will be asked to return it."),
            permission="refund_webhook",
            form=ReasonForm,
            first=_stray,
            perform=_refund,
            is_possible=_is_stray,
            destructive=True,
        ),
        Action(
            name="accept",
            label=_("Accept the difference"),
            explanation=_("The difference stays as it is, and is not reported any more unless it changes."),
            permission="discard_webhook",
            form=ReasonForm,
            perform=_accept,
            is_possible=_is_open,
            destructive=True,
        ),
    )


# Statements and the trial balance -------------------------------------------------------------------------------------


class Day(forms.DateField):
    """A day, of which the value is the first moment in UTC."""

    widget = forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")

    def clean(self, value: Any) -> Any:
        day = super().clean(value)
        return datetime(day.year, day.month, day.day, tzinfo=UTC) if isinstance(day, date) else None


class StatementForm(forms.Form):
    """Asks for the period of a statement and its format."""

    since = Day(label=_("From"))
    until = Day(label=_("Until before"))
    format = forms.ChoiceField(label=_("Format"), choices=[("csv", "CSV"), ("json", "JSON")])

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        since, until = values.get("since"), values.get("until")
        if since and until and until < since:
            self.add_error("until", _("The period ends before it begins."))
        return values


class TrialBalanceForm(forms.Form):
    """Asks for the day before which a trial balance is."""

    at = Day(label=_("Before"), required=False)


class StatementPages:
    """For the page of accounts: the statement of each, and the trial balance of all."""

    def get_urls(self) -> list[URLPattern]:
        here: Any = self
        return [
            path("trial-balance/", here.admin_site.admin_view(self.trial_balance), name="payments_trial_balance"),
            path("<path:object_id>/statement/", here.admin_site.admin_view(self.statement), name="payments_statement"),
            *super().get_urls(),  # type: ignore[misc]
        ]

    def action_links(self, request: HttpRequest, row: Any = None) -> list[dict[str, Any]]:
        """Links to what one may do here and, for who may see accounts, to a statement or the trial balance."""
        if row is None:
            link = {"label": _("Trial balance"), "url": reverse("admin:payments_trial_balance")}
        else:
            link = {"label": _("Statement"), "url": reverse("admin:payments_statement", args=[quote(row.pk)])}
        return [*super().action_links(request, row), {**link, "destructive": False}]  # type: ignore[misc]

    def statement(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask for a period, and return the statement of an account as a file."""
        here: Any = self
        account = here.get_object(request, unquote(object_id))
        if account is None or not here.has_view_permission(request, account):
            raise Http404
        today = clock.now("payments").astimezone(UTC).date()
        month = (today.replace(day=1) - timedelta(days=1)).replace(day=1)
        form = StatementForm(
            request.GET or None, initial={"since": month, "until": today.replace(day=1)}, label_suffix=""
        )
        if form.is_valid():
            asked = form.cleaned_data
            stated = statements.statement(account=account, since=asked["since"], until=asked["until"])
            return StreamingHttpResponse(
                statements.FORMATS[asked["format"]](stated, internal=True),
                content_type="text/csv; charset=utf-8" if asked["format"] == "csv" else "application/json",
                headers={"Content-Disposition": f'attachment; filename="statement.{asked["format"]}"'},
            )
        context = {
            "form": form,
            "original": account,
            "back": reverse("admin:payments_account_change", args=[quote(account.pk)]),
        }
        return self._page(request, "statement.html", _("Statement"), context, status=422 if form.errors else 200)

    def trial_balance(self, request: HttpRequest) -> HttpResponse:
        """Show the trial balance of each currency."""
        here: Any = self
        if not here.has_view_permission(request):
            raise Http404
        form = TrialBalanceForm(request.GET or None, label_suffix="")
        found: list[trial_balance.TrialBalance] = []
        problem = ""
        if not form.errors:
            at = form.cleaned_data["at"] if form.is_bound else None
            try:
                read = partial(trial_balance.trial_balances, at=at, timeout=PAGE_TIMEOUT)
                found = may_lag(read, "payments", who=name_of(request))
            except OperationalError:
                problem = _g("This takes too long for a page. Use manage.py ledger trial_balance.")
        if wrong := [one.currency for one in found if not one.is_balanced]:
            problem = _g("Does not sum to zero: %(currencies)s.") % {"currencies": ", ".join(wrong)}
        context = {"form": form, "problem": problem, "panels": [_panel(one) for one in found]}
        return self._page(
            request, "trial_balance.html", _("Trial balance"), context, status=422 if form.errors else 200
        )

    def _page(
        self, request: HttpRequest, template: str, title: Any, context: dict[str, Any], *, status: int
    ) -> TemplateResponse:
        here: Any = self
        shared = {
            **here.admin_site.each_context(request),
            "opts": here.opts,
            "title": title,
            "list_name": capfirst(str(here.opts.verbose_name_plural)),
            "list_url": reverse("admin:payments_account_changelist"),
        }
        return TemplateResponse(request, f"admin/payments/{template}", shared | context, status=status)


def _panel(one: trial_balance.TrialBalance) -> panels.Panel:
    """The accounts of a currency as a table."""

    def amount(name: str) -> Any:
        return lambda row: display.money_cell(getattr(row, name), one.currency)

    return panels.panel(
        (*one.rows, trial_balance.Row(_g("sum"), one.debit, one.credit)),
        (_("account"), lambda row: row.name),
        (_("debit"), amount("debit")),
        (_("credit"), amount("credit")),
        (_("balance"), amount("balance")),
        title=one.currency,
    )
