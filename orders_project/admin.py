"""The admin pages of the project: those that read several services, and those about people."""

from django.contrib import admin
from oauth2_provider import models as oauth

from .backoffice import orders, payments, people, webhooks

# Tokens are secrets: nobody may look at them.
for _secret in (oauth.AccessToken, oauth.Grant, oauth.IDToken, oauth.RefreshToken):
    if admin.site.is_registered(_secret):
        admin.site.unregister(_secret)

__all__ = ["orders", "payments", "people", "webhooks"]
