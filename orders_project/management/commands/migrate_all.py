"""manage.py migrate_all: migrate all databases of this process."""

from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Migrate every configured database, each with its own tables."

    def handle(self, *args: Any, **options: Any) -> None:
        for alias in settings.DATABASES_HERE:
            self.stdout.write(self.style.MIGRATE_HEADING(f"database {alias}"))
            call_command("migrate", database=alias, verbosity=options["verbosity"], interactive=False)
