"""The token endpoint: a client sends its secret and gets a token (OAuth 2.0 client credentials, RFC 9068 JWTs)."""

import base64
import binascii
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from django.conf import settings
from django.contrib.auth.hashers import check_password, make_password
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters
from oauth2_provider.oauth2_validators import OAuth2Validator
from oauth2_provider.scopes import BaseScopes
from oauth2_provider.views.mixins import OAuthLibMixin

from common.addresses import client_address
from common.lockout import Attempt, LockedOut
from common.principal import SCOPES
from orders_project.models import Client

from . import keys


class ClientScopes(BaseScopes):
    """A client may request its own scopes, and gets all of them if it requests none."""

    def get_all_scopes(self) -> dict[str, str]:
        return SCOPES

    def get_available_scopes(self, application: Any = None, request: Any = None, *args: Any, **kwargs: Any) -> Any:
        return application.scopes.split() if application else list(SCOPES)

    get_default_scopes = get_available_scopes


class Unclear(ValueError):
    """The request does not authenticate in exactly one way."""


@dataclass(frozen=True)
class Credentials:
    """What a request shows: the one place that reads it, for the lockout and for the comparison alike."""

    client_id: str
    secret: str

    @classmethod
    def of(cls, authorization: str | None, body: Mapping[str, str]) -> "Credentials":
        """
        The credentials in the header (HTTP Basic, each part encoded as in a form) or else in the body.

        :raises Unclear: if there are two, or the header is not readable
        """
        if authorization is None:
            return cls(body.get("client_id", ""), body.get("client_secret", ""))
        scheme, _, encoded = authorization.strip().partition(" ")
        if scheme.lower() != "basic":
            raise Unclear("Authenticate with HTTP Basic or in the body.")
        try:
            decoded = base64.b64decode(encoded.strip(), validate=True).decode()
        except (binascii.Error, ValueError):
            raise Unclear("The Authorization header cannot be read.") from None
        client_id, colon, secret = decoded.partition(":")
        found = cls(unquote_plus(client_id), unquote_plus(secret))
        if not colon or "\0" in decoded or "\0" in found.client_id + found.secret:
            raise Unclear("The Authorization header cannot be read.")
        if "client_secret" in body or body.get("client_id", found.client_id) != found.client_id:
            raise Unclear("Authenticate in the Authorization header or in the body, not in both.")
        return found

    def client(self) -> Client | None:
        """
        The client that these are the credentials of, if there is one.

        Whether it exists or not, one secret is hashed, so that the time does not tell which ids exist.
        """
        client = Client.objects.filter(client_id=self.client_id).first()
        if client is None:
            make_password(self.secret)
            return None
        return client if check_password(self.secret, client.client_secret) else None


class Validator(OAuth2Validator):
    """
    Authenticates clients by `Credentials` only.

    Stores no tokens: they are verified by signature, expire in minutes and are never looked up.
    """

    def authenticate_client(self, request: Any, *args: Any, **kwargs: Any) -> bool:
        authorization = request.headers.get("HTTP_AUTHORIZATION")
        request.client = Credentials.of(authorization, dict(request.decoded_body)).client()
        return request.client is not None

    def save_bearer_token(self, token: dict[str, Any], request: Any, *args: Any, **kwargs: Any) -> None:
        pass


def signed_token(request: Any, refresh_token: bool = False) -> str:
    """The toolkit's ACCESS_TOKEN_GENERATOR."""
    now = int(time.time())
    client_id = request.client.client_id
    return keys.sign(
        {
            "sub": client_id,
            "client_id": client_id,
            "scope": " ".join(request.scopes),
            "iat": now,
            "exp": now + int(request.expires_in),
            "jti": secrets.token_hex(16),
        }
    )


@method_decorator([csrf_exempt, sensitive_post_parameters("client_secret")], name="dispatch")
class Token(OAuthLibMixin, View):
    """
    The token endpoint. Its errors have the form of RFC 6749, which OAuth clients understand.

    A client that sends a wrong secret too often is locked out for a while at that address.
    """

    http_method_names = ("post", "options")

    def post(self, request: HttpRequest) -> HttpResponse:
        if any("\0" in value for values in request.POST.lists() for value in (values[0], *values[1])):
            return _refusal(400, "invalid_request", "A parameter contains a null character.")
        if any(len(values) > 1 for _name, values in request.POST.lists()):
            return _refusal(400, "invalid_request", "A parameter is given twice.")
        if request.POST.get("grant_type", "client_credentials") != "client_credentials":
            return _refusal(400, "unsupported_grant_type", "Only client_credentials is supported.")
        try:
            shown = Credentials.of(request.headers.get("Authorization"), request.POST.dict())
        except Unclear as unclear:
            return _refusal(400, "invalid_request", str(unclear))
        attempt = Attempt("client secret", shown.client_id, client_address(request))
        try:
            attempt.admit()
        except LockedOut as refused:
            answer = _refusal(429, "invalid_client", "Too many attempts. Try again later.")
            answer["Retry-After"] = str(refused.retry_after)
            return answer
        _, headers, body, status = self.create_token_response(request)
        if status == 401:
            attempt.failed(known=Client.objects.filter(client_id=shown.client_id).exists())
        elif status == 200:
            attempt.succeeded()
        return HttpResponse(body, status=status, headers={"Content-Type": "application/json"} | headers)


def _refusal(status: int, error: str, description: str) -> HttpResponse:
    return JsonResponse({"error": error, "error_description": description}, status=status)


def jwks(request: HttpRequest) -> HttpResponse:
    """The public keys, with which anybody can verify a token."""
    answer = JsonResponse({"keys": [key.jwk() for key in keys.current()]})
    answer["Cache-Control"] = "public, max-age=300"
    return answer


def metadata(request: HttpRequest) -> HttpResponse:
    """What a client needs to know to get a token (RFC 8414)."""
    return JsonResponse(
        {
            "issuer": settings.PUBLIC_URL,
            "token_endpoint": settings.PUBLIC_URL + reverse("token"),
            "jwks_uri": settings.PUBLIC_URL + reverse("jwks"),
            "grant_types_supported": ["client_credentials"],
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "scopes_supported": sorted(SCOPES),
        }
    )
