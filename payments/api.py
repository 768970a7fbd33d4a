"""The HTTP endpoints of accounts."""

from typing import Any, ClassVar

from django.core.validators import RegexValidator
from django.db.models import Case, F, Q, QuerySet, When
from django.http import HttpResponse
from django.urls import reverse
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request, is_form_media_type
from rest_framework.response import Response
from rest_framework.serializers import ListSerializer

from common import fields, money
from common.authority import Authority
from common.errors import Refusal
from common.html_forms import WithForm
from common.idempotency import PARAMETER, answer_once
from common.pagination import KeysetPagination
from common.principal import principal_of
from common.reads import reads_may_lag
from outbox import clock
from outbox.conflicts import retry_on_conflict

from . import services
from .models import Account, Entry, IdempotencyKey

USER_ID = r"^(?!\s*\.{0,2}\s*$)[^/\x00-\x1f\x7f-\x9f]+$"  # a part of the account's path
MAX_NAMESAKES = 100  # accounts of one user id that are looked at
USER = OpenApiParameter(
    "user_id",
    {"type": "string", "pattern": USER_ID, "maxLength": 100},
    required=True,
    description="The user whose account it is.",
)


CURRENCY = OpenApiParameter(
    "currency",
    {"type": "string", "pattern": "^([A-Z]{3})?$", "maxLength": 3},
    description="The currency of the account. Default: the first currency of the system, or that of the only account.",
)


class NewAccount(fields.StrictSerializer):
    """The user whose account is to be opened, and its currency."""

    user_id = fields.Text(
        max_length=100,
        validators=[
            RegexValidator(USER_ID, "A user id has no slash or control character, and is not one or two dots.")
        ],
    )
    currency = fields.Currency(max_length=3, required=False, allow_blank=True)


class Deposit(fields.StrictSerializer):
    """The amount to put on an account."""

    amount = fields.Amount(min_value=1)
    reason = fields.Text(
        required=False, allow_blank=True, max_length=200, help_text="Shown with the entry. Staff must give one."
    )


@extend_schema_serializer(component_name="Account")
class AccountShown(serializers.ModelSerializer[Account]):
    """An account, as its owner sees it."""

    balance = serializers.SerializerMethodField()

    class Meta:
        model = Account
        fields = ("user_id", "balance", "currency", "created_at")
        read_only_fields = fields

    def get_balance(self, account: Account) -> float:
        return money.number(account.balance, currency=account.currency)


@extend_schema_serializer(component_name="Entry")
class EntryShown(serializers.ModelSerializer[Entry]):
    """An entry, as seen from the account: an amount that came in is positive, one that went out is negative."""

    entry_id = serializers.UUIDField(source="id", read_only=True)
    amount = serializers.SerializerMethodField()

    class Meta:
        model = Entry
        fields = ("entry_id", "kind", "amount", "currency", "order_id", "reason", "at")
        read_only_fields = fields

    def get_amount(self, entry: Any) -> float:
        return money.number(entry.signed, currency=entry.currency)


class NewestFirst(KeysetPagination):
    """Accounts or entries, the newest first: their ids are in the order of time."""

    ordering = ("-id",)


class EntriesByTime(NewestFirst):
    """Entries, the newest first unless the oldest are asked for first."""

    sorts: ClassVar = {"at": ("id",), "-at": NewestFirst.ordering}


class Accounts(WithForm):
    """The accounts of the client."""

    scope = "accounts"
    serializer_class = NewAccount
    pagination_class = NewestFirst
    queryset = Account.objects.none()

    @extend_schema(operation_id="list_accounts", responses=AccountShown(many=True))
    @reads_may_lag("payments")
    def get(self, request: Request) -> Response:
        """List accounts, the newest first, in pages."""
        customers = Account.objects.filter(kind=Account.Kind.CUSTOMER)
        page = self.paginate_queryset(principal_of(request).own(customers))
        return self.get_paginated_response(ListSerializer(page, child=AccountShown()).data)

    @extend_schema(
        operation_id="open_account",
        parameters=[USER, CURRENCY],
        request=None,
        responses={200: AccountShown, 201: AccountShown},
    )
    def post(self, request: Request) -> Response:
        """Open the account of a user in a currency, or return it if it is open already."""
        asked = self.asked = self.get_serializer(data=self._input(request))
        asked.is_valid(raise_exception=True)
        user_id, principal = asked.validated_data["user_id"], principal_of(request).name
        currency = asked.validated_data.get("currency") or None
        account, created = services.open_account(user_id=user_id, principal=principal, currency=currency)
        location = reverse("account-balance", args=[account.user_id])
        headers = {"Location": f"{location}?currency={currency}" if currency else location}
        return Response(AccountShown(account).data, status=201 if created else 200, headers=headers)

    @staticmethod
    def _input(request: Request) -> Any:
        """
        Return the user id and the currency of the query, or else the body, where the form of the page has them.

        :raises ValidationError: if there is a body beside them
        """
        query = {name: value for name, value in request.query_params.items() if name in (USER.name, CURRENCY.name)}
        if not query:
            return request.data
        # An empty form has bytes too: programs send one as their way of sending nothing.
        if request._request.POST if is_form_media_type(request.content_type) else request.data:
            raise ValidationError({"body": ["Give these as parameters or in the body, not both."]})
        return query


