"""The form that people log in with: a password, and a code where they have a second factor."""

from typing import Any

from django import forms
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from common.addresses import client_address
from common.lockout import Attempt, LockedOut

from . import second_factor

LOCKED_OUT = "locked_out"


class LoginForm(AdminAuthenticationForm):
    """Admits only so many attempts: see common/lockout.py. `retry_after` is set when there were too many."""

    otp_token = forms.CharField(
        label=_("Code of the authenticator app"),
        required=False,
        max_length=10,
        help_text=_("Leave empty if you have not set one up."),
        widget=forms.TextInput(attrs={"autocomplete": "one-time-code", "inputmode": "numeric"}),
    )
    retry_after = 0

    def clean(self) -> dict[str, Any]:
        name = self.cleaned_data.get("username")
        if not (name and self.cleaned_data.get("password")):
            return self.cleaned_data
        assert self.request is not None  # the login page gives it
        attempt = Attempt("password", name, client_address(self.request))
        try:
            attempt.admit()
        except LockedOut as refused:
            self.retry_after = refused.retry_after
            raise ValidationError(str(refused), code=LOCKED_OUT) from refused
        try:
            cleaned: dict[str, Any] = super().clean()
            self._check_second_factor()
        except ValidationError as refused:
            if refused.code != "code_needed":
                attempt.failed(known=User.objects.filter(username=name).exists())
            raise
        attempt.succeeded()
        return cleaned

    def _check_second_factor(self) -> None:
        user, code = self.get_user(), self.cleaned_data.get("otp_token", "").replace(" ", "")
        if not second_factor.has_device(user):
            return
        if not code:
            raise ValidationError(_("Enter the code of your authenticator app too."), code="code_needed")
        if not second_factor.check(user, code):
            raise ValidationError(_("This code is wrong or was used before. Wait for the next one."), code="wrong_code")
