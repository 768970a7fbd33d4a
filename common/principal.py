"""Who is asking: what every door makes of its caller, and what every service shows to it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

from django.db.models import Model, QuerySet
from rest_framework.request import Request

if TYPE_CHECKING:
    from rest_framework.views import APIView

M = TypeVar("M", bound=Model)

PRODUCTS_WRITE = "products:write"
SCOPES = {
    "orders:read": "See one's own orders",
    "orders:write": "Place and cancel orders",
    "accounts:read": "See one's own accounts",
    "accounts:write": "Open accounts and deposit money",
    PRODUCTS_WRITE: "Make and change products",
}


@dataclass(frozen=True)
class Caller:
    """
    A caller of the API. Services keep its `principal` on what it makes, and show it what it owns.

    Without a principal it is anonymous: it may enter only where doors are open, and then it sees everything. So do
    people of the back office, as far as they may look.
    """

    principal: str = ""
    scopes: frozenset[str] = field(default_factory=frozenset)
    sees_all: bool = False
    is_staff: bool = False

    is_active: ClassVar[bool] = True

    def __str__(self) -> str:
        return self.principal or "anonymous"

    @property
    def is_authenticated(self) -> bool:
        return bool(self.principal)

    def may(self, scope: str) -> bool:
        return scope in self.scopes

    def own(self, rows: QuerySet[M]) -> QuerySet[M]:
        """Of these rows those that the caller may see: another's are not forbidden, they don't exist."""
        return rows if self.sees_all else rows.filter(principal=self.principal)


def of(request: Request) -> Caller:
    """The caller of this request."""
    return cast(Caller, request.user)


def is_answered(request: Request, view: "APIView") -> bool:
    """Whether the view has this method at all; if not, everybody may hear so."""
    return hasattr(view, str(request.method).lower())
