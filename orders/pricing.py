"""The prices of the lines of an order: those of the catalogue, or for free lines those of the request."""

from dataclasses import dataclass
from uuid import UUID

from django.conf import settings

from common import money
from common.errors import Refusal
from processing import services as stock

from .models import OrderLine


class UnknownProduct(Refusal):
    code = "unknown_product"


class InactiveProduct(Refusal):
    code = "inactive_product"


class PriceChanged(Refusal):
    code = "price_changed"


class WrongCurrency(Refusal):
    code = "wrong_currency"


class FreeLinesOff(Refusal):
    code = "free_lines_not_allowed"


class DuplicateLine(Refusal):
    code = "duplicate_line"


class NothingToPay(Refusal):
    code = "nothing_to_pay"


class TotalTooLarge(Refusal):
    code = "total_too_large"


@dataclass(frozen=True)
class Line:
    """
    A line of a request: a product of the catalogue by id or sku, or a free line with its price.

    A line with neither id nor sku stands for an order of an amount alone.
    """

    quantity: int
    product_id: str | None = None
    sku: str = ""
    name: str = ""
    price: int | None = None  # minor units

    @property
    def field(self) -> str:
        """The field of the request that names the product."""
        return "product_id" if self.product_id else "sku"


def price(requested: tuple[Line, ...]) -> list[OrderLine]:
    """
    Price the lines with one query of the catalogue.

    :raises Refusal: naming the line that cannot be sold like this
    """
    offers = stock.offers(
        product_ids=[UUID(line.product_id) for line in requested if line.product_id],
        skus=[line.sku for line in requested if line.sku],
    )
    known = {offer.product_id: offer for offer in offers} | {offer.sku: offer for offer in offers}
    seen: dict[UUID, int] = {}
    lines = []
    for number, line in enumerate(requested):
        offer = known.get(line.product_id or line.sku)
        if offer is None:
            lines.append(_free(line, number))
            continue
        lines.append(_sold(line, number, offer))
        first = seen.setdefault(UUID(offer.product_id), number)
        if first != number:
            raise DuplicateLine(
                f"{offer.sku} is ordered twice.",
                errors={f"items[{number}].{line.field}": [f"The same product as items[{first}]."]},
            )
    total = sum(line.unit_price * line.quantity for line in lines)
    if total == 0:
        raise NothingToPay("The total of an order must not be zero.", errors={"items": ["The total is zero."]})
    if total > money.LARGEST:
        raise TotalTooLarge("The total is too large.", errors={"items": ["The total is too large."]})
    return lines


def _free(line: Line, number: int) -> OrderLine:
    where = f"items[{number}].{line.field}" if line.product_id or line.sku else "amount"
    if line.product_id:
        raise UnknownProduct("There is no such product.", errors={where: ["There is no such product."]})
    if not settings.ORDERS_ALLOW_FREE_LINES:
        detail = "Only products of the catalogue can be ordered."
        raise FreeLinesOff(detail, errors={where: [detail]})
    if line.price is None:
        raise UnknownProduct(f"There is no product {line.sku}.", errors={where: ["There is no such product."]})
    return OrderLine(sku=line.sku, name=line.name, quantity=line.quantity, unit_price=line.price)


def _sold(line: Line, number: int, offer: stock.Offer) -> OrderLine:
    where = f"items[{number}].{line.field}"
    if not offer.is_active:
        raise InactiveProduct(f"{offer.sku} is not on sale.", errors={where: ["This product is not on sale."]})
    if offer.currency != settings.CURRENCY:
        detail = f"{offer.sku} is sold in {offer.currency}."
        raise WrongCurrency(detail, errors={where: [f"Sold in {offer.currency}."]})
    if line.price is not None and line.price != offer.price:
        now = money.text(offer.price, currency=offer.currency)
        raise PriceChanged(
            f"The price of {offer.sku} is {now}.", errors={f"items[{number}].price": [f"The price is {now}."]}
        )
    return OrderLine(
        product_id=UUID(offer.product_id),
        sku=offer.sku,
        name=offer.name,
        quantity=line.quantity,
        unit_price=offer.price,
    )
