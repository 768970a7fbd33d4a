"""The WSGI application."""

import os
from io import BytesIO
from typing import Any

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orders_project.settings")

_django = get_wsgi_application()

from django.conf import settings  # noqa: E402 - after Django is set up

from .auth import authentication as auth  # noqa: E402

auth.prepare()


def application(environ: dict[str, Any], start_response: Any) -> Any:
    """
    Django's application, for which a body without a Content-Length is empty.

    So a chunked body gets its length here. Of a body that is too large only a little more than the limit is read.
    """
    if environ.get("wsgi.input_terminated") and "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower():
        body = environ["wsgi.input"].read(settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1)
        environ |= {"wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body))}
    return _django(environ, start_response)
