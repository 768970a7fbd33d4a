"""manage.py person: export the data of a person, or have it erased by two persons."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from common.errors import Refusal
from orders_project import people_data
from orders_project.models import Erasure

MAY_ERASE = "orders_project.erase_person"


class Command(BaseCommand):
    help = (
        "Export all data of a person, or erase it: one user of the back office requests it, another one approves. "
        "What cannot be erased yet is named. See docs/privacy.md."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="export|erase|approve|reject|list")
        whom = ArgumentParser(add_help=False)
        whom.add_argument("names", nargs="+", metavar="NAME", help="a user id, a customer id or an email")
        whom.add_argument("--client", help="whose user ids these are, where several clients have the same")
        who = ArgumentParser(add_help=False)
        who.add_argument(
            "--by", required=True, metavar="USER", help=f"who may do this in the back office ({MAY_ERASE})"
        )
        export = actions.add_parser("export", parents=[whom], help="write all data of a person as JSON")
        export.add_argument("--output", type=Path, metavar="FILE", help="instead of the standard output")
        erase = actions.add_parser("erase", parents=[whom, who], help="request that all data of a person is erased")
        erase.add_argument("--reason", required=True, help="why; it is kept, so name nobody")
        approve = actions.add_parser("approve", parents=[who], help="erase what another one requested")
        reject = actions.add_parser("reject", parents=[who], help="reject what another one requested")
        for decision in (approve, reject):
            decision.add_argument("id", metavar="ID")
        actions.add_parser("list", help="what was requested, by whom and when, and what became of it")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        try:
            getattr(self, action)(**options)
        except Refusal as refusal:
            raise CommandError(f"{refusal} ({refusal.code})") from None
        except (Erasure.DoesNotExist, ValidationError):
            raise CommandError("There is no such request: see manage.py person list.") from None

    def export(self, *, names: list[str], client: str | None, output: Path | None, **options: Any) -> None:
        parts = people_data.export(people_data.person_called(names, client=client), now=timezone.now())
        if output is None:
            for part in parts:
                self.stdout.write(part, ending="")
        else:
            output.touch(mode=0o600)
            with output.open("w") as file:
                file.writelines(parts)

    def erase(self, *, names: list[str], client: str | None, by: str, reason: str, **options: Any) -> None:
        person = people_data.person_called(names, client=client)
        erasure = people_data.request(person, reason=reason, by=_user(by), now=timezone.now())
        if others := people_data.other_names(person):
            self.stdout.write(
                f"The orders of this person also say {', '.join(others)}. If these are names of the same person, "
                "reject this request and make one with all names: what else there is under them stays as it is."
            )
        self.stdout.write(f"A second person has to approve: manage.py person approve {erasure.pk} --by USER")

    def approve(self, *, id: str, by: str, **options: Any) -> None:
        erasure = Erasure.objects.get(pk=id)
        if erasure.status != Erasure.Status.RUNNING:  # or else it was approved, and cut off
            people_data.decide(id, approve=True, by=_user(by), now=timezone.now())
        erasure = people_data.carry_out(id, now=timezone.now())
        for label, number in erasure.erased.items():
            self.stdout.write(f"{label}: {number}")
        self.stdout.write("Erased.")

    def reject(self, *, id: str, by: str, **options: Any) -> None:
        people_data.decide(id, approve=False, by=_user(by), now=timezone.now())
        self.stdout.write("Rejected.")

    def list(self, **options: Any) -> None:
        for one in Erasure.objects.order_by("pk"):
            decided = f"; decided by {one.decided_by}" if one.decided_by else ""
            self.stdout.write(f"{one.pk}  {one.asked_at:%Y-%m-%d %H:%M}  {one.status:<8}  by {one.asked_by}{decided}")


def _user(name: str) -> str:
    """
    Return the name of a user who may erase.

    :raises CommandError: if there is none
    """
    user = User.objects.filter(username=name, is_active=True, is_staff=True).first()
    if user is None or not user.has_perm(MAY_ERASE):
        raise CommandError(f"{name} is no user of the back office with the permission {MAY_ERASE}.")
    return name
