"""What the roof adds to the back office: the pages that look into every service, and what people did."""

from django.contrib import admin
from oauth2_provider import models as oauth

from .backoffice import orders, people, webhooks

# Tokens are secrets, and nobody's to look at.
for _secret in (oauth.AccessToken, oauth.Grant, oauth.IDToken, oauth.RefreshToken):
    if admin.site.is_registered(_secret):
        admin.site.unregister(_secret)

__all__ = ["orders", "people", "webhooks"]
