"""Authentication and permissions: who makes a request, by token or session, and what it may do."""

import logging
from typing import TYPE_CHECKING

import jwt
from django.conf import settings
from django.utils.translation import gettext as _g
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from common.principal import PRODUCTS_WRITE, SCOPES, Principal, is_answered, principal_of, scope_of

from . import keys

if TYPE_CHECKING:
    from rest_framework.views import APIView

logger = logging.getLogger(__name__)

NOBODY = Principal()
ANYBODY = Principal(scopes=frozenset(SCOPES) - {PRODUCTS_WRITE}, sees_all=True)
MAX_NAME = 100
OF_STAFF = {
    "orders:read": "orders.view_order",
    "orders:write": "orders_project.cancel_order",
    "payments:write": "orders_project.capture_order",
    "refunds:write": "orders_project.refund_order",
    "webhooks:read": "orders.view_webhookendpoint",
    "webhooks:write": "orders_project.edit_endpoint",
    "accounts:read": "payments.view_account",
    "accounts:write": "orders_project.deposit",
    PRODUCTS_WRITE: "orders_project.edit_product",
}
CHALLENGE = 'Bearer realm="orders"'


def prepare() -> None:
    """
    Check the configuration at the start of a process that serves the API, and warn if the API is open.

    :raises SystemExit: if tokens are required and there is no key to verify them with
    """
    if settings.API_AUTH == "open":
        logger.warning("The API is open: anybody may call it and sees everything (API_AUTH=open).")
    elif not settings.JWT_KEY_FILES:
        raise SystemExit("orders: JWT_KEY_FILES is missing: the keys that verify tokens.")
    try:
        keys.current()
    except (OSError, keys.NoKey) as error:
        raise SystemExit(f"orders: JWT_KEY_FILES: {error}") from None


def unauthenticated() -> Principal:
    """The principal of a request without a token: it may do everything if the API is open, and else nothing."""
    return ANYBODY if settings.API_AUTH == "open" else NOBODY


def identify(authorization: str | None) -> Principal:
    """
    The principal of this Authorization header. A token is verified with a public key, without the database.

    :raises AuthenticationFailed: if it is not a valid token
    """
    if authorization is None:
        return unauthenticated()
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise AuthenticationFailed("A Bearer token is required.")
    try:
        claims = keys.verify(token.strip())
    except (jwt.InvalidTokenError, UnicodeError) as error:
        expired = isinstance(error, jwt.ExpiredSignatureError)
        raise AuthenticationFailed("The token has expired." if expired else "The token is not valid.") from None
    principal, scope = claims["sub"], claims["scope"]
    if not principal or not isinstance(scope, str):
        raise AuthenticationFailed("The token is not valid.")
    return Principal(name=principal, scopes=frozenset(scope.split()) & frozenset(SCOPES))


class Bearer(BaseAuthentication):
    """Authentication by token, for every view."""

    def authenticate(self, request: Request) -> tuple[Principal, None] | None:
        authorization = request.headers.get("Authorization")
        return None if authorization is None else (identify(authorization), None)

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


class Staff(SessionAuthentication):
    """
    Authentication of staff by their session in the back office, with its CSRF token, for the HTML pages of the API.

    They may do there what their permissions in the back office allow, once they have shown their second factor.
    """

    def authenticate(self, request: Request) -> tuple[Principal, None] | None:
        if not settings.BACK_OFFICE or settings.SESSION_COOKIE_NAME not in request.COOKIES:
            return None
        from . import second_factor  # needs the back office's models, which not every process has

        user = request._request.user
        if not (user.is_active and user.is_staff and second_factor.is_satisfied(user)):
            return None
        self.enforce_csrf(request)
        granted = frozenset(scope for scope, permission in OF_STAFF.items() if user.has_perm(permission))
        principal = Principal(
            name=f"staff:{user.get_username()}"[:MAX_NAME],
            scopes=granted | unauthenticated().scopes,
            sees_all=True,
            is_staff=True,
        )
        return principal, None


class ScopeMissing(PermissionDenied):
    """The principal is known and does not have the scope that this needs (RFC 6750)."""

    def __init__(self, scope: str) -> None:
        super().__init__(_g("This needs the scope %(scope)s.") % {"scope": scope})
        self.auth_header = f'{CHALLENGE}, error="insufficient_scope", scope="{scope}"'


class HasScope(BasePermission):
    """
    The permission of every view, by its scope: see `scope_of`. A view may have `public_methods`, such as `("GET",)`. A
    view without a scope admits nobody.
    """

    def has_permission(self, request: Request, view: "APIView") -> bool:
        if request.method in (*getattr(view, "public_methods", ()), "OPTIONS") or not is_answered(request, view):
            return True
        scope = scope_of(view, str(request.method))
        if scope is None or principal_of(request).may(scope):
            return scope is not None
        if request.successful_authenticator:  # without any, the answer is that a token is missing
            raise ScopeMissing(scope)
        return False
