"""The admin pages of the project: those that read several services, and those about people and clients."""

from django.contrib import admin
from django_otp.plugins.otp_totp.models import TOTPDevice
from oauth2_provider import models as oauth

from .models import Client

# Tokens are secrets, and so are the keys of authenticator apps: nobody may look at them. The page of clients is ours:
# the toolkit's shows the hash of the secret.
for _secret in (oauth.AccessToken, oauth.Grant, oauth.IDToken, oauth.RefreshToken, Client, TOTPDevice):
    if admin.site.is_registered(_secret):
        admin.site.unregister(_secret)

from .backoffice import bulk_runs, clients, erasures, orders, people, webhooks  # noqa: E402 - registers their pages

__all__ = ["bulk_runs", "clients", "erasures", "orders", "people", "webhooks"]
