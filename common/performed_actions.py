"""The numbers of admin forms that have been carried out, so that a double click does nothing more."""

from datetime import datetime, timedelta
from uuid import UUID

from django.db import models
from django.utils.translation import gettext_lazy as _

REMEMBERED = timedelta(days=1)


class AbstractPerformedAction(models.Model):
    """A form that has been carried out. Its number is drawn when the form is shown and travels with it."""

    request_id = models.UUIDField(_("request id"), primary_key=True)
    performed_at = models.DateTimeField(_("performed at"))

    class Meta:
        abstract = True
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.request_id)

    @classmethod
    def first_time(cls, request_id: UUID | str, *, now: datetime) -> bool:
        """
        Store this number in the transaction of the caller; return whether it was new.

        A second call with the same number waits until the transaction of the first has ended.
        """
        _row, created = cls._base_manager.get_or_create(request_id=request_id, defaults={"performed_at": now})
        return created

    @classmethod
    def forget(cls, *, now: datetime) -> None:
        """Delete what is too old to be sent again."""
        cls._base_manager.filter(performed_at__lt=now - REMEMBERED).delete()
