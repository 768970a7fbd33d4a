"""Admin pages of the processing service."""

from typing import Any, ClassVar

from django import forms
from django.conf import settings
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common import money
from common.admin import (
    Action,
    ActionCall,
    Age,
    AmountField,
    ConfirmationForm,
    ReadOnlyAdmin,
    ReadOnlyInline,
    ReasonForm,
    display,
    panels,
    register_outbox_admin,
)
from common.fields import MAX_INTEGER
from common.search import has_words

from . import services
from .gauges import LATE_AFTER
from .models import (
    PRODUCT_PARTS,
    PRODUCT_WORDS,
    DeadLetter,
    Hold,
    HoldLine,
    Incoming,
    Outgoing,
    Processing,
    Product,
    StockMovement,
)

register_outbox_admin(Outgoing, Incoming, DeadLetter)


OTHER_PRICE = "price_"


class ProductForm(ConfirmationForm):
    """Has a field for the price in each currency besides the one of the product."""

    own: str  # the currency of the product

    def __init__(self, *args: Any, row: Any, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        self.own = row.currency if row else settings.CURRENCY
        known = row.prices if row else {}
        for currency in dict.fromkeys((*known, *settings.CURRENCIES)):
            if currency != self.own:
                self.fields[f"{OTHER_PRICE}{currency}"] = AmountField(
                    label=_("Price in %(currency)s") % {"currency": currency},
                    min_value=0,
                    currency=currency,
                    required=False,
                    initial=money.bare_text(known[currency], currency=currency) if currency in known else "",
                )

    def clean(self) -> dict[str, Any]:
        """Put the prices in other currencies together: an empty one is none."""
        values = dict(super().clean() or {})
        others = [name for name in values if name.startswith(OTHER_PRICE)]
        return values | {"prices": {name.removeprefix(OTHER_PRICE): values.pop(name) for name in others}}


class NewProduct(ProductForm):
    """Asks for the fields of a new product."""

    name = forms.CharField(label=_("Name"), max_length=200)
    sku = forms.CharField(label=_("SKU"), max_length=64, required=False, help_text=_("Leave empty to generate one."))
    price = AmountField(label=_("Price"), min_value=0)
    stock = forms.IntegerField(label=_("Initial stock"), min_value=0, max_value=MAX_INTEGER, initial=0)


class EditProduct(ProductForm):
    """Asks for the fields of a product that may be changed; stock is not one of them."""

    name = forms.CharField(label=_("Name"), max_length=200)
    price = AmountField(label=_("Price"), min_value=0)
    is_active = forms.BooleanField(label=_("For sale"), required=False)
    seen = forms.CharField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, row: Any, **kwargs: Any) -> None:
        initial = {
            "name": row.name,
            "price": money.bare_text(row.price, currency=row.currency),
            "is_active": row.is_active,
            "seen": row.catalog_etag,
        }
        super().__init__(*args, row=row, initial=initial, **kwargs)


class Receipt(ReasonForm):
    """Asks for the quantity that was received, and where it came from."""

    quantity = forms.IntegerField(label=_("Quantity"), min_value=1, max_value=MAX_INTEGER)
    field_order = ("quantity", "reason")


class Correction(ReasonForm):
    """Asks for the difference, and the reason."""

    quantity = forms.IntegerField(
        label=_("Difference"), min_value=-MAX_INTEGER, max_value=MAX_INTEGER,
        help_text=_("Negative if there is less stock than recorded."),
    )  # fmt: skip
    field_order = ("quantity", "reason")

    def clean_quantity(self) -> int:
        quantity = int(self.cleaned_data["quantity"])
        if not quantity:
            raise ValidationError(_("A difference of zero changes nothing."))
        return quantity


def _create(call: ActionCall) -> str:
    values = call.values
    product = services.make_product(
        name=values["name"], price=values["price"], stock=values["stock"], sku=values["sku"] or None,
        prices=values["prices"], actor=call.actor, now=call.now,
    )  # fmt: skip
    return _g("%(product)s has been added to the catalog.") % {"product": product}


def _edit(call: ActionCall) -> None:
    values = {**call.values, "seen": [call.values["seen"]]}
    services.change_product(product_id=call.row.pk, actor=call.actor, now=call.now, **values)


def _receive(call: ActionCall) -> None:
    services.receive_stock(product_id=call.row.pk, actor=call.actor, now=call.now, **call.values)


def _correct(call: ActionCall) -> None:
    services.receive_stock(product_id=call.row.pk, actor=call.actor, now=call.now, correction=True, **call.values)


class LowStock(admin.SimpleListFilter):
    """Products that are sold out, or nearly so."""

    title = _("stock")
    parameter_name = "stock"
    LOW = 10

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("out", _("sold out")), ("low", _("low (at most %(limit)d)") % {"limit": self.LOW})]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "out":
                return queryset.filter(available=0)
            case "low":
                return queryset.filter(available__lte=self.LOW)
        return queryset


@admin.display(description=_("prices in other currencies"))
def other_prices(product: Product) -> str:
    _own, *others = product.prices.items()
    return ", ".join(display.money_text(price, currency) for currency, price in others) or display.NOTHING


FOR_SALE = display.flag("is_active", _("For sale"))
STOCK = tuple(
    display.number(name, label)
    for name, label in (
        ("available", _("available")), ("held", _("held")), ("sold", _("sold")), ("received", _("received")),
    )
)  # fmt: skip


