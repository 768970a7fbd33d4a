"""
The second factor of people: a code of an authenticator app (TOTP, RFC 6238).

Whoever has set one up is asked for a code at every login. Managers, who may move money, have to set one up where
`SECOND_FACTOR` is required. django-otp keeps the devices, accepts each code once and slows guessing down.
"""

from typing import Any

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django_otp import login, match_token
from django_otp.plugins.otp_totp.models import TOTPDevice

from orders_project.backoffice.roles import ROLES


def has_device(user: Any) -> bool:
    """Whether this user has set up a second factor."""
    return bool(user.pk) and TOTPDevice.objects.filter(user_id=user.pk, confirmed=True).exists()


def must_have_device(user: Any) -> bool:
    """Whether this user needs a second factor: managers do, where it is required."""
    if settings.SECOND_FACTOR != "required":
        return False
    return any(user.has_perm(f"orders_project.{codename}") for codename in ROLES["manager"])


def is_missing(user: Any) -> bool:
    """Whether this user has yet to set up a second factor before anything else."""
    return must_have_device(user) and not has_device(user)


def is_satisfied(user: Any) -> bool:
    """Whether this session has shown all that this user has to show."""
    if getattr(user, "otp_device", None) is not None:
        return True
    return not (has_device(user) or must_have_device(user))


def check(user: Any, code: str) -> bool:
    """Whether the code is right, and was not used before. The session that the user logs in to is then verified."""
    device = match_token(user, code)
    if device is not None:
        user.otp_device = device
    return device is not None


def new_device(user: Any) -> TOTPDevice:
    """The device that this user is setting up. It counts once a code of it was shown."""
    begun = TOTPDevice.objects.filter(user_id=user.pk, confirmed=False).order_by("pk").first()
    return begun or TOTPDevice.objects.create(user_id=user.pk, confirmed=False, name="app")


@transaction.atomic(using="default")
def confirm(request: HttpRequest, code: str) -> bool:
    """Let the device that is being set up replace the one before if the code is right; return whether it is."""
    device = TOTPDevice.objects.select_for_update().get(pk=new_device(request.user).pk)
    if not (device.verify_is_allowed()[0] and device.verify_token(code)):
        return False
    TOTPDevice.objects.filter(user_id=device.user_id).exclude(pk=device.pk).delete()
    device.confirmed = True
    device.save()
    login(request, device)
    return True


def remove(user: Any) -> int:
    """Remove the second factor of a user who has lost it; return how many devices there were."""
    return TOTPDevice.objects.filter(user_id=user.pk).delete()[0]
