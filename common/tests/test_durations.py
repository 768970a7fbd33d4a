import pytest

from common.durations import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"), (0.34, "340 ms"), (1, "1 s"), (2.5, "2.5 s"), (90, "2 min"), (1200, "20 min"), (7200, "2 h"),
        (345_600, "4 days"),
    ],
)  # fmt: skip
def test_durations_have_the_largest_unit_that_fits(seconds, text):
    assert duration(seconds) == text