@admin.register(Product)
class Products(ReadOnlyAdmin):
    """The products of the catalog."""

    list_display = ("sku", "name", display.amount("price", _("price")), *STOCK[:3], FOR_SALE)
    list_filter = (LowStock, "is_active")
    search_by = ("sku", "product_id")
    search_parts = PRODUCT_PARTS
    part_fields = ("sku", "name")
    order = ("-product_id",)
    sorts: ClassVar = {"sku": ("sku",)}
    empty = _("No products yet. Add the first one.")
    fields = (
        "product_id", "sku", "name", display.amount("price", _("price")), other_prices, FOR_SALE, *STOCK,
        "created_at", "updated_at",
    )  # fmt: skip
    page_actions = (
        Action(
            name="add",
            label=_("Add a product"),
            explanation=_("Adds a product to the catalog. It can be ordered immediately."),
            permission="edit_product",
            form=NewProduct,
            perform=_create,
            of_list=True,
        ),
        Action(
            name="receive",
            label=_("Receive stock"),
            explanation=_("Adds stock with a movement that records where it came from."),
            permission="move_stock",
            form=Receipt,
            perform=_receive,
        ),
        Action(
            name="correct",
            label=_("Correct the stock"),
            explanation=_("Corrects the stock with a movement. Stock that is held for orders stays held."),
            permission="move_stock",
            form=Correction,
            perform=_correct,
        ),
        Action(
            name="edit",
            label=_("Edit the product"),
            explanation=_("Existing orders keep their price."),
            permission="edit_product",
            form=EditProduct,
            perform=_edit,
        ),
    )

    @property
    def search_help_text(self) -> Any:  # type: ignore[override]
        if PRODUCT_PARTS.is_there("processing"):
            return _("Enter a part of the name or of the SKU. Fewer than three characters have to begin a word.")
        return _("Enter the beginning of a word of the name, or of the SKU.")

    def beginnings_found(self, rows: QuerySet[Any], term: str) -> list[QuerySet[Any]]:
        found = has_words(PRODUCT_WORDS, term)
        return [] if found is None else [rows.filter(found)]

    def panels_for(self, request: HttpRequest, row: Any) -> list[panels.Panel]:
        return [
            panels.newest(
                HoldLine.objects.filter(product=row, hold__status=Hold.Status.HELD)
                .select_related("hold")
                .order_by("hold__expires_at"),
                (_("order"), lambda line: display.order_link(line.hold.order_id)),
                (_("quantity"), lambda line: display.number_text(line.quantity)),
                (_("held since"), lambda line: display.moment(line.hold.created_at)),
                (_("expires"), lambda line: display.moment(line.hold.expires_at)),
                title=_("Currently held for orders"),
                more=display.list_url("processing", "hold", "status__exact=held"),
                empty=_("No stock is held."),
            ),
            panels.newest(
                StockMovement.objects.filter(product=row).select_related("hold").order_by("-id"),
                (_("at"), lambda movement: display.moment(movement.at)),
                (_("kind"), lambda movement: movement.get_kind_display()),
                (_("quantity"), lambda movement: display.number_text(movement.quantity)),
                (_("order"), lambda movement: display.order_link(movement.hold.order_id if movement.hold else "")),
                (_("reason"), lambda movement: movement.reason or display.NOTHING),
                (_("by"), lambda movement: movement.actor or display.NOTHING),
                title=_("Movements"),
                more=display.list_url("processing", "stockmovement", f"q={row.pk}"),
                empty=_("No movements yet. Receive stock to create the first one."),
            ),
        ]


class LinesOfHold(ReadOnlyInline):
    model = HoldLine
    fields = readonly_fields = ("product", "quantity")


class Late(admin.SimpleListFilter):
    """Holds that have expired and are still there."""

    title = _("expired")
    parameter_name = "expired"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("late", _("and not released"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        late = timezone.now() - LATE_AFTER
        asked = Q(asked_at=None) | Q(asked_at__lt=late)
        return queryset.filter(asked, status=Hold.Status.HELD, expires_at__lt=late)


@admin.register(Hold)
class Holds(ReadOnlyAdmin):
    """Stock that is held for orders."""

    list_display = ("hold_id", display.order(), display.status(), "created_at", "expires_at", "ended_at")
    list_filter = ("status", Late, Age)
    search_by = ("hold_id", "order_id")
    order = ("-hold_id",)
    sorts: ClassVar = {"created_at": ("hold_id",)}
    inlines = (LinesOfHold,)
    empty = _("No holds yet. An order with a product holds stock.")
    fields = ("hold_id", display.order(), display.explained_status(), "created_at", "expires_at", "ended_at")


@admin.register(StockMovement)
class StockMovements(ReadOnlyAdmin):
    """All changes of stock."""

    list_display = ("id", "product", "kind", display.number("quantity", _("quantity")), "reason", "actor", "at")
    list_filter = (Age, "kind")
    list_select_related = ("product",)
    search_by = ("id", "product_id", "hold_id")
    order = ("-id",)
    sorts: ClassVar = {"at": ("id",)}
    empty = _("No movements yet. Receive stock on the page of a product.")
    fields = ("id", "product", "kind", display.number("quantity", _("quantity")), "hold", "reason", "actor", "at")


@admin.register(Processing)
class Processings(ReadOnlyAdmin):
    """The decisions of the processor."""

    list_display = ("order_id", "verdict", display.reason("reason", _("reason")), "at")
    list_filter = ("verdict",)
    search_by = ("order_id",)
    order = ("-order_id",)
    empty = _("No decisions yet. Once an order is paid, the processor decides.")
    fields = (
        display.order(), display.explained_status("verdict", _("verdict")),
        display.reason("reason", _("reason"), explained=True), "at",
    )  # fmt: skip
