"""How the shop does it."""

from outbox.consumers import consumes
from outbox.errors import Undeliverable

from .messages import Lose, Pack
from .models import Parcel


@consumes(Pack)
def pack(message: Pack) -> None:
    Parcel.objects.create(sale_id=message.sale_id)


@consumes(Lose)
def lose(message: Lose) -> None:
    raise Undeliverable("not_ours", "We lose nothing.")
