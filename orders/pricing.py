"""
The prices of the lines of an order: those of the catalogue, or for free lines, taxes, discounts and shipping those of
the request. Nothing is converted, and no tax is computed.
"""

from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.utils.translation import gettext as _g

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


class TotalMismatch(Refusal):
    code = "total_mismatch"


class NothingOrdered(Refusal):
    code = "nothing_ordered"


class NoSuchLine(Refusal):
    code = "no_such_line"


class DiscountTooLarge(Refusal):
    code = "discount_too_large"


@dataclass(frozen=True)
class Line:
    """
    A line of a request: a product of the catalogue by id or sku, or a free line with its price.

    A line of goods with neither id nor sku stands for an order of an amount alone. A line of another kind has a name,
    and its amount as the price, which is positive for a discount too.
    """

    quantity: int
    product_id: str | None = None
    sku: str = ""
    name: str = ""
    price: int | None = None  # minor units
    kind: str = OrderLine.Kind.ITEM
    of: int | None = None  # the line of goods that another kind belongs to, counted from 1

    @property
    def field(self) -> str:
        """The field of the request that names the product."""
        return "product_id" if self.product_id else "sku"


def price(requested: tuple[Line, ...], *, currency: str, total: int | None = None) -> list[OrderLine]:
    """
    Price the lines by the catalogue, and return them with their positions.

    :param total: what the client takes the sum to be
    :raises Refusal: naming all lines that cannot be sold like this, or the two sums
    """
    offers = stock.offers(
        currency=currency,
        product_ids=[UUID(line.product_id) for line in requested if line.product_id],
        skus=[line.sku for line in requested if line.sku],
    )
    known = {offer.product_id: offer for offer in offers} | {offer.sku: offer for offer in offers}
    near = stock.near_skus([line.sku for line in requested if line.sku and line.sku not in known])
    first_of: dict[str, int] = {}  # the number of the first line of a product
    lines, refused = [], []
    for number, line in enumerate(requested):
        try:
            if line.kind != OrderLine.Kind.ITEM:
                lines.append(_added(line, number, requested))
            elif (offer := known.get(line.product_id or line.sku)) is None:
                lines.append(_free(line, number, near=near.get(line.sku, "")))
            else:
                _check_is_first(line, number, first_of.setdefault(offer.product_id, number), offer=offer)
                lines.append(_sold(line, number, offer, currency=currency))
        except Refusal as refusal:
            refused.append(refusal)
    if refused:
        raise _all_of(refused)
    for position, priced in enumerate(lines, start=1):
        priced.position = position
    _check_sum(lines, currency=currency, total=total)
    return lines


def _check_sum(lines: list[OrderLine], *, currency: str, total: int | None) -> None:
    """
    Check that discounts leave something to pay, and that the client has the same sum.

    :raises Refusal: if not
    """
    left = {line.position: line.amount for line in lines if line.kind == OrderLine.Kind.ITEM}
    if not left:
        raise NothingOrdered("There are no goods in this order.", errors={"items": ["There are no goods."]})
    for line in lines:
        if line.kind == OrderLine.Kind.DISCOUNT and line.of_position is not None:
            left[line.of_position] += line.amount
            if left[line.of_position] < 0:
                raise _too_large(line, f"More than items[{line.of_position - 1}] costs.")
    amount = sum(line.amount for line in lines)
    if amount < 0:
        of_order = [line for line in lines if line.kind == OrderLine.Kind.DISCOUNT and line.of_position is None]
        raise _too_large(of_order[-1], "The discounts are more than there is to pay.")
    if amount == 0:
        raise NothingToPay("The total of an order must not be zero.", errors={"items": ["The total is zero."]})
    if max(amount, *left.values()) > money.LARGEST:
        raise TotalTooLarge("The total is too large.", errors={"items": ["The total is too large."]})
    if total is not None and total != amount:
        said, summed = (money.text(one, currency=currency) for one in (total, amount))
        raise TotalMismatch(
            f"The lines sum to {summed}, and not to {said}.", errors={"total_amount": [f"The lines sum to {summed}."]}
        )


def _all_of(refused: list[Refusal]) -> Refusal:
    """The first of these refusals, with what is wrong with the other lines too."""
    first, *others = refused
    for other in others:
        first.errors = other.errors | first.errors
    return first


def _check_is_first(line: Line, number: int, first: int, *, offer: stock.Offer) -> None:
    """
    Check that a product is ordered in one line.

    :raises DuplicateLine: if not
    """
    if first != number:
        raise DuplicateLine(
            f"{offer.sku} is ordered twice.",
            errors={f"items[{number}].{line.field}": [f"The same product as items[{first}]."]},
        )


def _too_large(discount: OrderLine, detail: str) -> DiscountTooLarge:
    return DiscountTooLarge(detail, errors={f"items[{discount.position - 1}].amount": [detail]})


def _added(line: Line, number: int, requested: tuple[Line, ...]) -> OrderLine:
    """A tax, a discount or shipping."""
    is_goods = line.of is None or (line.of <= len(requested) and requested[line.of - 1].kind == OrderLine.Kind.ITEM)
    if not is_goods:
        detail = f"Line {line.of} is none of goods."
        raise NoSuchLine(detail, errors={f"items[{number}].of": [detail]})
    amount = line.price or 0
    sign = -1 if line.kind == OrderLine.Kind.DISCOUNT else 1
    return OrderLine(kind=line.kind, of_position=line.of, name=line.name, quantity=1, unit_price=sign * amount)


def _free(line: Line, number: int, *, near: str) -> OrderLine:
    """A line of goods that are not in the catalogue. Where the sku is `near` one that is, that one was meant."""
    where = f"items[{number}].{line.field}" if line.product_id or line.sku else "amount"
    if line.product_id:
        raise UnknownProduct("There is no such product.", errors={where: ["There is no such product."]})
    if near:
        detail = _g("There is no product %(sku)s. Did you mean %(known)s?") % {"sku": line.sku, "known": near}
        raise UnknownProduct(detail, errors={where: [detail]})
    if not settings.ORDERS_ALLOW_FREE_LINES:
        detail = "Only products of the catalog can be ordered."
        raise FreeLinesOff(detail, errors={where: [detail]})
    if line.price is None:
        raise UnknownProduct(f"There is no product {line.sku}.", errors={where: ["There is no such product."]})
    return OrderLine(sku=line.sku, name=line.name, quantity=line.quantity, unit_price=line.price)


def _sold(line: Line, number: int, offer: stock.Offer, *, currency: str) -> OrderLine:
    where = f"items[{number}].{line.field}"
    if not offer.is_active:
        raise InactiveProduct(f"{offer.sku} is not on sale.", errors={where: ["This product is not on sale."]})
    if offer.price is None:
        detail = f"{offer.sku} is not sold in {currency}."
        raise WrongCurrency(detail, errors={where: [f"Not sold in {currency}."]})
    if line.price is not None and line.price != offer.price:
        now = money.text(offer.price, currency=currency)
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
