"""Numbers, times and durations at a terminal: what is none is refused in one line, and no command waits for ever."""

import pytest
from django.core.management import CommandError, call_command


@pytest.mark.parametrize(
    ("command", "value"),
    [
        (command, value)
        for command in (
            ("audit", "--grace"),
            ("audit", "--settle"),
            ("audit", "--window"),
            ("status", "--watch"),
            ("wait", "--seconds"),
            ("region", "promote", "--seconds"),
            ("dlq", "list", "--limit"),
            ("dlq", "replay", "--canary"),
            ("resend", "--grace"),
        )
        for value in ("nan", "inf", "-1", "9999999999", "999999d", "soon")
    ],
)
def test_a_number_that_is_none_is_refused(command: tuple[str, ...], value: str) -> None:
    with pytest.raises(CommandError, match=rf"argument {command[-1]}.*: '{value}' is not a"):
        call_command(*command[:-1], f"{command[-1]}={value}")
