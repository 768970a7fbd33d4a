"""The mailbox of a service, seen: what it sends, what it has handled, what it could not deliver."""

from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from outbox import dead_letters
from outbox.models import DeadLetter
from outbox.preview import preview

from ..errors import Refusal
from . import bulk as errand
from . import display as show
from .actions import Action, ActionCall, ReasonForm, in_words, note
from .filters import MessageType, Sent, scan_filter
from .panels import Panel, panel
from .readonly import ReadOnlyAdmin


class OutgoingMessages(ReadOnlyAdmin):
    """What a service sends."""

    list_display = (
        "message_id",
        "type",
        show.order("subject"),
        "to",
        "attempt",
        "created_at",
        "due_at",
        "published_at",
    )
    list_filter = (Sent, MessageType)
    search_by = ("message_id", "subject")
    order = ("-id",)
    empty = _("Nothing has been sent. Place an order, and its letters appear here.")
    fields = (
        "message_id", "type", "version", show.order("subject"), "to", show.json("data", _("data")), "correlation_id",
        "causation_id", "traceparent", "attempt", "created_at", "due_at", "publish_attempts", "last_error",
        "published_at",
    )  # fmt: skip

    def way(self, name: str, term: str) -> Q:
        """A message is first posted in a row of its own id; only those posted again are indexed by their message's."""
        if name == "message_id":
            return Q(pk=term) | Q(message_id=term, attempt__gt=0)
        return super().way(name, term)


class IncomingMessages(ReadOnlyAdmin):
    """What a service has handled."""

    list_display = ("message_id", "type", show.order("subject"), "attempt", "received_at", "handled_at")
    list_filter = (MessageType,)
    search_by = ("message_id", "subject")
    order = ("-message_id",)
    empty = _("Nothing has come in. Place an order, and the letters about it appear here.")
    fields = ("message_id", "type", show.order("subject"), "attempt", "received_at", "handled_at")


def _replay(call: ActionCall) -> str:
    dead_letters.replay(letter=call.row, by=call.actor, now=call.now)
    return _g("It comes again, with as many attempts as a new letter.")


def _canary(call: ActionCall) -> str:
    dead_letters.replay(letter=call.row, by=call.actor, now=call.now, canary=True)
    return _g("It comes again, with one attempt. Look again in a moment.")


def _discard(call: ActionCall) -> None:
    dead_letters.discard(letter=call.row, by=call.actor, now=call.now, why=call.values["reason"])


def _is_dead(letter: DeadLetter) -> bool:
    return letter.status == DeadLetter.Status.DEAD


def _can_come_again(letter: DeadLetter) -> bool:
    return _is_dead(letter) and dead_letters.is_replayable(letter)


class DeadLetters(ReadOnlyAdmin):
    """What a service could not send or handle."""

    list_display = (
        "__str__", show.status(), show.order("subject"), "fingerprint", "attempts", "replays",
        show.since("died_at", _("died")),
    )  # fmt: skip
    list_filter = ("status", scan_filter("origin", _("origin"), DeadLetter.Origin.choices), MessageType)
    search_by = ("message_id", "subject", "fingerprint")
    order = ("-id",)
    actions = ("replay_selected", "discard_selected")
    empty = _("No dead letters: everything that was sent has been handled.")
    change_form_template = "admin/outbox/dead_letter.html"
    fields = (
        show.status(), "origin", "queue", "message_id", "type", show.order("subject"), "reason",
        show.text("error", _("error")), show.text("traceback", _("traceback")), "fingerprint", "attempts", "replays",
        "worker", show.json("headers", _("headers")), show.json("body", _("letter")), "died_at", "resolved_at",
    )  # fmt: skip
    page_actions = (
        Action(
            name="replay",
            label=_("Replay"),
            explanation=_("The letter comes again as the same message: what it did already, it will not do twice."),
            permission=errand.KINDS["replay"].permission,
            perform=_replay,
            is_possible=_can_come_again,
        ),
        Action(
            name="canary",
            label=_("Replay as a canary"),
            explanation=_("The letter comes again with one attempt only, so that its answer comes soon."),
            permission=errand.KINDS["replay"].permission,
            perform=_canary,
            is_possible=_can_come_again,
        ),
        Action(
            name="discard",
            label=_("Discard"),
            explanation=_("The letter is given up. It stays to be looked at until it is purged."),
            permission=errand.KINDS["discard"].permission,
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
        name = f"{self.opts.app_label}_deadletter"
        return [
            path("many/<slug:verb>/", self.admin_site.admin_view(self.many), name=f"{name}_many"),
            path("<uuid:object_id>/preview/", self.admin_site.admin_view(self.preview), name=f"{name}_preview"),
            *super().get_urls(),
        ]

    @admin.action(description=_("Replay the selected letters"), permissions=["replay"])
    def replay_selected(self, request: HttpRequest, letters: QuerySet[Any]) -> HttpResponse:
        return self._many_url("replay", letters)

    @admin.action(description=_("Discard the selected letters"), permissions=["discard"])
    def discard_selected(self, request: HttpRequest, letters: QuerySet[Any]) -> HttpResponse:
        return self._many_url("discard", letters)

    def has_replay_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(errand.KINDS["replay"].permission)

    def has_discard_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(errand.KINDS["discard"].permission)

    def _many_url(self, verb: str, letters: QuerySet[Any]) -> HttpResponse:
        url = reverse(f"admin:{self.opts.app_label}_deadletter_many", args=[verb])
        return HttpResponseRedirect(f"{url}?{urlencode([('ids', letter.pk) for letter in letters])}")

    def many(self, request: HttpRequest, verb: str) -> HttpResponse:
        """Do something to many letters."""
        return errand.view(self, request, verb, self._note)

    def _note(self, request: HttpRequest, text: str) -> None:
        note(request, model=self.model, text=text)

    def preview(self, request: HttpRequest, object_id: UUID) -> HttpResponse:
        """What the letter would do if it came again: run, and rolled back."""
        letter = self.get_object(request, str(object_id))
        if letter is None:
            raise Http404
        if not self.has_replay_permission(request):
            raise PermissionDenied
        try:
            shown, refusal = preview(letter), None
        except Refusal as refused:
            shown, refusal = None, in_words(refused)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": letter,
            "title": _("What a replay would do"),
            "preview": shown,
            "refusal": refusal,
            "verbs": self.action_links(request, letter),
        }
        return TemplateResponse(request, "admin/outbox/preview.html", context)

    def panels_for(self, request: HttpRequest, row: Any) -> list[Panel]:
        return [
            panel(
                dead_letters.actions(row),
                (_("at"), lambda action: show.ago(action.at)),
                (_("by"), lambda action: action.by),
                (_("verb"), lambda action: action.verb),
                (_("detail"), lambda action: show.laid_out(action.detail)),
                title=_("What was done to it"),
                empty=_("Nothing yet. See what a replay would do, then replay or discard it."),
            )
        ]


def register_outbox_admin(outgoing: type[Model], incoming: type[Model], dead_letters: type[Model]) -> None:
    """Show the mailbox of a service."""
    for model, window in ((outgoing, OutgoingMessages), (incoming, IncomingMessages), (dead_letters, DeadLetters)):
        admin.site.register(model, window)
