"""Stock in the back office."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import (
    Action,
    ActionCall,
    Age,
    AmountField,
    ConfirmationForm,
    ReadOnlyAdmin,
    ReadOnlyInline,
    ReasonForm,
    panels,
    register_outbox_admin,
)
from common.admin import display as show
from common.fields import LARGEST_WHOLE

from . import services
from .models import DeadLetter, Hold, HoldLine, Incoming, Outgoing, Processing, Product, StockMovement

register_outbox_admin(Outgoing, Incoming, DeadLetter)


class NewProduct(ConfirmationForm):
    """What a product is made of."""

    name = forms.CharField(label=_("Name"), max_length=200)
    sku = forms.CharField(label=_("SKU"), max_length=64, required=False, help_text=_("Left out, one is made."))
    price = AmountField(label=_("Price"), least=0)
    stock = forms.IntegerField(label=_("First stock"), min_value=0, max_value=LARGEST_WHOLE, initial=0)


class EditProduct(ConfirmationForm):
    """What may be changed of a product; its stock is not among it."""

    name = forms.CharField(label=_("Name"), max_length=200)
    price = AmountField(label=_("Price"), least=0)
    is_active = forms.BooleanField(label=_("Sold at present"), required=False)

    def __init__(self, *args: Any, row: Any, **kwargs: Any) -> None:
        price = show.bare_amount(row.price, row.currency)
        super().__init__(
            *args, row=row, initial={"name": row.name, "price": price, "is_active": row.is_active}, **kwargs
        )


class Receipt(ReasonForm):
    """How much came in, and from where."""

    quantity = forms.IntegerField(label=_("Quantity"), min_value=1, max_value=LARGEST_WHOLE)
    field_order = ("quantity", "reason")


class Correction(ReasonForm):
    """By how much the count was wrong, and why."""

    quantity = forms.IntegerField(
        label=_("Difference"), min_value=-LARGEST_WHOLE, max_value=LARGEST_WHOLE,
        help_text=_("Negative if there is less than we thought."),
    )  # fmt: skip
    field_order = ("quantity", "reason")

    def clean_quantity(self) -> int:
        quantity = int(self.cleaned_data["quantity"])
        if not quantity:
            raise ValidationError(_("A difference of zero changes nothing."))
        return quantity


def _make(call: ActionCall) -> str:
    said = call.values
    product = services.make_product(
        name=said["name"], price=said["price"], stock=said["stock"], sku=said["sku"] or None, actor=call.actor,
        now=call.now,
    )  # fmt: skip
    return _g("%(product)s is in the catalogue.") % {"product": product}


def _edit(call: ActionCall) -> None:
    services.change_product(product_id=call.row.pk, actor=call.actor, now=call.now, **call.values)


def _receive(call: ActionCall) -> None:
    services.receive_stock(product_id=call.row.pk, actor=call.actor, now=call.now, **call.values)


def _correct(call: ActionCall) -> None:
    services.receive_stock(product_id=call.row.pk, actor=call.actor, now=call.now, correction=True, **call.values)


class LowStock(admin.SimpleListFilter):
    """Products of which there is little left."""

    title = _("stock")
    parameter_name = "stock"
    LOW = 10

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("out", _("sold out")), ("low", _("low (at most %(most)d)") % {"most": self.LOW})]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "out":
                return queryset.filter(available=0)
            case "low":
                return queryset.filter(available__lte=self.LOW)
        return queryset


@admin.register(Product)
class Products(ReadOnlyAdmin):
    """What is sold."""

    list_display = ("sku", "name", show.amount("price", _("price")), "available", "held", "sold", "is_active")
    list_filter = (LowStock, "is_active")
    search_by = ("sku", "product_id")
    order = ("-product_id",)
    empty = _("The catalogue is empty. Add the first product.")
    fields = (
        "product_id", "sku", "name", show.amount("price", _("price")), "is_active", "available", "held", "sold",
        "received", "created_at", "updated_at",
    )  # fmt: skip
    page_actions = (
        Action(
            name="add",
            label=_("Add a product"),
            explanation=_("Puts a product into the catalogue, where it can be ordered at once."),
            permission="orders_project.edit_product",
            form=NewProduct,
            perform=_make,
            of_list=True,
        ),
        Action(
            name="receive",
            label=_("Receive stock"),
            explanation=_("Takes stock in, by a movement that says from where."),
            permission="orders_project.move_stock",
            form=Receipt,
            perform=_receive,
        ),
        Action(
            name="correct",
            label=_("Correct the stock"),
            explanation=_("Sets a count right by a movement. What is held for orders stays held."),
            permission="orders_project.move_stock",
            form=Correction,
            perform=_correct,
        ),
        Action(
            name="edit",
            label=_("Edit"),
            explanation=_("Orders that were placed keep their price."),
            permission="orders_project.edit_product",
            form=EditProduct,
            perform=_edit,
        ),
    )

    def panels_for(self, request: HttpRequest, row: Any) -> list[panels.Panel]:
        return [
            panels.newest(
                HoldLine.objects.filter(product=row, hold__status=Hold.Status.HELD)
                .select_related("hold")
                .order_by("hold__expires_at"),
                (_("order"), lambda line: show.order_link(line.hold.order_id)),
                (_("quantity"), lambda line: line.quantity),
                (_("held since"), lambda line: show.ago(line.hold.created_at)),
                (_("expires"), lambda line: show.ago(line.hold.expires_at)),
                title=_("Held for orders now"),
                more=show.list_url("processing", "hold", "status__exact=held"),
                empty=_("Nothing of it is held."),
            ),
            panels.newest(
                StockMovement.objects.filter(product=row).select_related("hold").order_by("-id"),
                (_("at"), lambda movement: show.ago(movement.at)),
                (_("kind"), lambda movement: movement.get_kind_display()),
                (_("quantity"), lambda movement: movement.quantity),
                (_("order"), lambda movement: show.order_link(movement.hold.order_id if movement.hold else "")),
                (_("reason"), lambda movement: movement.reason or show.NOTHING),
                (_("by"), lambda movement: movement.actor or show.NOTHING),
                title=_("Movements"),
                more=show.list_url("processing", "stockmovement", f"q={row.pk}"),
                empty=_("Its stock has never moved. Receive some."),
            ),
        ]


class LinesOfHold(ReadOnlyInline):
    model = HoldLine
    fields = readonly_fields = ("product", "quantity")


@admin.register(Hold)
class Holds(ReadOnlyAdmin):
    """Stock set aside for orders."""

    list_display = ("hold_id", show.order(), show.status(), "created_at", "expires_at", "ended_at")
    list_filter = ("status", Age)
    search_by = ("hold_id", "order_id")
    order = ("-hold_id",)
    inlines = (LinesOfHold,)
    empty = _("No stock is or was held. An order of a product holds some.")
    fields = ("hold_id", show.order(), show.status(), "created_at", "expires_at", "ended_at")


@admin.register(StockMovement)
class StockMovements(ReadOnlyAdmin):
    """How stock came to be what it is."""

    list_display = ("id", "product", "kind", "quantity", "reason", "actor", "at")
    list_filter = (Age, "kind")
    list_select_related = ("product",)
    search_by = ("id", "product_id", "hold_id")
    order = ("-id",)
    empty = _("No stock has moved yet. Receive some at a product.")
    fields = ("id", "product", "kind", "quantity", "hold", "reason", "actor", "at")


@admin.register(Processing)
class Processings(ReadOnlyAdmin):
    """What the processor said of orders."""

    list_display = ("order_id", "verdict", "reason", "at")
    list_filter = ("verdict",)
    search_by = ("order_id",)
    order = ("-order_id",)
    empty = _("The processor has not been asked yet. It is when an order is paid.")
    fields = (show.order(), "verdict", "reason", "at")
