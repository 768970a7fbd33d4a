"""The paths of payments, each with and without a trailing slash."""

from django.urls import re_path

from . import api, webhooks
from .books import api as books

USER = r"(?P<user_id>[^/\x00-\x1f\x7f]{1,100})"

urlpatterns = [
    re_path(r"^accounts/?$", api.Accounts.as_view(), name="accounts"),
    re_path(rf"^accounts/{USER}/deposit/?$", api.Deposits.as_view(), name="account-deposit"),
    re_path(rf"^accounts/{USER}/balance/?$", api.Balance.as_view(), name="account-balance"),
    re_path(rf"^accounts/{USER}/entries/?$", api.Entries.as_view(), name="account-entries"),
    re_path(rf"^accounts/{USER}/statement/?$", books.Statement.as_view(), name="account-statement"),
    re_path(r"^webhooks/payments/?$", webhooks.Webhooks.as_view(), name="webhooks"),
    re_path(r"^webhooks/payments/(?P<gateway>[a-z]{1,20})/?$", webhooks.Webhooks.as_view(), name="gateway-webhooks"),
]
