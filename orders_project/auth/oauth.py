"""The token endpoint: a client sends its secret and gets a token (OAuth 2.0 client credentials, RFC 9068 JWTs)."""

import base64
import binascii
import secrets
import time
from typing import Any
from urllib.parse import unquote_plus

from axes.handlers.proxy import AxesProxyHandler
from django.conf import settings
from django.contrib.auth.signals import user_login_failed
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters
from oauth2_provider.oauth2_validators import OAuth2Validator
from oauth2_provider.scopes import BaseScopes
from oauth2_provider.views.mixins import OAuthLibMixin

from common.principal import SCOPES
from orders.limits import address_of

from . import keys


class ClientScopes(BaseScopes):
    """A client may request its own scopes, and gets all of them if it requests none."""

    def get_all_scopes(self) -> dict[str, str]:
        return SCOPES

    def get_available_scopes(self, application: Any = None, request: Any = None, *args: Any, **kwargs: Any) -> Any:
        return application.scopes.split() if application else list(SCOPES)

    get_default_scopes = get_available_scopes


class Validator(OAuth2Validator):
    """Stores no tokens: they are verified by signature, expire in minutes and are never looked up."""

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
        grant = request.POST.get("grant_type", "client_credentials")
        if grant != "client_credentials":
            return _refusal(400, "unsupported_grant_type", "Only client_credentials is supported.")
        claimed = {"username": _client_id(request)}
        if not AxesProxyHandler.is_allowed(request, claimed):
            return locked_out(request)
        _, headers, body, status = self.create_token_response(request)
        if status == 401:
            user_login_failed.send(sender=__name__, credentials=claimed, request=request)
        elif status == 200:
            AxesProxyHandler.reset_attempts(username=claimed["username"])
        return HttpResponse(body, status=status, headers=headers)


def _client_id(request: HttpRequest) -> str:
    """The client id in the header or in the body."""
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            return unquote_plus(base64.b64decode(credentials).decode().partition(":")[0]).replace("\0", "")[:255]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return request.POST.get("client_id", "")[:255]


def _refusal(status: int, error: str, description: str) -> HttpResponse:
    return JsonResponse({"error": error, "error_description": description}, status=status)


def locked_out(request: HttpRequest, *details: Any) -> HttpResponse:
    """The answer to a user or a client that is locked out."""
    if request.path_info.startswith("/oauth/"):
        answer = _refusal(429, "invalid_client", "Too many wrong secrets. Try again later.")
    else:
        answer = HttpResponse("Too many wrong passwords. Try again later.", "text/plain", 429)
    answer["Retry-After"] = str(int(settings.AXES_COOLOFF_TIME.total_seconds()))
    return answer


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


def client_address(request: HttpRequest) -> str:
    """The address that a request comes from, for the lockout of users and clients."""
    forwarded = request.headers.get("X-Forwarded-For")
    return address_of(request.META.get("REMOTE_ADDR", ""), [forwarded] if forwarded else [])
