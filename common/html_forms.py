"""API views that people can use as well: the HTML form on the page of a view."""

from typing import Any

from rest_framework.generics import GenericAPIView
from rest_framework.parsers import BaseParser, JSONParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.utils.serializer_helpers import ReturnDict

from .parameters import StrictView


class WithForm(StrictView, GenericAPIView[Any]):
    """
    A view that accepts JSON from programs and, from browsers, also the form on its own page.

    Only a browser names an origin, and one of another site was refused before (see `SameOrigin`).
    """

    parser_classes = [*GenericAPIView.parser_classes, MultiPartParser]
    asked: BaseSerializer[Any] | None = None  # the serializer of the request, once the view has created it

    def get_parsers(self) -> list[BaseParser]:
        headers = self.request.headers if self.request is not None else {}
        by_browser = "Origin" in headers and "text/html" in headers.get("Accept", "")
        return [parser for parser in super().get_parsers() if by_browser or isinstance(parser, JSONParser)]

    def http_method_not_allowed(self, request: Request, *args: Any, **kwargs: Any) -> Response:  # type: ignore[override]
        """In a browser, GET on an endpoint that only accepts POST or PATCH shows the page with its form."""
        if request.method == "GET" and request.accepted_renderer.format == "api":
            return Response()
        return super().http_method_not_allowed(request, *args, **kwargs)

    def handle_exception(self, exc: Exception) -> Response:
        """A refused form keeps its values, with each error beside its field."""
        answer = super().handle_exception(exc)
        if isinstance(answer, Response) and self.asked is not None:
            answer.data = ReturnDict(answer.data, serializer=self.asked)
        return answer
