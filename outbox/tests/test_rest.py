import pytest

from outbox.rest import EACH, FACTOR, LONG, LONGEST, MANY, QUIET, Rest


def settled(messages: int, *, took: float) -> tuple[Rest, float]:
    """A relay whose bursts have been like this for long, and how long it rests."""
    rest = Rest()
    for _ in range(100):
        seconds = rest.after(messages, took=took)
    return rest, seconds


def test_is_the_longer_the_more_messages_come_and_the_longer_they_take() -> None:
    _, many = settled(MANY, took=0.005)
    assert many == pytest.approx(FACTOR * 0.005, rel=0.01)
    assert settled(1, took=0.005)[1] == pytest.approx(many / MANY, rel=0.01)
    assert settled(MANY, took=0.001)[1] == pytest.approx(many / 5, rel=0.01)


def test_is_longer_than_an_order_may_wait_only_when_very_many_come() -> None:
    assert settled(MANY, took=60)[1] == LONG
    some = int(0.07 / EACH)
    assert settled(some, took=60)[1] == pytest.approx(0.07, rel=0.01)
    assert settled(10 * some, took=60)[1] == LONGEST
    assert settled(10 * some, took=0.001)[1] == pytest.approx(FACTOR * 0.001, rel=0.01)


def test_is_hardly_changed_by_a_single_burst() -> None:
    rest, steady = settled(MANY, took=0.003)
    assert steady < rest.after(MANY, took=0.006) < 1.2 * steady
    assert 0.8 * steady < rest.after(1, took=0.001) < 1.1 * steady


def test_begins_anew_when_nothing_came_for_a_while() -> None:
    rest, busy = settled(1000, took=0.05)
    assert busy == LONGEST
    assert rest.after(1, took=0.005, quiet=2 * QUIET) == Rest().after(1, took=0.005)
    rest, busy = settled(1000, took=0.05)
    assert rest.after(1000, took=0.05, quiet=QUIET / 2) == busy
