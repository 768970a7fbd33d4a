"""
Runs the shop: migrates its database, sells, relays, handles messages in a Celery worker, and looks at its dead letters.

    python -m outbox.tests.standalone.run

Writes what it found as JSON: see test_standalone.py.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from io import StringIO
from typing import Any

import django

DEAD_LETTERS = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "shop.dlq"}


def declare_queues() -> None:
    """Declare the queue of the shop and the one for what the broker gives up."""
    from outbox import broker

    connection = broker.connect()
    for name, arguments in (("shop", DEAD_LETTERS), ("shop.dlq", {})):
        connection.channel().queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
    connection.close()


def worker() -> Any:
    """Return a Celery worker of the shop, for a `with`."""
    from celery import Celery
    from celery.contrib.testing.worker import start_worker
    from django.conf import settings
    from kombu import Queue

    app = Celery("standalone", broker=settings.AMQP_URL, set_as_current=True)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        task_queues=[Queue("shop", routing_key="shop", no_declare=True)],
        task_ignore_result=True,
        task_acks_late=True,
        worker_enable_remote_control=False,
    )
    app.autodiscover_tasks(["outbox.tests.standalone.shop"], related_name="consumers", force=True)
    return start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=60)


def wait_until(happened: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 120
    while not happened():
        if time.monotonic() > give_up_at:
            raise TimeoutError
        time.sleep(0.02)


def main() -> dict[str, Any]:
    from django.core.checks import run_checks
    from django.core.management import call_command
    from django.db import transaction

    from outbox.broker import connect, encode
    from outbox.collector import collect
    from outbox.relay import Relay
    from outbox.services import services_here
    from outbox.tasks import purge
    from outbox.tests.standalone.shop import consumers  # noqa: F401 - the checks want to know the handlers
    from outbox.tests.standalone.shop.messages import Lose, Pack
    from outbox.tests.standalone.shop.models import DeadLetter, Incoming, Outgoing, Parcel, Sale

    call_command("migrate", verbosity=0)
    declare_queues()

    with transaction.atomic():
        Sale.objects.create(sale_id="rolled-back")
        Outgoing.post(Pack(sale_id="rolled-back"))
        transaction.set_rollback(True)
    with transaction.atomic():
        Sale.objects.create(sale_id="s-1")
        Outgoing.post(Pack(sale_id="s-1"), Lose(sale_id="s-1"))
    Relay("shop").drain()

    with worker():
        wait_until(lambda: Parcel.objects.exists() and DeadLetter.objects.exists())

    envelope = DeadLetter.objects.get().envelope()
    connection = connect()
    _, _, message = encode(envelope, to="shop")
    message.properties["application_headers"] |= {"task": "shop.unknown"}
    connection.channel().basic_publish_confirm(message, routing_key="shop.dlq")
    connection.close()
    DeadLetter.objects.update(status=DeadLetter.Status.DISCARDED)
    collected = collect("shop")
    listed = StringIO()
    call_command("dlq", "list", "--each", "--json", stdout=listed)
    purge("shop")
    return {
        "services": services_here(),
        "checks": [str(problem) for problem in run_checks()],
        "parcels": list(Parcel.objects.values_list("sale_id", flat=True)),
        "handled": list(Incoming.objects.values_list("type", "subject")),
        "source": envelope.source,
        "unsent": Outgoing.objects.filter(published_at=None).count(),
        "dead": sorted(DeadLetter.objects.values_list("origin", "reason", "subject")),
        "collected": collected,
        "listed": [(one["service"], one["type"], one["reason"]) for one in json.loads(listed.getvalue())],
    }


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "outbox.tests.standalone.settings"
    django.setup()
    found = main()
    packages = {name.partition(".")[0] for name in sys.modules}
    sys.stdout.write(json.dumps(found | {"packages": sorted(packages)}))
