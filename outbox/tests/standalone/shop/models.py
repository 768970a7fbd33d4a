"""What the shop has sold and packed, and its outbox, inbox and dead letters."""

from django.db import models

from outbox.models import DeadLetter as AnyDeadLetter
from outbox.models import IncomingMessage, OutgoingMessage


class Sale(models.Model):
    sale_id = models.CharField(max_length=20, primary_key=True)

    def __str__(self) -> str:
        return self.sale_id


class Parcel(models.Model):
    sale_id = models.CharField(max_length=20, unique=True)

    def __str__(self) -> str:
        return self.sale_id


class Outgoing(OutgoingMessage):
    class Meta:
        proxy = True


class Incoming(IncomingMessage):
    class Meta:
        proxy = True


class DeadLetter(AnyDeadLetter):
    class Meta:
        proxy = True
