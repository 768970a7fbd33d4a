"""
The users of the broker. Each has what its processes need; none may declare, bind or delete anything.

The deployment's own user declares the topology and imports `definitions`. See docs/security.md.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

import orders.messages  # noqa: F401 - what orders sends is registered there
from orders_project.celery import (
    ANSWERS,
    ANSWERS_STREAM,
    ASIDE,
    EVENTS,
    MESSAGES,
    QUESTIONS,
    QUESTIONS_STREAM,
    SERVICES,
    TASKS,
    WORKERS,
)
from outbox.broker import address, nodes
from outbox.message import EVENTS as OUTSIDE
from outbox.message import REGISTRY, Message
from payments import messages as payments
from processing import messages as processing

NOTHING = "^$"
IMPORT_TIMEOUT = 30.0  # seconds

# What a service asks others to do. Besides, it announces its own events and sends messages to itself.
COMMANDS: dict[str, tuple[type[Message], ...]] = {
    "orders": (
        payments.Capture, payments.Charge, payments.Refund, payments.RefundPart, payments.Void,
        processing.GiveBack, processing.KeepHold, processing.Process, processing.Release, processing.TakeBack,
    ),
}  # fmt: skip

# What every worker tells of itself: Celery's events, and its answers to `celery inspect`.
TELLS: tuple[tuple[str, tuple[str, ...]], ...] = ((WORKERS.name, (r"(worker|task)\..+",)), (ANSWERS.name, ()))


@dataclass(frozen=True)
class User:
    """
    A user of the broker: for which processes it is, the queues it reads, the routing keys it sends by exchange.

    Queues and keys are patterns. Those of a service are for any number of queues, so that ORDERS_QUEUES can change.
    """

    name: str
    used_by: str
    reads: tuple[str, ...] = ()
    sends: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def permissions(self, vhost: str) -> dict[str, str]:
        return {
            "user": self.name,
            "vhost": vhost,
            "configure": NOTHING,
            "write": _one_of(re.escape(exchange) for exchange, _ in self.sends),
            "read": _one_of(self.reads),
        }

    def topic_permissions(self, vhost: str) -> list[dict[str, str]]:
        """One for each topic exchange: RabbitMQ allows every routing key where there is none."""
        allowed = dict(self.sends)
        return [
            {
                "user": self.name,
                "vhost": vhost,
                "exchange": exchange.name,
                "write": _one_of(allowed.get(exchange.name, ())),
                "read": NOTHING,
            }
            for exchange in (MESSAGES, TASKS, EVENTS, WORKERS)
        ]


def _one_of(patterns: Iterable[str]) -> str:
    found = "|".join(patterns)
    return f"^({found})$" if found else NOTHING


def sent_by(service: str) -> list[type[Message]]:
    """Return the messages that a service sends to other services."""
    events = [kind for kind in REGISTRY.values() if _home(kind) == service and kind.to not in (service, OUTSIDE)]
    return [*events, *COMMANDS.get(service, ())]


def _home(kind: type[Message]) -> str:
    """The service in whose code a message is."""
    return kind.__module__.partition(".")[0]


def _key(queue: str, kind: str) -> str:
    """The pattern of the routing keys of this kind to a queue; to a service, to any of its queues."""
    any_of_them = "(-[0-9]+)?" if queue in SERVICES else ""
    return re.escape(address(queue, "")[1].removesuffix(".")) + any_of_them + rf"\.{kind}"


def _service(service: str) -> User:
    mine = [service, *(queue for queue in ASIDE if queue.partition(".")[0] == service)]
    to_others = tuple(_key(kind.queue, re.escape(kind.name)) for kind in sent_by(service))
    to_itself = tuple(_key(queue, ".+") for queue in mine)
    outside = any(_home(kind) == service and kind.to == OUTSIDE for kind in REGISTRY.values())
    return User(
        name=f"{service}_app",
        used_by=f"{service}-worker, {service}-relay",
        reads=(rf"{service}(\.([0-9]+|beat|dlq))?", re.escape(QUESTIONS_STREAM.name)),
        sends=(
            (MESSAGES.name, (*to_itself, *to_others)),
            *(((EVENTS.name, (r"order\..+",)),) if outside else ()),
            *TELLS,
        ),
    )


USERS: tuple[User, ...] = (
    *map(_service, SERVICES),
    # It calls whatever addresses strangers have registered, so it can send nothing: the relay of orders sends for it.
    User("orders_webhooks", "webhooks-worker", (r"orders\.webhooks", re.escape(QUESTIONS_STREAM.name)), TELLS),
    User("beat", "beat", sends=((TASKS.name, tuple(re.escape(f"{service}.beat") for service in SERVICES)),)),
    # Sees whether the broker is there and how long queues are.
    User("monitor", "orders-web, grpc, payments-web, processing-web, fake-gateway, KEDA"),
    # Sees that too, and asks workers what they handle.
    User("back_office", "back-office", (re.escape(ANSWERS_STREAM.name),), ((QUESTIONS.name, ()),)),
)


def vhost_of(url: str) -> str:
    """Return the virtual host of an address of the broker."""
    return unquote(urlsplit(nodes(url)[0]).path[1:]) or "/"


def definitions(passwords: Mapping[str, str], *, vhost: str = "/") -> dict[str, Any]:
    """
    Return what RabbitMQ imports: the users with their permissions in a virtual host.

    :param passwords: by user; users without one are assumed to exist
    """
    return {
        "users": [
            {
                "name": user.name,
                "password_hash": hashed(passwords[user.name]),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "",
                "limits": {},
            }
            for user in USERS
            if passwords.get(user.name)
        ],
        "permissions": [user.permissions(vhost) for user in USERS],
        "topic_permissions": [one for user in USERS for one in user.topic_permissions(vhost)],
    }


def hashed(password: str) -> str:
    """Return a password as RabbitMQ stores it."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def import_into(management_url: str, content: Mapping[str, Any]) -> None:
    """
    Have RabbitMQ's management API import definitions. What they do not name stays as it is.

    :raises requests.RequestException: if it cannot be reached, or refuses
    """
    answer = requests.post(f"{management_url.rstrip('/')}/api/definitions", json=content, timeout=IMPORT_TIMEOUT)
    answer.raise_for_status()
