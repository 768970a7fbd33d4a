"""Admin pages over the outbox, the inbox and the dead letters of a service."""

from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from outbox import dead_letters
from outbox.errors import OutboxError
from outbox.models import DeadLetter
from outbox.preview import preview

from . import display, replays, urls
from .actions import Action, ActionCall, in_words, write_log
from .correction import CORRECT, is_correctable
from .filters import MessageType, Sent, scan_filter
from .forms import ReasonForm
from .panels import Panel, panel
from .readonly import ReadOnlyAdmin


class OutgoingMessages(ReadOnlyAdmin):
    """The messages that a service sends."""

    list_display = (
        "message_id", "type", display.order("subject"), "to", "attempt", "created_at", "due_at", "published_at",
    )  # fmt: skip
    list_filter = (Sent, MessageType)
    search_by = ("message_id", "subject")
    order = ("-id",)
    sorts: ClassVar = {"created_at": ("id",)}
    empty = _("No messages have been sent yet. Place an order, and its messages appear here.")
    fields = (
        "message_id", "type", "version", display.order("subject"), "to", display.json("data", _("data")),
        "correlation_id", "causation_id", "traceparent", "attempt", "created_at", "due_at", "publish_attempts",
        "last_error", "published_at",
    )  # fmt: skip

    def search_condition(self, name: str, term: str) -> Q:
        """The first row of a message has the message's id as its key; only later attempts are indexed by message id."""
        if name == "message_id":
            return Q(pk=term) | Q(message_id=term, attempt__gt=0)
        return super().search_condition(name, term)


class IncomingMessages(ReadOnlyAdmin):
    """The messages that a service has handled."""

    list_display = ("message_id", "type", display.order("subject"), "attempt", "received_at", "handled_at")
    list_filter = (MessageType,)
    search_by = ("message_id", "subject")
    order = ("-message_id",)
    empty = _("No messages have been received yet. Place an order, and the messages about it appear here.")
    fields = ("message_id", "type", display.order("subject"), "attempt", "received_at", "handled_at")


VERBS = {"replay": _("replayed"), "correct": _("corrected and replayed"), "discard": _("discarded")}


def _replay(call: ActionCall) -> str:
    dead_letters.replay(call.row, by=call.actor, now=call.now)
    return _g("The message has been sent again, with as many attempts as a new one.")


def _replay_never_handled(call: ActionCall) -> str:
    dead_letters.replay(call.row, by=call.actor, now=call.now, never_handled=True)
    return _g("The message has been sent again, with as many attempts as a new one.")


def _canary(call: ActionCall) -> str:
    dead_letters.replay(call.row, by=call.actor, now=call.now, canary=True)
    return _g("The message has been sent again, with one attempt. Check the result in a moment.")


def _discard(call: ActionCall) -> None:
    dead_letters.discard(call.row, by=call.actor, now=call.now, why=call.values["reason"])


def _is_dead(dead_letter: DeadLetter) -> bool:
    return dead_letter.status == DeadLetter.Status.DEAD


def _is_replayable(dead_letter: DeadLetter) -> bool:
    return _is_dead(dead_letter) and dead_letters.is_replayable(dead_letter) and not _is_forgotten(dead_letter)


def _is_forgotten(dead_letter: DeadLetter) -> bool:
    return _is_dead(dead_letter) and dead_letters.is_forgotten(dead_letter)


