"""manage.py translations: bring the translations in step with the code."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from orders_project import translations


class Command(BaseCommand):
    help = "Write the .po and .mo files anew. Fails if a text has no translation yet."

    def handle(self, *args: Any, **options: Any) -> None:
        for language, name in settings.LANGUAGES:
            if language == settings.LANGUAGE_CODE:
                continue
            missing = translations.bring_in_step(language)
            for msgid in missing:
                self.stderr.write(f"{language}: {msgid!r}")
            if missing:
                raise CommandError(f"{len(missing)} texts have no {name} translation.")
            self.stdout.write(f"{name} is complete")
