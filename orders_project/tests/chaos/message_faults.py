"""
Faults of messages: they are doubled, come late, or kill the worker that handles them. Tables and triggers in the
databases make it so.
"""

import contextlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from .schedule import SERVICES, Fault

RESEND = """
UPDATE outbox_outgoingmessage SET published_at = NULL, due_at = now()
WHERE published_at > now() - interval '30 seconds' AND "to" IN ('orders', 'payments', 'processing') AND random() < %s
"""
LATENESS = """
CREATE TABLE chaos_late (share float NOT NULL);
CREATE FUNCTION chaos_late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.due_at <= clock_timestamp() + interval '1 s' AND random() < (SELECT coalesce(max(share), 0) FROM chaos_late)
    THEN NEW.due_at := NEW.due_at + random() * interval '8 s'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER chaos_late BEFORE INSERT ON outbox_outgoingmessage FOR EACH ROW EXECUTE FUNCTION chaos_late()
"""  # so that messages overtake each other

# A trigger has the transaction in which such a message is handled stand still, and says in the log of PostgreSQL which
# messages are in it. The worker that waits for it is then killed.
POISON = """
CREATE TABLE chaos_poison (one_in int NOT NULL, salt int NOT NULL);
CREATE FUNCTION chaos_poison() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added, chaos_poison WHERE mod(hashtext(message_id::text || salt), one_in) = 0) THEN
        RAISE LOG USING MESSAGE = 'chaos: dies with ' || (SELECT string_agg(message_id::text, ' ') FROM added);
        PERFORM pg_sleep(5);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_poison AFTER INSERT ON outbox_incomingmessage
REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION chaos_poison()
"""
DIES = re.compile(r"chaos: dies with (.*)")
DYING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"


# Each kind: what is changed when it begins and when it is over, and from what of the fault.
KINDS: dict[str, tuple[tuple[str, str], tuple[str, ...]]] = {
    "copies": ((RESEND, ""), ("share",)),
    "late": (("INSERT INTO chaos_late VALUES (%s)", "DELETE FROM chaos_late WHERE share = %s"), ("share",)),
    "poison": (
        ("INSERT INTO chaos_poison VALUES (%s, %s)", "DELETE FROM chaos_poison WHERE (one_in, salt) = (%s, %s)"),
        ("one_in", "salt"),
    ),
}


class MessageFaults:
    """What is done to messages in the databases of these addresses."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = urls
        self.poisoned: set[str] = set()  # the services some of whose messages kill

    def prepare(self, service: str) -> None:
        with self._database(service) as connection:
            connection.execute(LATENESS)
            connection.execute(POISON)

    def begin(self, fault: Fault) -> None:
        if fault.kind == "poison":
            self.poisoned.add(_service(fault))
        self._change(fault, KINDS[fault.kind][0][0])

    def mend(self, fault: Fault) -> None:
        self._change(fault, KINDS[fault.kind][0][1])
        if fault.kind == "poison":
            self.poisoned.discard(_service(fault))

    def repair(self) -> None:
        """Mend also where a database could not be reached."""
        for service in SERVICES:
            with psycopg.connect(self._urls[service], connect_timeout=60) as connection:
                connection.execute("DELETE FROM chaos_late")
                connection.execute("DELETE FROM chaos_poison")

    def dies(self, service: str, *, kill: Callable[[str], None]) -> bool:
        """Kill the worker of a service if it handles poison."""
        with contextlib.suppress(psycopg.OperationalError), self._database(service) as connection:
            if dying := connection.execute(DYING).fetchall():
                kill(service)
                for (pid,) in dying:  # while it sleeps it does not see that nobody waits for it
                    connection.execute("SELECT pg_terminate_backend(%s)", [pid])
                return True
        return False

    def _change(self, fault: Fault, statement: str) -> None:
        """Change something in the database of an outbox or inbox; not if it cannot be reached now."""
        if statement:
            with contextlib.suppress(psycopg.OperationalError), self._database(_service(fault)) as connection:
                connection.execute(statement, [fault.how[name] for name in KINDS[fault.kind][1]])

    def _database(self, service: str) -> psycopg.Connection[Any]:
        limits = "-c lock_timeout=1s -c statement_timeout=2s"
        return psycopg.connect(self._urls[service], connect_timeout=2, options=limits)


def _service(fault: Fault) -> str:
    """The service whose outbox or inbox is hit."""
    return fault.target.rpartition(" ")[2]
