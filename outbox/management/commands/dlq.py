"""manage.py dlq: the dead letters of every service, and what can be done with them."""

import getpass
import json
import time
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder
from django.utils import timezone

from outbox import clock, corrections, dead_letters
from outbox.dead_letters import CANARY_TIMEOUT, Outcome, Selection
from outbox.errors import OutboxError
from outbox.management.arguments import count, duration
from outbox.models import DeadLetter
from outbox.preview import preview
from outbox.services import database_of, services_here

EXIT = "Exit codes: 0 done; 1 refused, in part or wholly; 3 a canary died again or got no answer; 4 nothing matched."
REFUSED, CANARY_DIED, NOTHING_MATCHED = 1, 3, 4


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e9:
        raise ArgumentTypeError(f"{text} is not a positive number")
    return number


class Command(BaseCommand):
    help = f"List, show, preview, replay and discard dead letters. {EXIT}"

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="action", required=True, metavar="list|show|preview|replay|discard")
        for action, help_text in (
            ("list", "dead letters grouped by failure, or with --each one by one"),
            ("show", "everything about one dead letter, with its body and headers"),
            ("preview", "what a replay would do: row changes and messages, all rolled back"),
            ("replay", "send the messages again"),
            ("discard", "give the messages up"),
        ):
            one = commands.add_parser(action, help=help_text, description=f"{help_text}. {EXIT}")
            one.add_argument("--json", action="store_true", help="write JSON")
            if action in ("show", "preview"):
                one.add_argument("ids", type=UUID, nargs=1, metavar="ID")
                if action == "preview":
                    one.add_argument("--data", type=Path, metavar="FILE", help="with the corrected data in this file")
                continue
            one.add_argument("ids", type=UUID, nargs="*", metavar="ID")
            one.add_argument("--service", choices=services_here(), action="append", dest="services")
            one.add_argument("--room", choices=services_here(), action="append", dest="services", help=SUPPRESS)
            one.add_argument("--type", default="", help="message type, such as shop.reserve")
            one.add_argument("--reason", default="", help="such as failed or unknown_type")
            one.add_argument("--fingerprint", default="", help="of the failure, as `list` shows it")
            one.add_argument("--subject", "--order", default="", help="what the message is about, such as an order id")
            one.add_argument("--older-than", type=duration, metavar="AGE", help="90s, 15m, 2h, 7d")
            one.add_argument("--younger-than", type=duration, metavar="AGE")
            one.add_argument("--limit", type=count, help="at most this many, the oldest first")
            if action == "list":
                one.add_argument("--each", action="store_true", help="one line for each dead letter")
                one.add_argument("--status", default=DeadLetter.Status.DEAD, choices=DeadLetter.Status.values)
                continue
            one.add_argument("--all", action="store_true", help="without any filter")
            one.add_argument("--dry-run", action="store_true", help="only show what would be done")
            one.add_argument("--by", default="", help="who does it, for the record (default: your login name)")
            if action == "discard":
                one.add_argument("--why", required=True, help="the reason, for the record")
                continue
            one.add_argument("--why", default="", help="the reason, for the record")
            one.add_argument(
                "--data",
                type=Path,
                metavar="FILE",
                help="send the message with the corrected data in this file (JSON, as `show` has it in body.data);"
                " for one dead letter, with --why; the original is kept",
            )
            one.add_argument(
                "--never-handled",
                action="store_true",
                help="also those that are older than the inbox remembers: you know that they were not handled",
            )
            one.add_argument("--rate", type=positive, help="at most this many per second")
            one.add_argument(
                "--canary", type=count, default=0, metavar="N", help="first N of them; stop if one dies again"
            )
            for option, help_text in (("--timeout", "for the answer to a canary (1m)"), ("--patience", SUPPRESS)):
                one.add_argument(option, type=duration, default=CANARY_TIMEOUT, dest="timeout", help=help_text)

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        self.options = options
        getattr(self, f"_{action}")()

    # The actions

    def _list(self) -> None:
        now, services, limit = timezone.now(), self._services(), self.options["limit"] or 100
        if self.options["each"]:
            found = list(islice(self._found(), limit))
            self._write(
                [_line(one) for one in found],
                *(f"{one.pk}  {_service(one):<10}  {one.died_at:%Y-%m-%d %H:%M:%S}  {one}" for one in found),
            )
            return
        groups = dead_letters.groups(services, self._selection(), now=now)[:limit]
        self._write(
            [asdict(group) for group in groups],
            *(
                f"{group.dead_letters:>6}  {group.fingerprint}  {group.service:<10}  {group.type or '?'}: "
                f"{group.reason}  (newest {group.newest:%Y-%m-%d %H:%M:%S})\n        {group.error[:160]}"
                for group in groups
            ),
        )

    def _show(self) -> None:
        dead_letter = self._one()
        shown: dict[str, Any] = _line(dead_letter) | {
            "traceback": dead_letter.traceback,
            "headers": dead_letter.headers,
            "body": bytes(dead_letter.body).decode(errors="backslashreplace"),
            "replayable": dead_letters.is_replayable(dead_letter),
            "actions": list(dead_letters.actions(dead_letter).values("verb", "by", "at", "detail")),
        }
        self._write(shown, *(f"{name + ':':<13}{_readable(value)}" for name, value in shown.items()))

    def _preview(self) -> None:
        dead_letter = self._one()
        try:
            shown = preview(dead_letter, data=self._data())
        except OutboxError as refusal:
            raise CommandError(str(refusal), returncode=REFUSED) from refusal
        verdict = "the same failure again" if shown.same_failure else shown.error or "it would be handled"
        self._write(
            shown.as_json(),
            f"{dead_letter}\n  {verdict}",
            *(f"  note: {note}" for note in shown.notes),
            *(f"  {_change(change.before, change.after)} {change.table}" for change in shown.changes),
            *(f"  sends {row['type']} to {row['to']}: {json.dumps(row['data'])}" for row in shown.messages),
            shown.traceback,
        )

    def _replay(self) -> None:
        chosen, canaries, data = self._chosen(), self.options["canary"], self._data()
        if data is not None and (len(chosen) > 1 or canaries):
            raise CommandError("Corrected data are those of one dead letter: give its id.", returncode=REFUSED)
        if canaries and not self.options["dry_run"]:
            self._replay_canaries(chosen[:canaries])
            chosen = chosen[canaries:]
        pause = 1 / self.options["rate"] if self.options["rate"] else 0.0

        def replay(dead_letter: DeadLetter) -> None:
            now = clock.now(database_of(_service(dead_letter)))
            options = {name: self.options[name] for name in ("never_handled", "why")}
            dead_letters.replay(dead_letter, by=self._by(), now=now, data=data, **options)
            time.sleep(pause)

        self._each(chosen, replay, done="replayed", before=canaries)

    def _discard(self) -> None:
        def discard(dead_letter: DeadLetter) -> None:
            why = self.options["why"]
            dead_letters.discard(dead_letter, by=self._by(), now=timezone.now(), why=why)

        self._each(self._chosen(), discard, done="discarded")

    # Their parts

    def _replay_canaries(self, chosen: list[DeadLetter]) -> None:
        canaries = dead_letters.replay_canaries(
            chosen, by=self._by(), timeout=self.options["timeout"], never_handled=self.options["never_handled"]
        )
        try:
            for canary, outcome in canaries:
                self.stderr.write(f"canary {canary.pk}: {outcome}")
                if outcome is not Outcome.HANDLED:
                    again = dead_letters.died_again(canary)
                    how = (
                        "of the same failure" if again and again.fingerprint == canary.fingerprint else "of another one"
                    )
                    text = f"It died again, {how}: {again.error}" if again else "It was not answered in time."
                    raise CommandError(f"{text} Nothing else was replayed.", returncode=CANARY_DIED)
        except OutboxError as refusal:
            raise CommandError(f"The canary can't be replayed: {refusal}", returncode=REFUSED) from refusal

    def _each(self, chosen: list[DeadLetter], act: Callable[[DeadLetter], None], *, done: str, before: int = 0) -> None:
        if self.options["dry_run"]:
            self._write(
                {"would_be": done, "dead_letters": [str(one.pk) for one in chosen]},
                *(f"would be {done}: {one.pk} {one}" for one in chosen),
            )
            return
        refused: dict[str, str] = {}
        reported_at = time.monotonic()
        for number, dead_letter in enumerate(chosen, start=1):
            try:
                act(dead_letter)
            except OutboxError as refusal:
                refused[str(dead_letter.pk)] = str(refusal)
                self.stderr.write(f"{dead_letter.pk}: {refusal}")
            if time.monotonic() - reported_at >= 1:
                reported_at = time.monotonic()
                self.stderr.write(f"{number} of {len(chosen)}")
        total = len(chosen) - len(refused) + before
        self._write({done: total, "refused": refused}, f"{total} {done}, {len(refused)} refused")
        if refused:
            raise SystemExit(REFUSED)

    def _chosen(self) -> list[DeadLetter]:
        if not (self._selection().is_narrow or self.options["services"] or self.options["all"]):
            raise CommandError("Choose dead letters: by id, by a filter, or --all.", returncode=REFUSED)
        chosen = list(islice(self._found(), self.options["limit"]))
        if not chosen:
            raise CommandError("No dead letter matches.", returncode=NOTHING_MATCHED)
        return chosen

    def _found(self) -> Iterator[DeadLetter]:
        for service in self._services():
            yield from self._selection().of(service, now=timezone.now()).iterator(chunk_size=500)

    def _one(self) -> DeadLetter:
        for service in services_here():
            for dead_letter in Selection(ids=self.options["ids"], status="").of(service, now=timezone.now()):
                return dead_letter
        raise CommandError("There is no such dead letter.", returncode=NOTHING_MATCHED)

    def _services(self) -> tuple[str, ...]:
        return tuple(self.options["services"] or services_here())

    def _selection(self) -> Selection:
        names = ("ids", "type", "reason", "fingerprint", "subject", "older_than", "younger_than", "status")
        return Selection(**{name: self.options[name] for name in names if self.options.get(name)})

    def _data(self) -> Any:
        """The corrected data in the file that is given; None without one."""
        if (path := self.options["data"]) is None:
            return None
        try:
            return corrections.parse(path.read_bytes())
        except (OSError, OutboxError) as error:
            raise CommandError(f"{path}: {error}", returncode=REFUSED) from error

    def _by(self) -> str:
        return self.options["by"] or getpass.getuser()

    def _write(self, value: Any, *lines: str) -> None:
        if self.options["json"]:
            self.stdout.write(json.dumps(value, cls=DjangoJSONEncoder, indent=2))
        else:
            for line in lines or ("no dead letters",):
                self.stdout.write(line)


def _service(dead_letter: DeadLetter) -> str:
    return dead_letter._meta.app_label


def _line(dead_letter: DeadLetter) -> dict[str, Any]:
    names = (
        "status", "origin", "queue", "type", "subject", "message_id", "reason", "error", "fingerprint", "attempts",
        "replays", "worker", "died_at", "resolved_at",
    )  # fmt: skip
    return {"id": str(dead_letter.pk), "service": _service(dead_letter)} | {
        name: getattr(dead_letter, name) for name in names
    }


def _readable(value: Any) -> str:
    return str(value) if not isinstance(value, dict | list) else json.dumps(value, cls=DjangoJSONEncoder)


def _change(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    if before is None or after is None:
        return f"{'inserts' if before is None else 'deletes'} {json.dumps(after or before)} in"
    changed = {name: [before.get(name), value] for name, value in after.items() if before.get(name) != value}
    return f"changes {json.dumps(changed)} in"
