"""The HTTP door of accounts."""

from typing import Any

from django.core.validators import RegexValidator
from django.db.models import Case, F, Q, QuerySet, When
from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import ListSerializer

from common import fields, money
from common import principal as caller
from common.html_forms import WithForm
from common.idempotency import PARAMETER, answer_once
from common.pagination import Pages
from outbox.conflicts import retry_on_conflict

from . import services
from .models import Account, Entry, IdempotencyKey

USER_ID = r"^(?!\s*\.{0,2}\s*$)[^/\x00-\x1f\x7f-\x9f]+$"  # a part of the account's path
USER = OpenApiParameter(
    "user_id",
    {"type": "string", "pattern": USER_ID, "maxLength": 100},
    required=True,
    description="Whose account.",
)


class NewAccount(fields.Strict):
    """Whose account is to be opened."""

    user_id = fields.Text(
        max_length=100,
        validators=[RegexValidator(USER_ID, "A user id has no slash, and is not a dot or two.")],
    )


class Deposit(fields.Strict):
    """How much to put on an account."""

    amount = fields.Amount(least=1)


class AccountShown(serializers.ModelSerializer[Account]):
    """An account as its owner sees it."""

    balance = serializers.SerializerMethodField()

    class Meta:
        model = Account
        fields = ("user_id", "balance", "currency", "created_at")
        read_only_fields = fields

    def get_balance(self, account: Account) -> float:
        return money.number(account.balance, currency=account.currency)


class EntryShown(serializers.ModelSerializer[Entry]):
    """An entry as seen from the account: what came in is positive, what went out negative."""

    entry_id = serializers.UUIDField(source="id", read_only=True)
    amount = serializers.SerializerMethodField()

    class Meta:
        model = Entry
        fields = ("entry_id", "kind", "amount", "currency", "order_id", "reason", "at")
        read_only_fields = fields

    def get_amount(self, entry: Any) -> float:
        return money.number(entry.signed, currency=entry.currency)


class NewestFirst(Pages):
    """Accounts or entries, the newest first: their ids are made here, in the order of time."""

    ordering = ("-id",)


class Accounts(WithForm):
    """One's own accounts."""

    scope = "accounts"
    serializer_class = NewAccount
    pagination_class = NewestFirst
    queryset = Account.objects.none()

    @extend_schema(operation_id="list_accounts", responses=AccountShown(many=True))
    def get(self, request: Request) -> Response:
        """Accounts, the newest first, by page."""
        customers = Account.objects.filter(kind=Account.Kind.CUSTOMER)
        page = self.paginate_queryset(caller.of(request).own(customers))
        return self.get_paginated_response(ListSerializer(page, child=AccountShown()).data)

    @extend_schema(
        operation_id="open_account",
        parameters=[USER],
        request=None,
        responses={200: AccountShown, 201: AccountShown},
    )
    def post(self, request: Request) -> Response:
        """Open the account of a user; opened already, it is the answer."""
        asked = self.asked = self.get_serializer(data=self._said(request))
        asked.is_valid(raise_exception=True)
        here = caller.of(request)
        account, made = services.open_account(user_id=asked.validated_data["user_id"], principal=here.principal)
        if not made and not here.own(Account.objects.filter(pk=account.pk)).exists():
            raise services.AccountTaken("The account of this user belongs to somebody else.")
        where = {"Location": reverse("account-balance", args=[account.user_id])}
        return Response(AccountShown(account).data, status=201 if made else 200, headers=where)

    @staticmethod
    def _said(request: Request) -> Any:
        """The query says whose account it is; a form of the page says so in its body."""
        query = request.query_params.getlist("user_id")
        if len(query) > 1:
            raise ValidationError({"user_id": ["Name one user."]})
        return {"user_id": query[0]} if query else request.data


class OneAccount(WithForm):
    """What the doors of one account share."""

    scope = "accounts"

    def account(self) -> Account:
        """
        The account of the path, if its caller may see it.

        :raises services.NoAccount: if there is none, or it is somebody else's
        """
        user_id = self.kwargs["user_id"]
        customers = Account.objects.filter(kind=Account.Kind.CUSTOMER, user_id=user_id)
        account = caller.of(self.request).own(customers).first()
        if account is None:
            raise services.NoAccount(f"{user_id} has no account.")
        return account


class Deposits(OneAccount):
    """Money comes onto an account here."""

    serializer_class = Deposit

    @extend_schema(
        operation_id="deposit", parameters=[PARAMETER], request={"application/json": Deposit}, responses=AccountShown
    )
    @retry_on_conflict
    def post(self, request: Request, user_id: str) -> HttpResponse:
        """Put money on an account."""
        return answer_once(
            self,
            request,
            self._deposit,
            answers=IdempotencyKey,
            principal=caller.of(request).principal,
        )

    def _deposit(self) -> Response:
        account = self.account()
        asked = self.asked = self.get_serializer(data=self.request.data)
        asked.is_valid(raise_exception=True)
        services.deposit(
            user_id=account.user_id,
            amount=asked.validated_data["amount"],
            now=timezone.now(),
            actor=caller.of(self.request).principal,
        )
        account.refresh_from_db()
        return Response(AccountShown(account).data)


class Balance(OneAccount):
    """How an account stands."""

    serializer_class = AccountShown

    @extend_schema(operation_id="get_balance")
    def get(self, request: Request, user_id: str) -> Response:
        """An account with its balance."""
        return Response(AccountShown(self.account()).data)

    def get_extra_action_url_map(self) -> dict[str, str]:
        """Where the page of an account leads on to."""
        user_id = self.kwargs["user_id"]
        return {
            "Deposit": reverse("account-deposit", args=[user_id]),
            "Entries": reverse("account-entries", args=[user_id]),
        }


class Entries(OneAccount):
    """What has moved on an account."""

    serializer_class = EntryShown
    pagination_class = NewestFirst
    queryset = Entry.objects.none()

    @extend_schema(operation_id="list_entries", responses=EntryShown(many=True))
    def get(self, request: Request, user_id: str) -> Response:
        """The entries of an account, the newest first, by page."""
        page = self.paginate_queryset(entries_of(self.account()))
        return self.get_paginated_response(ListSerializer(page, child=EntryShown()).data)


def entries_of(account: Account) -> QuerySet[Entry]:
    """The entries that touch this account, each with its `signed` amount as seen from there."""
    return Entry.objects.filter(Q(source=account) | Q(target=account)).annotate(
        signed=Case(When(target=account, then=F("amount")), default=-F("amount"))
    )
