"""Who makes a request: what every endpoint turns its caller into, and what every service lets it see."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from django.db.models import Model, QuerySet
from django.utils.translation import gettext_noop
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request

if TYPE_CHECKING:
    from rest_framework.views import APIView

M = TypeVar("M", bound=Model)

PRODUCTS_WRITE = "products:write"
SCOPES = {
    "orders:read": gettext_noop("Read your own orders"),
    "orders:write": gettext_noop("Place and cancel orders"),
    "payments:write": gettext_noop("Capture the money that is reserved for your orders"),
    "refunds:write": gettext_noop("Refund money of your orders"),
    "webhooks:read": gettext_noop("Read your own webhook endpoints and what was sent to them"),
    "webhooks:write": gettext_noop("Register, change, try and delete your own webhook endpoints"),
    "accounts:read": gettext_noop("Read your own accounts"),
    "accounts:write": gettext_noop("Open accounts and deposit money"),
    PRODUCTS_WRITE: gettext_noop("Create and change products"),
}


@dataclass(frozen=True)
class Principal:
    """
    An authenticated caller of the API. Services store its `name` with what it creates, and show it what it owns.

    A principal without a name is anonymous: it is admitted only where the API needs no authentication, and then it
    sees everything. Staff see everything too, as far as their permissions go.
    """

    name: str = ""
    scopes: frozenset[str] = field(default_factory=frozenset)
    sees_all: bool = False
    is_staff: bool = False

    is_active: ClassVar[bool] = True

    def __str__(self) -> str:
        return self.name or "anonymous"

    @property
    def is_authenticated(self) -> bool:
        return bool(self.name)

    def may(self, scope: str) -> bool:
        return scope in self.scopes

    def own(self, rows: QuerySet[M]) -> QuerySet[M]:
        """Those of these rows that the principal may see. Somebody else's are not forbidden: they don't exist."""
        return rows if self.sees_all else rows.filter(principal=self.name)

    def sees(self, row: Any) -> bool:
        """Whether the principal may see this row."""
        return self.sees_all or bool(row.principal == self.name)


def principal_of(request: Request) -> Principal:
    """The principal that makes this request."""
    return cast(Principal, request.user)


def scope_of(view: "APIView", method: str) -> str | None:
    """
    The scope that a view needs for a method; None if it admits nobody.

    A view names them by its `scopes`, or has a `scope`, such as "orders": reading needs `orders:read`, all else
    `orders:write`.
    """
    scopes, scope = getattr(view, "scopes", {}), getattr(view, "scope", None)
    if method in scopes:
        return str(scopes[method])
    return f"{scope}:{'read' if method in SAFE_METHODS else 'write'}" if scope else None


def is_answered(request: Request, view: "APIView") -> bool:
    """Whether the view implements the method of this request. If not, anybody may be told so."""
    return hasattr(view, str(request.method).lower())
