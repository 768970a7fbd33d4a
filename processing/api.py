"""The HTTP endpoints of stock: everybody can read the catalog, and clients with the admin secret can change it."""

from collections.abc import Iterable
from hmac import compare_digest
from typing import Any, ClassVar

import django_filters
from django.conf import settings
from django.db.models import QuerySet
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from drf_spectacular.utils import extend_schema, extend_schema_field, extend_schema_serializer
from rest_framework import serializers
from rest_framework.exceptions import APIException
from rest_framework.generics import GenericAPIView
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import ListSerializer
from rest_framework.views import APIView

from common import fields, money
from common.addresses import client_address
from common.conditional import etags_in, if_match
from common.field_rules import AtMostOne, NotEmpty
from common.html_forms import WithForm
from common.lockout import Attempt
from common.pagination import Filters, KeysetPagination
from common.parameters import StrictView
from common.principal import PRODUCTS_WRITE, is_answered, principal_of
from common.reads import reads_may_lag
from common.search import Texts, check_words, has_parts
from outbox import clock

from . import services
from .models import PRODUCT_PARTS, Product

MAX_STOCK = 1_000_000_000
IF_MATCH = if_match("The ETag of the product that the change is meant for; one that has changed since is left alone.")


@extend_schema_serializer(component_name="Product")
class ProductShown(serializers.ModelSerializer[Product]):
    """A product, as clients see it; its `stock` is what can be bought now."""

    price = serializers.SerializerMethodField()
    prices = serializers.SerializerMethodField()
    stock = serializers.IntegerField(source="available", read_only=True)

    class Meta:
        model = Product
        fields = (
            "product_id", "sku", "name", "price", "currency", "prices", "stock", "held", "is_active", "created_at",
            "updated_at",
        )  # fmt: skip
        read_only_fields = fields

    def get_price(self, product: Product) -> float:
        return money.number(product.price, currency=product.currency)

    def get_prices(self, product: Product) -> dict[str, float]:
        return {currency: money.number(price, currency=currency) for currency, price in product.prices.items()}


class NewProduct(fields.StrictSerializer):
    """A new product."""

    name = fields.Text(max_length=200)
    price = fields.Amount(help_text="In the default currency.")
    prices = fields.Amounts(required=False, help_text="In other currencies; nothing is converted.")
    stock = fields.Integer(max_value=MAX_STOCK)
    sku = fields.Text(max_length=64, required=False, help_text="Generated if it is left out.")
    is_active = fields.Boolean(default=True)


class ProductChange(fields.StrictSerializer):
    """
    Changes to a product.

    `price` is in the currency of the product; `prices` has others, null where it is not to be sold any more.
    `stock` is the new available stock, to which a movement corrects what is available; send it with `If-Match`, or it
    overrules what happened since it was read. `stock_change` is what came in or, if negative, is missing.
    """

    name = fields.Text(max_length=200, required=False)
    price = fields.Amount(required=False)
    prices = fields.Amounts(required=False, nullable=True)
    stock = fields.Integer(max_value=MAX_STOCK, required=False)
    stock_change = fields.Integer(min_value=-MAX_STOCK, max_value=MAX_STOCK, required=False)
    is_active = fields.Boolean(required=False)

    rules = (
        NotEmpty("Nothing to change: name, price, prices, stock, stock_change, is_active."),
        AtMostOne("stock", "stock_change", "Send stock or stock_change, not both."),
    )


class AdminSecretNeeded(APIException):
    """The request lacks the admin secret."""

    status_code = 401
    default_code = "admin_secret_needed"
    default_detail = "X-Admin-Secret is missing or wrong."
    auth_header = "X-Admin-Secret"


