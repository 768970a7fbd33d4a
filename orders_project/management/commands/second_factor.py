"""manage.py second_factor: remove the second factor of somebody who has lost it."""

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser

from orders_project.auth import second_factor


class Command(BaseCommand):
    help = "Remove the second factor of a user who has lost it. Make sure that it is this user who asks."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="remove")
        verbs.add_parser("remove", help="the next login needs the password alone").add_argument("username")

    def handle(self, *args: Any, username: str, **options: Any) -> None:
        user = User.objects.filter(username=username).first()
        if user is None:
            raise CommandError(f"There is no user {username}.")
        count = second_factor.remove(user)
        self.stdout.write(f"{username} has no second factor any more." if count else f"{username} had none.")
