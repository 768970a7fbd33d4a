"""The admin site: its menu, its dashboard, and its pages over all services."""

import base64
from http import HTTPStatus
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, get_script_prefix, path, reverse
from django.utils import timezone
from django.utils.translation import get_language
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.i18n import set_language

from common.admin import DeclaredLookups, ListsMayLag, SavedFilterPages
from orders_project.auth import second_factor
from orders_project.auth.login import LoginForm

from . import menu


class BackOffice(admin.AdminSite):
    """The admin site of operators."""

    site_title = _("Orders")
    site_header = _("Orders")
    index_title = _("Dashboard")
    index_template = "admin/dashboard.html"
    site_url = None
    empty_value_display = "–"
    login_form = LoginForm
    login_template = "admin/login_with_code.html"

    def __init__(self, name: str = "admin") -> None:
        super().__init__(name)
        self._menus: dict[tuple[Any, ...], list[Any]] = {}  # by who sees them, which language and below which path

    def has_permission(self, request: HttpRequest) -> bool:
        return super().has_permission(request) and second_factor.is_satisfied(request.user)

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Log in. Too many attempts are answered with 429; whoever has to set up a second factor first is led there."""
        is_staff = super().has_permission(request)
        if request.method == "GET" and is_staff and second_factor.is_missing(request.user):
            return redirect("admin:second_factor")
        answer = super().login(request, extra_context)
        form = (getattr(answer, "context_data", None) or {}).get("form")
        if isinstance(form, LoginForm) and form.retry_after:
            answer.status_code = HTTPStatus.TOO_MANY_REQUESTS
            answer["Retry-After"] = str(form.retry_after)
        return answer

    def second_factor(self, request: HttpRequest) -> HttpResponse:
        """Set up an authenticator app: show its key until a code of it is entered."""
        user = request.user
        if not super().has_permission(request) or (second_factor.has_device(user) and not self.has_permission(request)):
            return redirect_to_login(request.get_full_path(), reverse("admin:login"))
        wrong = False
        if request.method == "POST":
            if second_factor.confirm(request, request.POST.get("code", "").replace(" ", "")):
                messages.success(request, _("The second factor is set up."))
                return redirect("admin:index")
            wrong = True
        device = second_factor.new_device(user)
        context = {
            **self.each_context(request),
            "title": _("Second factor"),
            "key": base64.b32encode(device.bin_key).decode(),
            "address": device.config_url,
            "has_device": second_factor.has_device(user),
            "wrong": wrong,
        }
        return TemplateResponse(request, "admin/second_factor.html", context, status=422 if wrong else 200)

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        """
        Register as usual.

        The list of every model, those of other packages too, takes declared filters only, and they can be saved.
        """
        admin_class = admin_class or admin.ModelAdmin
        if not issubclass(admin_class, DeclaredLookups):
            kinds = (ListsMayLag, SavedFilterPages, DeclaredLookups, admin_class)
            admin_class = type(admin_class.__name__, kinds, {"__doc__": admin_class.__doc__})
        super().register(model_or_iterable, admin_class, **options)

    def get_urls(self) -> list[URLPattern | URLResolver]:
        return [
            path("dead-letters/", self.admin_view(self.dead_letters), name="dead_letters"),
            path("language/", set_language, name="set_language"),
            path("second-factor/", never_cache(self.second_factor), name="second_factor"),
            *super().get_urls(),
        ]

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        context = super().each_context(request)
        apps = context["available_apps"]
        return {
            **context,
            "zone": timezone.get_current_timezone_name(),
            "current_url": menu.current(apps, request),
            "dead_letters_url": menu.url_of(menu.DEAD_LETTERS, apps),
        }

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """What this person may see, by the sections of the menu; or, of one app, its models."""
        if app_label:
            return super().get_app_list(request, app_label)
        user: Any = request.user
        seen_by = "all" if user.is_superuser else frozenset(user.get_all_permissions())
        kind = (seen_by, get_language(), get_script_prefix())
        if kind not in self._menus:
            self._menus[kind] = menu.sections(self._build_app_dict(request).values())
        return self._menus[kind]

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """The dashboard for those who may see all services; the plain list of pages for others."""
        from . import dashboard  # imports models, which need all apps to be loaded

        may_see = request.user.has_perms(["orders.view_order", "payments.view_entry", "processing.view_product"])
        context = {
            **self.each_context(request),
            "title": self.index_title,
            "subtitle": None,
            "app_list": (apps := self.get_app_list(request)),
            "sections": dashboard.seen_by(request.user, dashboard.sections(), menu=apps) if may_see else [],
            "now": timezone.now(),
            **(extra_context or {}),
        }
        request.current_app = self.name
        return TemplateResponse(request, self.index_template or "admin/index.html", context)

    def dead_letters(self, request: HttpRequest) -> HttpResponse:
        from . import dead_letters

        return dead_letters.view(self, request)