class MayWriteProducts(BasePermission):
    """Allow clients that may write products, and those that send one of the admin secrets."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        if principal_of(request).may(PRODUCTS_WRITE) or not is_answered(request, view):
            return True
        offered = request.headers.get("X-Admin-Secret")
        if offered is None:
            raise AdminSecretNeeded
        attempt = Attempt("admin secret", "products", client_address(request._request))
        attempt.refuse_if_locked()
        if not is_one_of(settings.ADMIN_SECRETS, offered):
            attempt.failed(known=True)
            raise AdminSecretNeeded
        return True


def actor(request: Request) -> str:
    """Return the name under which the change of a product is recorded."""
    return principal_of(request).name or f"admin secret, from {client_address(request._request)}"


def is_one_of(secrets: Iterable[str], offered: str) -> bool:
    """Return whether one of the secrets was offered, in a time that does not depend on what was offered."""
    matches = [compare_digest(offered.encode(), secret.encode()) for secret in secrets]
    return any(matches)


class ProductPages(KeysetPagination):
    """Products, the newest first unless the oldest are asked for first."""

    ordering = ("-product_id",)  # ids are in the order of time
    sorts: ClassVar = {"created_at": ("product_id",), "-created_at": ordering}


class ProductFilter(django_filters.FilterSet):
    """The query parameters of the catalog."""

    is_active = extend_schema_field({"type": "boolean"})(
        django_filters.TypedChoiceFilter(
            choices=(("true", "true"), ("false", "false")), coerce=lambda text: text == "true"
        )
    )
    sku = extend_schema_field({"type": "string", "maxLength": 64})(django_filters.CharFilter(max_length=64))
    name = extend_schema_field({"type": "string", "maxLength": 200})(
        django_filters.CharFilter(
            max_length=200,
            method="with_name",
            validators=[check_words],
            help_text="Each of these words is a part of the name, in any case. At most eight words.",
        )
    )

    class Meta:
        model = Product
        fields = ("is_active", "sku", "name")

    def with_name(self, products: QuerySet[Product], field: str, name: str) -> QuerySet[Product]:
        # What is in the name is in the texts of the index as well, which is only there where a server can have it.
        return products.filter(PRODUCT_PARTS.may_have(name), has_parts(Texts("name"), name))


class Products(StrictView, GenericAPIView[Product]):
    """The catalog, the newest product first."""

    scope = "products"
    public_methods = ("GET", "HEAD")
    serializer_class = ProductShown
    pagination_class = ProductPages
    filter_backends = (Filters,)
    filterset_class = ProductFilter
    queryset = Product.objects.prefetch_related("other_prices")

    @extend_schema(responses=ProductShown(many=True))
    @reads_may_lag("processing")
    def get(self, request: Request) -> Response:
        """The catalog, the newest product first."""
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        return self.get_paginated_response(ListSerializer(page, child=ProductShown()).data)


class OneProduct(StrictView, GenericAPIView[Product]):
    """One product."""

    scope = "products"
    public_methods = ("GET", "HEAD")
    serializer_class = ProductShown
    queryset = Product.objects.prefetch_related("other_prices")
    lookup_field = "product_id"

    @extend_schema(responses=ProductShown)
    def get(self, request: Request, **kwargs: Any) -> HttpResponseBase:
        """Return a product. Its ETag changes with everything of it, also with its stock."""
        answer = response(self.get_object())
        return get_conditional_response(request._request, etag=answer["ETag"], response=answer) or answer


class MakeProduct(WithForm):
    """Add a product to the catalog, with its first stock."""

    scope = "products"
    permission_classes = (MayWriteProducts,)
    serializer_class = NewProduct

    @extend_schema(request={"application/json": NewProduct}, responses={201: ProductShown})
    def post(self, request: Request) -> Response:
        asked = self.asked = self.get_serializer(data=request.data)
        asked.is_valid(raise_exception=True)
        product = services.make_product(**asked.validated_data, actor=actor(request), now=clock.now("processing"))
        return response(product, status=201)


class ChangeProduct(WithForm):
    """Change a product. A movement changes its stock."""

    scope = "products"
    permission_classes = (MayWriteProducts,)
    serializer_class = ProductChange
    queryset = Product.objects.all()
    lookup_field = "product_id"

    @extend_schema(parameters=[IF_MATCH], request={"application/json": ProductChange}, responses=ProductShown)
    def patch(self, request: Request, **kwargs: Any) -> Response:
        product = self.get_object()
        asked = self.get_serializer(data=request.data, context={"currency": product.currency})
        asked.is_valid(raise_exception=True)
        changed = services.change_product(
            product_id=product.product_id,
            **asked.validated_data,
            seen=etags_in(request),
            actor=actor(request),
            now=clock.now("processing"),
        )
        return response(changed)


def response(product: Product, status: int = 200) -> Response:
    """Return an answer with a product and its ETag."""
    return Response(ProductShown(product).data, status, headers={"ETag": f'"{product.etag}"'})
