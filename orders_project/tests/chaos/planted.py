"""
Bugs to plant into a copy of the project, to see whether chaos finds them: the checker is checked.

Each is a list of replacements. One whose old text is not there any more, exactly once, is refused: it has to be written
anew, for the code as it is now.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from orders_project.embedded import places
from orders_project.tests.running_system import PROJECT

NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".cache", ".data", "__pycache__", ".*_cache", "node_modules")

CAUGHT_WITHIN = 600.0  # seconds
Edit = tuple[str, str, str]  # the file, the text that is there, and what is put into its place

BUGS: dict[str, list[Edit]] = {
    "inbox-check-dropped": [
        (
            "outbox/consumers.py",
            "        if is_new:\n            consumer.handle(message, *answer)\n",
            "        consumer.handle(message, *answer)\n",
        ),
        (
            "outbox/consumers.py",
            "        if consumer.first is not None and not delivery.answer and not consumer.incoming.seen(envelope):\n",
            "        if consumer.first is not None and not delivery.answer:\n",
        ),
        (
            "outbox/batches.py",
            "        unique = {one.envelope.id: one for one in arrived if one.envelope.id in new}\n",
            "        unique = {one.envelope.id: one for one in arrived}\n",
        ),
        (
            "outbox/batches.py",
            "    seen = consumer.incoming.seen_of([one.envelope for one in arrived])\n",
            "    seen = frozenset()\n",
        ),
    ],
    "batch-split-skipped": [
        (
            "outbox/consumers.py",
            "    may_be_together = len(raws) > 1 and not Delivery(service, raws, headers, worker).is_repeated\n",
            "    may_be_together = len(raws) > 1\n",
        ),
    ],
    "publish-before-commit": [
        (
            "outbox/models.py",
            "        WakeUp.after_commit(using, replies)\n",
            "        from .broker import Publisher\n\n"
            "        due = [row for row in rows if row.due_at <= clock.now(using)]\n"
            "        (publisher := Publisher()).publish([([row.envelope()], row.to) for row in due])\n"
            "        publisher.close()\n"
            "        WakeUp.after_commit(using, replies)\n",
        )
    ],
    "webhook-amount-ignored": [
        (
            "payments/receipts.py",
            "    reason = difference(payment, about)\n",
            "    reason = difference(payment, about)\n"
            '    reason = "" if reason in ("amount_mismatch", "capture_mismatch") else reason\n',
        )
    ],
    "locks-unsorted": [
        (
            "processing/holds.py",
            "AS asked(product_id, quantity, movement_id) USING (product_id)\n    ORDER BY product.product_id\n",
            "AS asked(product_id, quantity, movement_id) USING (product_id)\n    ORDER BY random()\n",
        )
    ],
    "holds-never-expire": [
        (
            "processing/tasks.py",
            'holds = services.expired_holds(now=clock.now("processing"), limit=BATCH)',
            'holds = services.expired_holds(now=clock.now("processing"), limit=0)',
        )
    ],
    "confirm-ignored": [
        (
            "outbox/broker.py",
            "        sent.outcome.waiting.add(sent.index)\n",
            "        sent.outcome.confirmed.add(sent.index)\n",
        )
    ],
    "stamp-before-confirm": [
        (
            "outbox/relay.py",
            "            if not rows:\n                return 0\n            lag = ",
            "            if not rows:\n                return 0\n"
            "            stored = Rows(self.database)\n"
            '            outgoing = model_of(self.service, "Outgoing")\n'
            "            stored.run(stored.update_all(outgoing, [row.pk for row in rows], published_at=self._now()))\n"
            "        with transaction.atomic(using=self.database):\n"
            "            lag = ",
        )
    ],
    "withdrawal-forgotten": [
        (
            "processing/holds.py",
            "    known = _first(withdrawn)\n",
            '    known = ROWS.first(Processing, "WHERE order_id = %s", withdrawn.order_id)\n',
        )
    ],
    "timer-not-set-again": [
        (
            "orders/transitions.py",
            "    if order.timer_at is None:\n        at = now + _pause",
            "    if order.timer_at is None and is_overdue:\n        at = now + _pause",
        )
    ],
    "answer-stored-apart": [
        (
            "common/idempotency.py",
            "                answers._base_manager.create("
            "principal=principal, key=key, created_at=now, **values, **extra_fields())\n",
            "                kept = dict(principal=principal, key=key, created_at=now, **values, **extra_fields())\n"
            "                transaction.on_commit(lambda: answers._base_manager.create(**kept), using=using)\n",
        ),
    ],
    "refund-under-a-new-key": [
        (
            "payments/refunds.py",
            '    key = f"{reference}.refund_part.{refund.refund_id}"',
            '    key = __import__("uuid").uuid4().hex',
        ),
        (
            "payments/refunds.py",
            "            refund_id=str(refund.refund_id),\n        )\n    )\n",
            '            refund_id=__import__("uuid").uuid4().hex,\n        )\n    )\n',
        ),
    ],
}

# The kinds of faults that each is tried with, where nothing else is asked for: those that such a bug does not survive.
PROVOKED_BY: dict[str, str] = {
    "inbox-check-dropped": "copies",
    "batch-split-skipped": "poison,kill",
    "publish-before-commit": "torn,reset",
    "webhook-amount-ignored": "misbehave",
    "locks-unsorted": "delay",
    "holds-never-expire": "torn",
    "confirm-ignored": "reset",
    "stamp-before-confirm": "reset",
    "withdrawal-forgotten": "late",
    "timer-not-set-again": "misbehave",
    "answer-stored-apart": "torn,delay",
    "refund-under-a-new-key": "lossy",
}


class DoesNotFit(Exception):
    """The text that a bug replaces is not there, exactly once."""


class NoVerdict(Exception):
    """A run says nothing of a bug."""


def texts(name: str, project: Path = PROJECT) -> dict[Path, str]:
    """
    Return the files of a project as they are with this bug, by their paths in it.

    :raises DoesNotFit: if the code has changed since the bug was written
    """
    changed: dict[Path, str] = {}
    for file, old, new in BUGS[name]:
        path = Path(file)
        text = changed.get(path) or (project / path).read_text()
        if text.count(old) != 1:
            raise DoesNotFit(f"{name}: {file} has {text.count(old)} times:\n{old}")
        changed[path] = text.replace(old, new)
    return changed


def plant(name: str, folder: Path) -> Path:
    """Copy the project to a folder, with this bug, and return the folder."""
    shutil.copytree(PROJECT, folder, ignore=NOT_COPIED, symlinks=True)
    for path, text in texts(name).items():
        (folder / path).write_text(text)
    return folder


def try_all(names: Sequence[str], *, seed: int, only: str, options: Sequence[str]) -> int:
    """
    Run chaos on a copy with each of these bugs, with one seed after the other until it is caught or time is up; print
    which checks caught it, and after how long; and return 1 if one was not caught.
    """
    missed = []
    home = Path(tempfile.mkdtemp(prefix="chaos-planted-"))
    print(f"timelines: {home}", flush=True)
    for name in names:
        began, found = time.monotonic(), list[str]()
        copy = plant(name, home / "copy")
        try:
            for its_seed in count(seed):
                started = time.monotonic()
                timeline = ["--timeline", str(home / f"{name}-{its_seed}.txt")]
                kinds = ["--only", only or PROVOKED_BY[name]]
                found = _run(copy, ["--seed", str(its_seed), *options, *kinds, *timeline])
                now = time.monotonic()
                print(f"{name}: seed {its_seed}, {now - began:.0f} s", flush=True)
                for one in found or ["nothing was found"]:
                    print(f"    {one}", flush=True)
                if found or (now - began) + (now - started) > CAUGHT_WITHIN:
                    break
        except NoVerdict as error:
            print(f"{name}: NO VERDICT\n{error}", flush=True)
        finally:
            shutil.rmtree(copy)
        if not found:
            missed.append(name)
    print(f"not caught: {', '.join(missed)}" if missed else "all were caught", flush=True)
    return 1 if missed else 0


def _run(copy: Path, arguments: Sequence[str]) -> list[str]:
    """
    Run chaos in a copy and return what it has found.

    :raises NoVerdict: if it has not come to its end, or no order was accepted: a copy that does not work shows nothing
    """
    env = os.environ | {"ORDERS_CACHE": str(places.cache())}
    command = [sys.executable, "-m", "orders_project.tests.chaos", *arguments]
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
    found = re.findall(r"^FOUND (.*)$", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1) or bool(found) != bool(done.returncode) or " 0 orders accepted" in done.stdout:
        raise NoVerdict(done.stdout + done.stderr[-4000:])
    return found
