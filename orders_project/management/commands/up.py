"""manage.py up: the embedded run."""

import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from orders_project.embedded import CannotRun
from orders_project.embedded.up import up


class Command(BaseCommand):
    help = "Run everything on this machine, with private servers for whatever the environment does not name."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            up(os.environ)
        except CannotRun as refusal:
            raise CommandError(str(refusal)) from refusal
