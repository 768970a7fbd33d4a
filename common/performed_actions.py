"""
The numbers of admin forms that have been carried out.

Each database has a table of them, and a number commits together with the effect of its form: a double click, a form
that is sent again, and one whose process died after the commit, do nothing more.
"""

from datetime import datetime
from uuid import UUID

from django.db import models
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from .errors import Refusal


class RequestIdReused(Refusal):
    """The number was used for another form, or with other values."""

    code = "request_id_reused"


class AbstractPerformedAction(models.Model):
    """A form that has been carried out. Its number is drawn when the form is shown and travels with it."""

    request_id = models.UUIDField(_("request id"), primary_key=True)
    fingerprint = models.CharField(_("request fingerprint"), max_length=64, blank=True, default="", db_default="")
    performed_at = models.DateTimeField(_("performed at"))

    class Meta:
        abstract = True
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.request_id)

    @classmethod
    def first_time(cls, request_id: UUID | str, *, fingerprint: str, now: datetime) -> bool:
        """
        Store this number in the transaction of the caller; return whether it was new.

        A second call with the same number waits until the transaction of the first has ended.

        :raises RequestIdReused: if the number was used for something else
        """
        row, created = cls._base_manager.get_or_create(
            request_id=request_id, defaults={"fingerprint": fingerprint, "performed_at": now}
        )
        if not created and row.fingerprint not in ("", fingerprint):
            raise RequestIdReused(_g("This form was already sent with other values. Open it again."))
        return created
