"""Times, amounts and durations have one form on a page, as its language writes them; forms read back what they show."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.forms import ValidationError
from django.template import Context, Template
from django.utils import timezone, translation

from common import money
from common.admin import AmountField, display
from common.durations import duration

AT = datetime(2026, 11, 28, 20, 46, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("language", "time", "amount", "number", "seconds"),
    [
        ("en", "28\xa0Nov\xa02026, 21:46:03", "1,234,567.89 USD", "12,345", "2.5 s"),
        ("ru", "28.11.2026 21:46:03", "1\xa0234\xa0567,89 USD", "12\xa0345", "2,5 с"),
    ],
)
def test_a_language_has_one_form_for_each(language: str, time: str, amount: str, number: str, seconds: str) -> None:
    with translation.override(language), timezone.override(ZoneInfo("Europe/Berlin")):
        assert f">{time}</time>" in str(display.moment(AT))
        assert Template("{{ at }}").render(Context({"at": AT})) == time  # as Django's own columns have it
        assert money.text(123_456_789, currency="USD") == amount
        assert display.number_text(12_345) == number
        assert duration(2.5) == seconds


def test_a_sentence_says_how_far_away_a_time_is_and_when() -> None:
    soon = timezone.now() + timedelta(minutes=11, seconds=30)
    assert str(display.ago(soon)).startswith("in 11\xa0minutes (<time ")
    assert f">{display.time_of_day(soon)}</time>)" in str(display.ago(soon))


@pytest.mark.parametrize("language", ["en", "ru"])
@pytest.mark.parametrize(("currency", "minor"), [("USD", 3990), ("JPY", 1350), ("KWD", 12_345), ("KWD", 1_250)])
def test_a_form_reads_what_it_shows(language: str, currency: str, minor: int) -> None:
    with translation.override(language):
        assert AmountField(currency=currency).clean(money.bare_text(minor, currency=currency)) == minor


@pytest.mark.parametrize("language", ["en", "ru"])
def test_what_may_be_a_thousand_is_no_price(language: str) -> None:
    with translation.override(language), pytest.raises(ValidationError):
        AmountField(currency="USD").clean("1,250")
