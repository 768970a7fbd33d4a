"""The pages of bulk actions: how far each has come, what became of its rows, and a button that stops it."""

from typing import Any
from uuid import UUID

from django.apps import apps
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.text import capfirst
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import Age, ReadOnlyAdmin, bulk_runs, display, list_queries, panels
from common.admin.progress import Progress
from orders_project.models import BulkRow, BulkRun

SHOWN = 100  # rows that were not done


@admin.display(description=_("action"))
def action_label(run: BulkRun) -> str:
    try:
        return str(bulk_runs.action_of(run)[1].label)
    except LookupError:
        return run.action


@admin.display(description=_("list"))
def list_name(run: BulkRun) -> str:
    return capfirst(str(apps.get_model(run.page)._meta.verbose_name_plural))


@admin.display(description=_("filter"))
def filtered_by(run: BulkRun) -> str:
    return "; ".join("=".join(one) for one in run.params) or _g("the selected rows")


@admin.display(description=_("reason"))
def reason(run: BulkRun) -> str:
    return str(run.values.get("reason", "")) or display.NOTHING


@admin.register(BulkRun)
class BulkRuns(ReadOnlyAdmin):
    """Actions with many rows. One sees those on lists that one may see."""

    list_display = ("started_at", action_label, list_name, "total", display.status(), "by", reason, "ended_at")
    list_filter = ("status", Age)
    order = ("-id",)
    empty = _("Nothing has been done with many rows at once yet. Filter a list, and choose what to do with all rows.")
    change_form_template = "admin/bulk_run.html"
    fields = (
        action_label, list_name, filtered_by, reason, "total", display.status(), "by", "started_at", "ended_at",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        seen = [
            model._meta.label_lower for model, page in admin.site._registry.items() if page.has_view_permission(request)
        ]
        return super().get_queryset(request).filter(page__in=seen)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.stop_view)
        return [path("<uuid:run_id>/stop/", view, name="orders_project_bulkrun_stop"), *super().get_urls()]

    def stop_view(self, request: HttpRequest, run_id: UUID) -> HttpResponse:
        """Stop a run, which everybody may who may do what it does."""
        run = self.get_object(request, str(run_id))
        if run is None:
            raise Http404
        if not self._may_stop(request, run):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if bulk_runs.stop(run, request):
            messages.success(request, _g("Stopped. The rows that were not reached stay as they are."))
        return HttpResponseRedirect(reverse("admin:orders_project_bulkrun_change", args=[run.pk]))

    def _may_stop(self, request: HttpRequest, run: BulkRun) -> bool:
        try:
            return bulk_runs.action_of(run)[1].is_permitted(request)
        except LookupError:
            return False

    def title_of(self, row: Any) -> str:
        return f"{action_label(row)} · {list_name(row)}"

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        run = context["original"]
        left = bulk_runs.counts(run).get("", 0)
        goes_on = run.status == BulkRun.Status.RUNNING
        app, model = run.page.split(".")
        context |= {
            "progress": Progress(total=run.total, done=run.total - left),
            "run_goes_on": goes_on,
            "stop_url": reverse("admin:orders_project_bulkrun_stop", args=[run.pk])
            if goes_on and self._may_stop(request, run)
            else "",
            "rows_url": display.list_url(app, model, list_queries.query(run.params)),
        }
        return super().render_change_form(request, context, *args, **kwargs)

    def panels_for(self, request: HttpRequest, row: Any) -> list[panels.Panel]:
        app, model = row.page.split(".")
        found, names = bulk_runs.counts(row), dict(BulkRow.Outcome.choices)
        left_alone = row.rows.filter(outcome__in=[BulkRow.Outcome.SKIPPED, BulkRow.Outcome.FAILED])
        said = row.rows.exclude(outcome="").order_by().values("outcome", "said").annotate(n=Count("id"))
        results = panels.panel(
            [one for one in names if one in found],
            (_("result"), lambda one: capfirst(str(names[one]))),
            (_("rows"), lambda one: found[one]),
            title=_("Results"),
        )
        in_words = panels.panel(
            said.order_by("-n", "said")[:SHOWN],
            (_("result"), lambda one: capfirst(str(names[one["outcome"]]))),
            (_("why"), lambda one: one["said"]),
            (_("rows"), lambda one: one["n"]),
            title=_("Results in words"),
        )
        named = panels.panel(
            left_alone.order_by("outcome", "id")[:SHOWN],
            (_("row"), lambda one: display.page_link(app, model, one.key, one.key)),
            (_("result"), lambda one: one.get_outcome_display()),
            (_("why"), lambda one: one.said),
            title=_g("The first %(n)s rows that were left as they are") % {"n": SHOWN},
        )
        return [results, *(one for one in (in_words, named) if one.rows)]
