"""manage.py dlq: the dead letters of every service, and what can be done with them."""

import getpass
import json
import re
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder
from django.utils import timezone

from common.errors import Refusal
from outbox import dead_letters
from outbox.dead_letters import Outcome, Selection
from outbox.models import DeadLetter
from outbox.preview import preview

EXIT = "Exit codes: 0 done; 1 refused, in part or wholly; 3 a canary died again or gave no answer; 4 nothing matched."
REFUSED, CANARY_DIED, NOTHING_MATCHED = 1, 3, 4
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def age(text: str) -> timedelta:
    """An age as people write it: 90s, 15m, 2h, 7d."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text, re.ASCII)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is no age: write 90s, 15m, 2h or 7d")
    return timedelta(seconds=int(match[1]) * UNITS[match[2]])


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e9:
        raise ArgumentTypeError(f"{text} is not a positive number")
    return number


class Command(BaseCommand):
    help = f"List, show, preview, replay and discard dead letters. {EXIT}"

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|show|preview|replay|discard")
        for verb, help_text in (
            ("list", "by what they died of; with --each, one by one"),
            ("show", "one letter: its story, body and headers"),
            ("preview", "what handling it would do: row changes and messages, all rolled back"),
            ("replay", "let letters come again"),
            ("discard", "give letters up"),
        ):
            one = verbs.add_parser(verb, help=help_text, description=f"{help_text}. {EXIT}")
            one.add_argument("--json", action="store_true", help="write JSON")
            if verb in ("show", "preview"):
                one.add_argument("ids", type=UUID, nargs=1, metavar="ID")
                continue
            one.add_argument("ids", type=UUID, nargs="*", metavar="ID")
            one.add_argument("--service", choices=settings.SERVICES_HERE, action="append", dest="services")
            one.add_argument("--type", default="", help="message type, such as payments.charge")
            one.add_argument("--reason", default="", help="why they died, such as failed or unknown_type")
            one.add_argument("--fingerprint", default="", help="of the failure, as `list` shows it")
            one.add_argument("--order", default="", dest="subject", help="order id")
            one.add_argument("--older-than", type=age, metavar="AGE", help="90s, 15m, 2h, 7d")
            one.add_argument("--younger-than", type=age, metavar="AGE")
            one.add_argument("--limit", type=int, help="so many at most, the oldest first")
            if verb == "list":
                one.add_argument("--each", action="store_true", help="one line a letter")
                one.add_argument("--status", default=DeadLetter.Status.DEAD, choices=DeadLetter.Status.values)
                continue
            one.add_argument("--all", action="store_true", help="without any filter")
            one.add_argument("--dry-run", action="store_true", help="only say what would be done")
            one.add_argument("--by", default="", help="who does it, for the record; your login name if left out")
            if verb == "discard":
                one.add_argument("--why", default="", help="for the record")
                continue
            one.add_argument("--rate", type=positive, help="letters a second, at most")
            one.add_argument("--canary", type=int, default=0, metavar="N", help="N first; stop if one dies again")
            one.add_argument("--patience", type=age, default=timedelta(minutes=1), help="with a canary (1m)")

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        self.options = options
        getattr(self, f"_{verb}")()

    # The verbs

    def _list(self) -> None:
        now, services, limit = timezone.now(), self._services(), self.options["limit"] or 100
        if self.options["each"]:
            letters = list(islice(self._letters(), limit))
            self._write(
                [_line(letter) for letter in letters],
                *(f"{one.pk}  {one._state.db:<10}  {one.died_at:%Y-%m-%d %H:%M:%S}  {one}" for one in letters),
            )
            return
        found = dead_letters.groups(services, self._selection(), now=now)[:limit]
        self._write(
            [asdict(group) for group in found],
            *(
                f"{group.letters:>6}  {group.fingerprint}  {group.service:<10}  {group.type or '?'}: {group.reason}"
                f"  (newest {group.newest:%Y-%m-%d %H:%M:%S})\n        {group.error[:160]}"
                for group in found
            ),
        )

    def _show(self) -> None:
        letter = self._one()
        story: dict[str, Any] = _line(letter) | {
            "traceback": letter.traceback,
            "headers": letter.headers,
            "body": bytes(letter.body).decode(errors="backslashreplace"),
            "replayable": dead_letters.is_replayable(letter),
            "actions": list(dead_letters.actions(letter).values("verb", "by", "at", "detail")),
        }
        self._write(story, *(f"{name + ':':<13}{_readable(value)}" for name, value in story.items()))

    def _preview(self) -> None:
        letter = self._one()
        try:
            shown = preview(letter)
        except Refusal as refusal:
            raise CommandError(str(refusal), returncode=REFUSED) from refusal
        verdict = "the same failure again" if shown.same_failure else shown.error or "it would be handled"
        self._write(
            shown.as_json(),
            f"{letter}\n  {verdict}",
            *(f"  note: {note}" for note in shown.notes),
            *(f"  {_change(change.before, change.after)} {change.table}" for change in shown.changes),
            *(f"  says {said['type']} to {said['to']}: {json.dumps(said['data'])}" for said in shown.messages),
            shown.traceback,
        )

    def _replay(self) -> None:
        letters = self._chosen()
        if self.options["canary"] and not self.options["dry_run"]:
            self._send_canaries(letters[: self.options["canary"]])
            letters = letters[self.options["canary"] :]
        pause = 1 / self.options["rate"] if self.options["rate"] else 0.0

        def one(letter: DeadLetter) -> None:
            dead_letters.replay(letter=letter, by=self._by(), now=timezone.now())
            time.sleep(pause)

        self._each(letters, one, done="replayed", before=self.options["canary"])

    def _discard(self) -> None:
        def one(letter: DeadLetter) -> None:
            dead_letters.discard(letter=letter, by=self._by(), now=timezone.now(), why=self.options["why"])

        self._each(self._chosen(), one, done="discarded")

    # Their parts

    def _send_canaries(self, letters: list[DeadLetter]) -> None:
        try:
            for letter, answer in dead_letters.canary(
                letters=letters, by=self._by(), patience=self.options["patience"]
            ):
                self.stderr.write(f"canary {letter.pk}: {answer}")
                if answer is not Outcome.HANDLED:
                    again = dead_letters.died_again(letter)
                    how = "of the same" if again and again.fingerprint == letter.fingerprint else "of something else"
                    said = f"It died again, {how}: {again.error}" if again else "It gave no answer in time."
                    raise CommandError(f"{said} Nothing else was replayed.", returncode=CANARY_DIED)
        except Refusal as refusal:
            raise CommandError(f"The canary can't fly: {refusal}", returncode=REFUSED) from refusal

    def _each(
        self, letters: list[DeadLetter], act: Callable[[DeadLetter], None], *, done: str, before: int = 0
    ) -> None:
        refused: dict[str, str] = {}
        said_at = time.monotonic()
        if self.options["dry_run"]:
            self._write(
                {"would_be": done, "letters": [str(letter.pk) for letter in letters]},
                *(f"would be {done}: {letter.pk} {letter}" for letter in letters),
            )
            return
        for number, letter in enumerate(letters, start=1):
            try:
                act(letter)
            except Refusal as refusal:
                refused[str(letter.pk)] = str(refusal)
                self.stderr.write(f"{letter.pk}: {refusal}")
            if time.monotonic() - said_at >= 1:
                said_at = time.monotonic()
                self.stderr.write(f"{number} of {len(letters)}")
        total = len(letters) - len(refused) + before
        self._write({done: total, "refused": refused}, f"{total} {done}, {len(refused)} refused")
        if refused:
            raise SystemExit(REFUSED)

    def _chosen(self) -> list[DeadLetter]:
        if not (self._selection().is_narrow or self.options["services"] or self.options["all"]):
            raise CommandError("Say which letters: by id, by a filter, or --all.", returncode=REFUSED)
        letters = list(islice(self._letters(), self.options["limit"]))
        if not letters:
            raise CommandError("No dead letter is like that.", returncode=NOTHING_MATCHED)
        return letters

    def _letters(self) -> Iterator[DeadLetter]:
        for service in self._services():
            yield from self._selection().of(service, now=timezone.now()).iterator(chunk_size=500)

    def _one(self) -> DeadLetter:
        for service in settings.SERVICES_HERE:
            for letter in Selection(ids=self.options["ids"], status="").of(service, now=timezone.now()):
                return letter
        raise CommandError("There is no such dead letter.", returncode=NOTHING_MATCHED)

    def _services(self) -> tuple[str, ...]:
        return tuple(self.options["services"] or settings.SERVICES_HERE)

    def _selection(self) -> Selection:
        names = ("ids", "type", "reason", "fingerprint", "subject", "older_than", "younger_than", "status")
        return Selection(**{name: self.options[name] for name in names if self.options.get(name)})

    def _by(self) -> str:
        return self.options["by"] or getpass.getuser()

    def _write(self, value: Any, *lines: str) -> None:
        if self.options["json"]:
            self.stdout.write(json.dumps(value, cls=DjangoJSONEncoder, indent=2))
        else:
            for line in lines or ("no dead letters",):
                self.stdout.write(line)


def _line(letter: DeadLetter) -> dict[str, Any]:
    names = (
        "status", "origin", "queue", "type", "subject", "message_id", "reason", "error", "fingerprint", "attempts",
        "replays", "worker", "died_at", "resolved_at",
    )  # fmt: skip
    return {"id": str(letter.pk), "service": letter._state.db} | {name: getattr(letter, name) for name in names}


def _readable(value: Any) -> str:
    return str(value) if not isinstance(value, dict | list) else json.dumps(value, cls=DjangoJSONEncoder)


def _change(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    if before is None or after is None:
        return f"{'new' if before is None else 'gone'} {json.dumps(after or before)} in"
    changed = {name: [before.get(name), value] for name, value in after.items() if before.get(name) != value}
    return f"changed {json.dumps(changed)} in"
