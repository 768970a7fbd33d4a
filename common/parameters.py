"""The query parameters of an endpoint: those that its description names, each once."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from django.utils.translation import gettext_lazy as _
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import OpenApiParameter
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.serializers import ListSerializer
from rest_framework.settings import api_settings
from rest_framework.views import APIView

from .near import refuse_unknown
from .principal import is_answered

PAGE = "cursor"  # a parameter of every list that comes in pages


class StrictView(APIView):
    """
    The base of the API's views: refuses query parameters that the description of the operation does not name.

    A misspelled parameter must not act on another account, or show everything; and of one that is repeated no value may
    be ignored.
    """

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if request._request.META.get("QUERY_STRING") and request.method != "OPTIONS" and is_answered(request, self):
            self.check_parameters(request)

    def check_parameters(self, request: Request) -> None:
        """
        Check the parameters of a request that has any. Those of a list are checked together with its filters.

        :raises ValidationError: if some are wrong
        """
        if PAGE not in known_to(self, request) and (wrong := mistakes(request, self)):
            raise ValidationError(wrong)


def mistakes(request: Request, view: APIView) -> dict[str, list[Any]]:
    """The query parameters of a request that are unknown or repeated, and why they are refused."""
    known, given = known_to(view, request), request.query_params
    unknown = [name for name in given if name not in known]
    wrong = refuse_unknown(unknown, sorted(known), _("There is no such parameter."), rest="parameters")
    return wrong | {
        name: [_("Give this once.")] for name, values in given.lists() if len(values) > 1 and not known.get(name, True)
    }


def known_to(view: APIView, request: Request) -> Mapping[str, bool]:
    """The parameters that a view knows for the method of a request, and whether they may be repeated."""
    kind: Any = type(view)
    return _described(kind, "GET" if request.method == "HEAD" else str(request.method))


@cache
def _described(kind: Any, method: str) -> Mapping[str, bool]:
    generator = SchemaGenerator()  # which keeps what it creates
    view = generator.create_view(kind.as_view(), method)
    schema = view.schema
    schema.method = method
    known = {str(api_settings.URL_FORMAT_OVERRIDE): False}
    pager, filters = getattr(view, "pagination_class", None), getattr(view, "filterset_class", None)
    if method == "GET" and pager and isinstance(schema.get_response_serializers(), ListSerializer):
        known |= {parameter["name"]: False for parameter in pager().get_schema_operation_parameters(view)}
        known |= dict.fromkeys(filters.base_filters if filters else (), False)
    for parameter in schema.get_override_parameters():
        if isinstance(parameter, OpenApiParameter) and parameter.location == OpenApiParameter.QUERY:
            is_list = isinstance(parameter.type, dict) and parameter.type.get("type") == "array"
            known[parameter.name] = is_list
    return known
