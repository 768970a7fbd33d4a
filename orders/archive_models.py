"""The archive: what happened to orders that finished long ago, in partitions by month."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class ArchivedHistory(models.Model):
    """
    The events of one order, and the webhooks about it, as one document: the rows by their table.

    The database lets a row of those tables go only if it is in here, lets nothing but names be erased from here, and
    lets this go only once the rows are back: see migrations/0027_archive.py. Only archive.py writes it.
    """

    order_id = models.CharField(_("order id"), primary_key=True, max_length=64)  # together with the month
    month = models.DateField(_("month"), help_text=_("in which the order was placed"))
    archived_at = models.DateTimeField(_("archived at"))
    document = models.JSONField(_("document"))

    class Meta:
        db_table = "orders_archive"
        verbose_name = _("archived history")
        verbose_name_plural = _("archived histories")
        default_permissions = ()

    def __str__(self) -> str:
        return self.order_id
