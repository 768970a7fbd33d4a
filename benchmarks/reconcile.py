"""
How long it takes to compare a day of a gateway with the ledger, and how much memory: `make bench-reconcile`.

    python -m benchmarks.reconcile [--transactions 100000]

On private servers: so many transactions, the ledger that belongs to them, and fifty planted differences, of which
exactly those have to be found; once with an empty table of transactions, and once more over the same day.
"""

import argparse
import os
import resource
import time
from datetime import timedelta

from orders_project.embedded import places
from orders_project.embedded.services import provide
from orders_project.embedded.supervisor import stopping_on_signals


def main(number: int) -> None:
    home = places.scratch("bench")
    services = provide(home, os.environ, for_tests=False)
    try:
        os.environ.update(services.env, EMBEDDED="1", API_AUTH="open", DJANGO_SETTINGS_MODULE="orders_project.settings")
        measure(number)
    finally:
        services.stop()
        places.forget(home)


def measure(number: int) -> None:
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connections

    from outbox import clock
    from payments.books.reconcile import reconcile_told
    from payments.models import Difference, Entry
    from payments.tests.planted import Planted

    call_command("migrate_all", verbosity=0)
    now = clock.now("payments")
    planted = Planted(round(number / 1.1), now - timedelta(days=2))
    planted.plant()
    with connections["payments"].cursor() as cursor:
        cursor.execute("ANALYZE payments_payment, payments_entry")
    before = peak()
    for what in ("first", "again"):
        began, cpu = time.monotonic(), time.process_time()
        run = reconcile_told(
            gateway="fake",
            since=planted.since,
            until=planted.until,
            now=clock.now("payments"),
            told=planted.transactions(),
            source="planted",
        )
        seconds, mine = time.monotonic() - began, time.process_time() - cpu
        print(
            f"{what}: {run.transactions:,} transactions in {seconds:.1f} s, of which Python computed for {mine:.1f} s"
        )
    found = {
        (one.kind, one.what, (one.order_id or one.payment_id).strip("opi_s"))
        for one in Difference.objects.filter(status="open")
    }
    assert found == planted.expected, (len(found), len(planted.expected))
    print(
        f"found exactly the {len(found)} planted differences; booked {Entry.objects.filter(kind='fee').count():,} fees"
    )
    print(f"peak memory {peak():.0f} MB, of which {before:.0f} MB were in use before")


def peak() -> float:
    """The most memory that this process has had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=100_000)
    arguments = parser.parse_args()
    with stopping_on_signals():
        main(arguments.transactions)
