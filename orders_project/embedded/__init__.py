"""
The servers that a run brings along: PostgreSQL from a wheel, RabbitMQ from wherever one can be had.

`make run` and the tests use the same code. Nothing here needs root, an installer or Django, nothing
listens beyond the loopback interface, and nothing outlives the process that started it.
"""


class CannotRun(RuntimeError):
    """Something that a run needs cannot be had here; the message says what, and what to do."""

    code = "cannot_run"
