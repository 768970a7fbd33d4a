"""
Faults of messages: they are doubled, come late, or kill the worker that handles them. Tables and triggers in the
databases make it so.
"""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import psycopg

from orders_project.tests.running_system import RunningSystem

from .schedule import Fault

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


class MessageFaults:
    """What a faulty system does to messages."""

    urls: Mapping[str, str]
    system: RunningSystem

    def __init__(self) -> None:
        self._poisoned: set[str] = set()

    def _begin_copies(self, fault: Fault) -> None:
        self._change(fault, RESEND, fault.how["share"])

    def _begin_late(self, fault: Fault) -> None:
        self._change(fault, "INSERT INTO chaos_late VALUES (%s)", fault.how["share"])

    def _mend_late(self, fault: Fault) -> None:
        self._change(fault, "DELETE FROM chaos_late WHERE share = %s", fault.how["share"])

    def _begin_poison(self, fault: Fault) -> None:
        self._poisoned.add(_service(fault))
        self._change(fault, "INSERT INTO chaos_poison VALUES (%s, %s)", fault.how["one_in"], fault.how["salt"])

    def _mend_poison(self, fault: Fault) -> None:
        self._change(fault, "DELETE FROM chaos_poison WHERE salt = %s", fault.how["salt"])
        self._poisoned.discard(_service(fault))

    def _change(self, fault: Fault, statement: str, *parameters: object) -> None:
        """Change something in the database of an outbox or inbox; not if it cannot be reached now."""
        with contextlib.suppress(psycopg.OperationalError), self._database(_service(fault)) as connection:
            connection.execute(statement, parameters)

    def _database(self, service: str) -> psycopg.Connection[Any]:
        limits = "-c lock_timeout=1s -c statement_timeout=2s"
        return psycopg.connect(self.urls[service], connect_timeout=2, options=limits)

    def dies(self, name: str) -> bool:
        """Kill this worker if it handles poison, and start it again."""
        with contextlib.suppress(psycopg.OperationalError), self._database(name) as connection:
            if name in self.system.running and (dying := connection.execute(DYING).fetchall()):
                self.system.kill(name)
                for (pid,) in dying:  # while it sleeps it does not see that nobody waits for it
                    connection.execute("SELECT pg_terminate_backend(%s)", [pid])
                self.system.start(name, wait=False)
                return True
        return False


def _service(fault: Fault) -> str:
    """The service whose outbox or inbox is hit."""
    return fault.target.rpartition(" ")[2]