class DeadLetters(ReadOnlyAdmin):
    """The messages that a service could not send or handle."""

    list_display = (
        "__str__", display.status(), display.order("subject"), "fingerprint", "attempts", "replays",
        display.at("died_at", _("failed")),
    )  # fmt: skip
    list_filter = ("status", scan_filter("origin", _("origin"), DeadLetter.Origin.choices), MessageType)
    search_by = ("message_id", "subject", "fingerprint")
    order = ("-id",)
    sorts: ClassVar = {"died_at": ("id",)}
    actions = ("replay_selected",)
    bulk_actions = ("discard",)
    empty = _("There are no dead letters: every message has been handled.")
    fields = (
        display.explained_status(), "origin", "queue", "message_id", "type", display.order("subject"),
        display.reason("reason", _("reason"), explained=True),
        display.text("error", _("error")), display.text("traceback", _("traceback")), "fingerprint", "attempts",
        "replays", "worker", display.json("headers", _("headers")), display.json("body", _("message")), "died_at",
        "resolved_at",
    )  # fmt: skip
    page_actions = (
        Action(
            name="replay",
            label=_("Replay"),
            explanation=_("Sends the same message again. Whatever it has already done will not be done twice."),
            permission="replay_letter",
            perform=_replay,
            is_possible=_is_replayable,
        ),
        Action(
            name="replay_never_handled",
            label=_("Replay as never handled"),
            explanation=_(
                "The message is older than the inbox remembers. If it has been handled before, it is handled twice:"
                " replay it only if you have found out that it was not."
            ),
            permission="replay_letter",
            form=ReasonForm,
            perform=_replay_never_handled,
            is_possible=_is_forgotten,
            destructive=True,
        ),
        Action(
            name="canary",
            label=_("Replay as a canary"),
            explanation=_("Sends the same message again with a single attempt, so that the result is known soon."),
            permission="replay_letter",
            perform=_canary,
            is_possible=_is_replayable,
        ),
        replace(CORRECT, is_possible=lambda row: _is_replayable(row) and is_correctable(row)),
        Action(
            name="discard",
            label=_("Discard the message"),
            keep=_("Keep the message"),
            explanation=_("The message will not be handled. The dead letter remains visible until it is purged."),
            permission="discard_letter",
            form=ReasonForm,
            perform=_discard,
            is_possible=_is_dead,
            destructive=True,
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        return rows if self.on_one_page(request) else rows.defer("traceback", "headers", "body")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("replay/", view(self.replay_view), name=urls.name_of(self.opts, "replay")),
            path("<uuid:object_id>/preview/", view(self.preview_view), name=urls.name_of(self.opts, "preview")),
            *super().get_urls(),
        ]

    @admin.action(description=_("Replay the selected dead letters"), permissions=["replay"])
    def replay_selected(self, request: HttpRequest, selected: QuerySet[Any]) -> HttpResponse:
        url = urls.url_of(self.opts, "replay")
        return HttpResponseRedirect(f"{url}?{urlencode([('ids', dead_letter.pk) for dead_letter in selected])}")

    def has_replay_permission(self, request: HttpRequest) -> bool:
        return replays.is_permitted(request)

    def replay_view(self, request: HttpRequest) -> HttpResponse:
        """Replay many dead letters."""
        return replays.view(self, request, lambda text: write_log(request, model=self.model, text=text))

    def preview_view(self, request: HttpRequest, object_id: UUID) -> HttpResponse:
        """Show what a replay would do: the handler runs, and all its effects are rolled back."""
        dead_letter = self.get_object(request, str(object_id))
        if dead_letter is None:
            raise Http404
        if not self.has_replay_permission(request):
            raise PermissionDenied
        try:
            result, refusal = preview(dead_letter), None
        except OutboxError as error:
            result, refusal = None, in_words(error)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": dead_letter,
            "title": _("What a replay would do"),
            "preview": result,
            "refusal": refusal,
            "page_actions": self.action_links(request, dead_letter),
        }
        return TemplateResponse(request, "admin/outbox/preview.html", context)

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        row = context.get("original")
        if row is not None and _is_dead(row) and self.has_replay_permission(request):
            context["first_actions"] = [{"label": _("See what a replay would do"), "url": "../preview/"}]
        return super().render_change_form(request, context, *args, **kwargs)

    def panels_for(self, request: HttpRequest, row: Any) -> list[Panel]:
        return [
            panel(
                dead_letters.actions(row),
                (_("at"), lambda action: display.moment(action.at)),
                (_("by"), lambda action: action.by),
                (_("action"), lambda action: VERBS.get(action.verb, action.verb)),
                (_("details"), lambda action: display.laid_out(action.detail)),
                title=_("Actions"),
                empty=_("No actions yet. See what a replay would do, then replay or discard it."),
            ),
            panel(
                dead_letters.others_of(row),
                (_("failed"), lambda one: display.page_link(self.opts.app_label, "deadletter", one.pk, one)),
                (_("status"), lambda one: one.get_status_display()),
                (_("at"), lambda one: display.moment(one.died_at)),
                title=_("Other failures of the same message"),
                empty=_("None."),
            ),
        ]


def register_outbox_admin(outgoing: type[Model], incoming: type[Model], dead_letters: type[Model]) -> None:
    """Register the pages over the outbox, the inbox and the dead letters of a service."""
    for model, page in ((outgoing, OutgoingMessages), (incoming, IncomingMessages), (dead_letters, DeadLetters)):
        admin.site.register(model, page)
