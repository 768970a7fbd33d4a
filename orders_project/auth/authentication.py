"""Who may enter: callers by their tokens, what they may do, and where the doors stand open."""

import logging
from typing import TYPE_CHECKING

import jwt
from django.conf import settings
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from common.principal import PRODUCTS_WRITE, SCOPES, Principal, is_answered, principal_of

from . import keys

if TYPE_CHECKING:
    from rest_framework.views import APIView

logger = logging.getLogger(__name__)

NOBODY = Principal()
ANYBODY = Principal(scopes=frozenset(SCOPES) - {PRODUCTS_WRITE}, sees_all=True)
LONGEST_PRINCIPAL = 100
OF_STAFF = {
    "orders:read": "orders.view_order",
    "orders:write": "orders_project.cancel_order",
    "accounts:read": "payments.view_account",
    "accounts:write": "orders_project.deposit",
    PRODUCTS_WRITE: "orders_project.edit_product",
}
CHALLENGE = 'Bearer realm="orders"'


def prepare() -> None:
    """
    Called at the start of a process that lets callers in: says how it does, or ends the start.

    :raises SystemExit: if callers need tokens that nobody here could prove
    """
    if settings.API_AUTH == "open":
        logger.warning("The doors are open: anybody may call the API and sees everything (API_AUTH=open).")
    elif not settings.JWT_KEY_FILES:
        raise SystemExit("orders: JWT_KEY_FILES is missing: the keys that prove callers' tokens.")
    try:
        keys.current()
    except (OSError, keys.NoKey) as error:
        raise SystemExit(f"orders: JWT_KEY_FILES: {error}") from None


def unauthenticated() -> Principal:
    """The caller who shows nothing: anybody where doors are open, nobody else."""
    return ANYBODY if settings.API_AUTH == "open" else NOBODY


def identify(authorization: str | None) -> Principal:
    """
    The caller who shows this Authorization. A token is proven by the public key alone: no database is asked.

    :raises AuthenticationFailed: if it is not worth anything
    """
    if authorization is None:
        return unauthenticated()
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise AuthenticationFailed("Show a Bearer token.")
    try:
        claims = keys.prove(token.strip())
    except (jwt.InvalidTokenError, UnicodeError) as error:
        expired = isinstance(error, jwt.ExpiredSignatureError)
        raise AuthenticationFailed("The token has expired." if expired else "The token is not valid.") from None
    principal, scope = claims["sub"], claims["scope"]
    if not principal or not isinstance(scope, str):
        raise AuthenticationFailed("The token is not valid.")
    return Principal(name=principal, scopes=frozenset(scope.split()) & frozenset(SCOPES))


class Bearer(BaseAuthentication):
    """The authentication of every view."""

    def authenticate(self, request: Request) -> tuple[Principal, None] | None:
        authorization = request.headers.get("Authorization")
        return None if authorization is None else (identify(authorization), None)

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


class Staff(SessionAuthentication):
    """
    People of the back office on the pages of the API, by their session there and with the token of its forms.

    They may do by a page what the back office lets them do.
    """

    def authenticate(self, request: Request) -> tuple[Principal, None] | None:
        if not settings.BACK_OFFICE or settings.SESSION_COOKIE_NAME not in request.COOKIES:
            return None
        user = request._request.user
        if not (user.is_active and user.is_staff):
            return None
        self.enforce_csrf(request)
        granted = frozenset(scope for scope, permission in OF_STAFF.items() if user.has_perm(permission))
        caller = Principal(
            name=f"staff:{user.get_username()}"[:LONGEST_PRINCIPAL],
            scopes=granted | unauthenticated().scopes,
            sees_all=True,
            is_staff=True,
        )
        return caller, None


class MayEnter(BasePermission):
    """
    The permission of every view, by the view's `scope`, such as "orders": reading asks for `orders:read`, all else
    for `orders:write`. A view may say `public_methods = ("GET",)`. One that says nothing lets nobody in.
    """

    def has_permission(self, request: Request, view: "APIView") -> bool:
        if request.method in (*getattr(view, "public_methods", ()), "OPTIONS") or not is_answered(request, view):
            return True
        scope = getattr(view, "scope", None)
        if scope is None:
            return False
        return principal_of(request).may(f"{scope}:{'read' if request.method in SAFE_METHODS else 'write'}")
