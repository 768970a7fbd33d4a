"""manage.py events: read the stream of events, or copy a part of it to the queue of a subscriber."""

import logging
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from outbox import stream
from outbox.broker import LOST, BrokerTooOld
from outbox.management.arguments import moment
from outbox.stream import Progress, Selection

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Read the events that the broker keeps, or copy some of them to the queue of a subscriber."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(required=True, metavar="replay|tail")
        replay = actions.add_parser("replay", help="copy events to a queue that exists")
        _add_selection(replay, self._replay)
        replay.add_argument("--until", type=moment, help="only events that were written before this time")
        replay.add_argument("--to", required=True, metavar="QUEUE", help="where they are copied to")
        tail = actions.add_parser("tail", help="print new events, and older ones if asked for, until Ctrl-C")
        _add_selection(tail, self._tail)

    def handle(self, *args: Any, action: Callable[..., None], **options: Any) -> None:
        with _errors_as_text():
            action(**options)

    def _replay(self, *, to: str, offset: int | None, **options: Any) -> None:
        selection = Selection(since=options["since"], until=options["until"], type=options["type"])
        progress = Progress(next_offset=offset)
        try:
            for progress in stream.replay(to=to, selection=selection, offset=offset, now=timezone.now()):
                if progress.read:
                    logger.info("copied %s of %s events to %s", progress.copied, progress.read, to)
        except KeyboardInterrupt:
            raise CommandError(f"Stopped. {_so_far(progress, to)}", returncode=130) from None
        except (stream.StreamError, *LOST) as error:
            if not progress.read:
                raise
            raise CommandError(f"{error}\n{_so_far(progress, to)}") from error
        if offset is not None and (progress.first_offset or 0) > offset:
            self.stderr.write(f"The events before offset {progress.first_offset} are no longer kept.")
        self.stdout.write(f"Copied {progress.copied} of {progress.read} events to {to}.{_later(progress)}")

    def _tail(self, *, offset: int | None, **options: Any) -> None:
        selection = Selection(since=options["since"], type=options["type"])
        is_new = offset is None and selection.since is None
        with stream.Reader("next" if is_new else stream.start_of(selection, offset)) as reader:
            try:
                while True:
                    for kept in reader.read(wait=stream.SILENCE):
                        if kept in selection:
                            event = kept.event
                            told = (event.get(name, "-") for name in ("time", "subject", "sequence", "id"))
                            self.stdout.write(f"{kept.offset} {kept.type} {' '.join(map(str, told))}")
                    self.stdout.flush()
            except KeyboardInterrupt:
                return


def _add_selection(parser: ArgumentParser, action: Callable[..., None]) -> None:
    parser.set_defaults(action=action)
    parser.add_argument(
        "--from",
        dest="since",
        type=moment,
        metavar="TIME",
        help="only events written at this time or later: 2026-11-01 (midnight UTC), 2026-11-01T12:00+01:00",
    )
    parser.add_argument(
        "--from-offset", dest="offset", type=_offset, metavar="N", help="begin at this place in the stream"
    )
    parser.add_argument("--type", default="#", help="such as order.paid or 'order.*'; default: all")


def _offset(text: str) -> int:
    if not text.isdigit():
        raise ArgumentTypeError(f"{text!r} is no offset: a whole number, as the last run has named it.")
    return int(text)


def _so_far(progress: Progress, to: str) -> str:
    return f"Copied {progress.copied} of {progress.read} events to {to}.{_later(progress)} Some may come twice."


def _later(progress: Progress) -> str:
    return "" if progress.next_offset is None else f" To go on from here: --from-offset {progress.next_offset}."


@contextmanager
def _errors_as_text() -> Iterator[None]:
    try:
        yield
    except (stream.StreamError, BrokerTooOld) as error:
        raise CommandError(str(error)) from error
    except LOST as error:
        raise CommandError(f"The broker cannot be reached: {error}") from error
