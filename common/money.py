"""Amounts of money: integer minor units inside the system, exact numbers in whole units of the currency outside."""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from django.utils.formats import number_format

# Digits after the point (ISO 4217) of the currencies that can be configured.
EXPONENTS = {
    "USD": 2,
    "EUR": 2,
    "GBP": 2,
    "RUB": 2,
    "CHF": 2,
    "CNY": 2,
    "INR": 2,
    "JPY": 0,
    "KRW": 0,
    "KWD": 3,
}
LARGEST = 10**14  # minor units; a float shows every amount up to here exactly


@dataclass(frozen=True)
class Money:
    """An amount in minor units of a currency."""

    amount: int
    currency: str


class NotAnAmount(ValueError):
    """The value is not an amount of money in this currency."""

    code = "invalid_amount"


def minor_units(value: object, *, currency: str) -> int:
    """
    Convert an amount in whole units (a number, or a string that holds one) to minor units.

    :raises NotAnAmount: if it is not a finite number, has more decimals than the currency, or is too large
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise NotAnAmount("An amount must be a number.")
    text = str(value)
    if len(text) > 40 or not text.isascii() or "_" in text:
        raise NotAnAmount("An amount must be a number.")
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise NotAnAmount("An amount must be a number.") from None
    if not amount.is_finite():
        raise NotAnAmount("An amount must be a finite number.")
    if amount.adjusted() > 20 or abs(amount) > LARGEST:
        raise NotAnAmount("The amount is too large.")
    exponent = EXPONENTS[currency]
    scaled = amount.scaleb(exponent)
    if scaled != scaled.to_integral_value() or bool(amount) != bool(scaled):
        raise NotAnAmount(f"An amount in {currency} has at most {exponent} decimals.")
    if abs(scaled) > LARGEST:
        raise NotAnAmount("The amount is too large.")
    return int(scaled)


def number(minor: int, *, currency: str) -> float:
    """Minor units as the JSON number in responses: 120000 becomes 1200.0."""
    return minor / 10 ** EXPONENTS[currency]


def exact(minor: int, *, currency: str) -> str:
    """Minor units as a text for programs: 120000 becomes '1200.00'."""
    return f"{Decimal(minor).scaleb(-EXPONENTS[currency]):f}"


def text(minor: int, *, currency: str) -> str:
    """Minor units as text for people, as their language writes numbers: 120000 becomes '1,200.00 USD'."""
    return f"{bare_text(minor, currency=currency, grouped=True)} {currency}"


def bare_text(minor: int, *, currency: str, grouped: bool = False) -> str:
    """The same without the currency; without `grouped`, as one types it into a form."""
    exponent = EXPONENTS.get(currency, 0)  # a gateway may have money in a currency that is not one of ours
    return number_format(Decimal(minor).scaleb(-exponent), exponent, force_grouping=grouped)
