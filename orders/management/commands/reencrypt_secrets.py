"""manage.py reencrypt_secrets: encrypt the signing secrets of webhooks with the newest key."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from common.encryption import NotReadable
from orders import webhook_secrets


class Command(BaseCommand):
    help = "Encrypt the signing secrets of webhooks with the newest ENCRYPTION_KEY, so that older keys can go."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            count = webhook_secrets.reencrypt(now=timezone.now())
        except NotReadable as error:
            raise CommandError(f"{error} Put the key that encrypted it back at the end of ENCRYPTION_KEY.") from None
        self.stdout.write(f"{count} secrets are encrypted with the newest key.")
