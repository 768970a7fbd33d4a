"""Admin pages of the payments service."""

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from common.admin import IdempotencyKeyAdmin, register_outbox_admin

from ..models import DeadLetter, IdempotencyKey, Incoming, Outgoing
from .accounts import Accounts as Accounts
from .payments import Payments as Payments
from .refunds import Disputes as Disputes
from .refunds import Refunds as Refunds

register_outbox_admin(Outgoing, Incoming, DeadLetter)


@admin.register(IdempotencyKey)
class IdempotencyKeys(IdempotencyKeyAdmin):
    """Stored responses, by Idempotency-Key."""

    empty = _("No request has been sent with an Idempotency-Key yet.")
