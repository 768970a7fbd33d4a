"""What the tests of docker/ ask of every service and pod."""

import re
from urllib.parse import SplitResult

from orders_project.privileges import broker, database

UNSUPPORTED = re.compile(r"^(redis|rabbitmq:(3|4\.[01])\b|jaegertracing/all-in-one|grafana/grafana-oss)")
EXACT = re.compile(r":v?\d+\.\d+\.\d+(-[a-z]+)*(@sha256:[0-9a-f]{64})?$")
OF_TWO_NUMBERS = re.compile(r"(^|/)postgres(ql)?:\d+\.\d+(-\d{12})?(-[a-z]+)*(@sha256:[0-9a-f]{64})?$")
SECRET_WORD = re.compile(r"\$\$?\{?[A-Z_]*(PASSWORD|SECRET|TOKEN)")


def shows_no_secret(arguments: list[str]) -> bool:
    """Whether no secret becomes an argument of a process; what the shell itself prints is none."""
    programs = [part for word in arguments for part in word.split(";") if not part.strip().startswith("printf ")]
    return not any(SECRET_WORD.search(part) for part in programs) and "x" * 60 not in str(arguments)


def is_pinned(image: str) -> bool:
    """Whether an image is ours, or of one release alone that gets its mistakes corrected."""
    ours = image == "orders" or image.startswith("orders:")
    return ours or (bool(EXACT.search(image) or OF_TWO_NUMBERS.search(image)) and not UNSUPPORTED.search(image))


def is_address(variable: str) -> bool:
    return variable.startswith(("DATABASE_URL", "AMQP_URL"))


def user_of(url: SplitResult) -> tuple[str, str]:
    """The server and the user of an address."""
    return ("broker" if url.scheme == "amqp" else url.path[1:]), str(url.username)


def meant_for(process: str) -> set[tuple[str, str]]:
    """The servers and users that the tables of privileges give to a process."""
    return {(role.database, role.name) for role in database.ROLES if process in _words(role.used_by)} | {
        ("broker", user.name) for user in broker.USERS if process in _words(user.used_by)
    }


def _words(text: str) -> set[str]:
    return set(text.split(", "))
