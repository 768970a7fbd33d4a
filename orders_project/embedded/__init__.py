"""
The servers that a run brings along: PostgreSQL and RabbitMQ from wherever they can be had.

`make run` and the tests use the same code. Nothing here needs root, an installer or Django, nothing
listens beyond the loopback interface, and nothing outlives the process that started it.
"""


class CannotRun(RuntimeError):
    """Something that a run needs cannot be had here; the message says what, and what to do."""

    code = "cannot_run"


DATABASES = ("default", "orders", "payments", "processing")


def variable(database: str) -> str:
    """The name of the environment variable with the address of this database."""
    return "DATABASE_URL" if database == "default" else f"DATABASE_URL_{database.upper()}"