class AmbiguousUser(Refusal):
    """Who sees the accounts of all clients has asked for a user whom several of them have."""

    code = "ambiguous_user"


class OneAccount(WithForm):
    """The base of the endpoints of one account."""

    scope = "accounts"

    def account(self) -> Account:
        """
        Return the account of the path.

        :raises services.NoAccount: if there is none that the client may see
        :raises services.CurrencyMismatch: if there are several, and none says which is meant
        :raises AmbiguousUser: if it sees those of several clients, and has none of its own
        """
        user_id, principal = self.kwargs["user_id"], principal_of(self.request)
        customers = Account.objects.filter(kind=Account.Kind.CUSTOMER, user_id=user_id)
        found = list(principal.own(customers)[:MAX_NAMESAKES])
        own = [account for account in found if account.principal == principal.name] or found
        if len({account.principal for account in own}) > 1:
            raise AmbiguousUser(f"Several clients have a user {user_id}. Use the back office.")
        if currency := self.request.query_params.get("currency"):
            own = [account for account in own if account.currency == currency]
        return services.pick(own, user_id=user_id)


class Deposits(OneAccount):
    """Deposits on an account."""

    serializer_class = Deposit

    @extend_schema(
        operation_id="deposit",
        parameters=[CURRENCY, PARAMETER],
        request={"application/json": Deposit},
        responses=AccountShown,
    )
    @retry_on_conflict
    def post(self, request: Request, user_id: str) -> HttpResponse:
        """Put money on an account."""
        return answer_once(
            self,
            request,
            self._deposit,
            answers=IdempotencyKey,
            principal=principal_of(request).name,
        )

    def _deposit(self) -> Response:
        account = self.account()
        context = {**self.get_serializer_context(), "currency": account.currency}
        asked = self.asked = Deposit(data=self.request.data, context=context)
        asked.is_valid(raise_exception=True)
        services.deposit(
            user_id=account.user_id,
            principal=account.principal,
            currency=account.currency,
            amount=asked.validated_data["amount"],
            reason=asked.validated_data.get("reason", ""),
            now=clock.now("payments"),
            by=Authority.of(principal_of(self.request)),
        )
        account.refresh_from_db()
        return Response(AccountShown(account).data)


class Balance(OneAccount):
    """The balance of an account."""

    serializer_class = AccountShown

    @extend_schema(operation_id="get_balance", parameters=[CURRENCY])
    def get(self, request: Request, user_id: str) -> Response:
        """Return an account with its balance."""
        return Response(AccountShown(self.account()).data)

    def get_extra_action_url_map(self) -> dict[str, str]:
        """Return the links of the page of an account."""
        user_id = self.kwargs["user_id"]
        return {
            "Deposit": reverse("account-deposit", args=[user_id]),
            "Entries": reverse("account-entries", args=[user_id]),
            "Statement": reverse("account-statement", args=[user_id]),
        }


class Entries(OneAccount):
    """The entries of an account."""

    serializer_class = EntryShown
    pagination_class = EntriesByTime
    queryset = Entry.objects.none()

    @extend_schema(operation_id="list_entries", parameters=[CURRENCY], responses=EntryShown(many=True))
    @reads_may_lag("payments")
    def get(self, request: Request, user_id: str) -> Response:
        """List the entries of an account, the newest first, in pages."""
        page = self.paginate_queryset(entries_of(self.account()))
        return self.get_paginated_response(ListSerializer(page, child=EntryShown()).data)


def entries_of(account: Account) -> QuerySet[Entry]:
    """Return the entries of this account, each with its amount as seen from there (`signed`)."""
    return Entry.objects.filter(Q(source=account) | Q(target=account)).annotate(
        signed=Case(When(target=account, then=F("amount")), default=-F("amount"))
    )
