"""What can be done with stock. `hold` is the only function that another service calls directly."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, connections, transaction
from django.utils.translation import gettext as _g

from common import near
from common.errors import Refusal
from common.search import literal

from .holds import (
    HeldOtherwise,
    InsufficientStock,
    Lacking,
    PlacedTooSlowly,
    ToProcess,
    answered,
    ask_processor,
    expired_holds,
    give_back,
    hold,
    keep_hold,
    process,
    process_all,
    release,
)
from .models import ROWS, Product, StockMovement
from .returns import take_back

__all__ = [
    "HeldOtherwise", "InsufficientStock", "Lacking", "PlacedTooSlowly", "ToProcess", "answered", "ask_processor",
    "expired_holds", "give_back", "hold", "keep_hold", "process", "process_all", "release", "take_back",
]  # fmt: skip


class ProductChanged(Refusal):
    """The product has changed since the caller looked at it."""

    code = "version_conflict"

    def __init__(self) -> None:
        super().__init__(_g("The product has changed since you looked at it. Look at it again."))


class SkuTaken(Refusal):
    """Another product has this sku."""

    code = "sku_taken"


class TwoPrices(Refusal):
    """In its own currency a product would have two prices, or none."""

    code = "two_prices"


@dataclass(frozen=True)
class Offer:
    """What is needed to order a product."""

    product_id: str
    sku: str
    name: str
    price: int | None  # in the currency that was asked for; None if it is not sold in that one
    is_active: bool


OFFERED = """
SELECT product_id, sku, name, CASE WHEN currency = %s THEN price ELSE (
    SELECT other.price FROM processing_productprice other
    WHERE other.product_id = processing_product.product_id AND other.currency = %s
) END, is_active
FROM processing_product WHERE product_id = ANY(%s) OR sku = ANY(%s)
"""


def offers(*, currency: str, product_ids: Sequence[UUID] = (), skus: Sequence[str] = ()) -> list[Offer]:
    """Return the products with these ids or skus, as they are sold now in this currency. Unknown ones are left out."""
    if not (product_ids or skus):
        return []
    found = ROWS.fetch(OFFERED, currency, currency, list(product_ids), list(skus))
    return [Offer(str(product_id), *more) for product_id, *more in found]


# Note [Nearly the same]: the catalogue may be large, so what was meant is looked up by the index of skus: every sku
# that differs in one character, and, for those that differ in two, the first ones that begin with the same half. All of
# it is bounded, as anybody who may place an order can ask for it: see docs/performance.md.
MAX_MISTYPED = 10  # skus that are looked at: who writes more unknown ones than that has not mistyped them
MAX_VARIANTS = 6_000  # that are looked up in all: those of three skus of eleven characters
LIKE_VARIANTS = "SELECT sku FROM processing_product WHERE sku = ANY(%s)"
LIKE_START = "(SELECT sku FROM processing_product WHERE sku LIKE %s LIMIT 50)"


def near_skus(skus: Sequence[str]) -> dict[str, str]:
    """Return for each of these skus, which are unknown, the one of the catalogue that it nearly is, if there is one."""
    if not skus:
        return {}
    skus = list(dict.fromkeys(skus))[:MAX_MISTYPED]
    variants: set[str] = set()
    queries: list[str] = []
    parameters: list[Any] = []
    for sku in skus:
        is_affordable = len(variants) + near.most_variants(sku) <= MAX_VARIANTS
        variants |= near.variants(sku) if is_affordable else near.cases(sku)
        if near.allowed(sku):
            for start in {form[: len(sku) // 2] for form in (sku, sku.lower(), sku.upper())}:
                queries.append(LIKE_START)
                parameters.append(f"{literal(start)}%")
    with connections["processing"].cursor() as cursor:
        cursor.execute(" UNION ALL ".join([LIKE_VARIANTS, *queries]), [sorted(variants), *parameters])
        known = sorted({sku for (sku,) in cursor.fetchall()})
    return {sku: one for sku in skus if (one := near.nearest(sku, known))}


@transaction.atomic(using="processing")
def make_product(
    *,
    name: str,
    price: int,
    stock: int,
    actor: str,
    now: datetime,
    sku: str | None = None,
    is_active: bool = True,
    prices: Mapping[str, int | None] | None = None,
) -> Product:
    """
    Add a product to the catalogue, with its first stock, and return it.

    :param prices: what it costs in currencies besides the default one
    :raises SkuTaken: if another product has this sku
    :raises TwoPrices: if another price than `price` is given in the default currency
    """
    product = Product(name=name, price=price, currency=settings.CURRENCY, is_active=is_active)
    product.sku = sku or f"product-{product.product_id}"
    try:
        with transaction.atomic(using="processing"):
            product.save(force_insert=True)
    except IntegrityError as error:
        if not Product.objects.filter(sku=product.sku).exists():
            raise
        raise SkuTaken(
            _g("There already is a product %(sku)s.") % {"sku": product.sku}, errors={"sku": [product.sku]}
        ) from error
    _set_prices(product, prices or {}, price=price)
    if stock:
        receive_stock(product_id=product.product_id, quantity=stock, reason="first stock", actor=actor, now=now)
        product.refresh_from_db()
    return product


@transaction.atomic(using="processing")
def change_product(
    *,
    product_id: UUID,
    actor: str,
    now: datetime,
    name: str | None = None,
    price: int | None = None,
    prices: Mapping[str, int | None] | None = None,
    is_active: bool | None = None,
    stock: int | None = None,
    stock_change: int = 0,
    seen: Collection[str] | None = None,
) -> Product:
    """
    Change what is given, and return the product.

    :param price: what it costs in its own currency
    :param prices: what it costs in these currencies; None where it is not to be sold any more
    :param stock: the new available stock: a movement corrects the difference to what is available at this moment
    :param stock_change: what came in or, if it is negative, is missing
    :param seen: change the product only if its `Product.etag` or its `Product.catalog_etag` is one of these
    :raises ProductChanged: if neither is
    :raises TwoPrices: if there is not one price in its own currency
    :raises InsufficientStock: if less than nothing would be available
    """
    product = Product.objects.select_for_update(no_key=True).get(pk=product_id)
    if seen is not None and not {product.etag, product.catalog_etag} & set(seen):
        raise ProductChanged
    changes = {"name": name, "price": _set_prices(product, prices or {}, price=price), "is_active": is_active}
    for field, value in changes.items():
        if value is not None:
            setattr(product, field, value)
    product.save(update_fields=[*(field for field, value in changes.items() if value is not None), "updated_at"])
    quantity = stock_change if stock is None else stock - product.available
    if quantity:
        receive_stock(
            product_id=product_id,
            quantity=quantity,
            reason="stock changed" if stock is None else "stock set",
            actor=actor,
            now=now,
            correction=stock is not None or quantity < 0,
        )
        product.refresh_from_db()
    return product


def _set_prices(product: Product, prices: Mapping[str, int | None], *, price: int | None) -> int | None:
    """Store the prices in other currencies than the product's own, and return the one in that, if it is given."""
    own = prices.get(product.currency, price)
    if (product.currency in prices and own is None) or (price is not None and own != price):
        detail = _g("A product has exactly one price in %(currency)s.") % {"currency": product.currency}
        raise TwoPrices(detail, errors={f"prices.{product.currency}": [detail]})
    for currency, other in prices.items():
        if currency == product.currency:
            continue
        if other is None:
            product.other_prices.filter(currency=currency).delete()
        else:
            product.other_prices.update_or_create(currency=currency, defaults={"price": other})
    return own


@transaction.atomic(using="processing")
def receive_stock(
    *, product_id: UUID, quantity: int, reason: str, actor: str, now: datetime, correction: bool = False
) -> StockMovement:
    """
    Receive stock, or correct a count up or down, and return the movement.

    :raises InsufficientStock: if a correction would leave less than zero available
    """
    movement = StockMovement(
        product_id=product_id,
        kind=StockMovement.Kind.CORRECTED if correction else StockMovement.Kind.RECEIVED,
        quantity=quantity,
        reason=reason,
        actor=actor,
        at=now,
    )
    product = Product.objects.select_for_update().get(pk=product_id)
    if product.available + quantity < 0:
        raise InsufficientStock([Lacking(str(product_id), product.sku, -quantity, product.available)])
    product.available += quantity
    product.received += quantity
    product.save(update_fields=["available", "received", "updated_at"])
    movement.save(force_insert=True)
    return movement
