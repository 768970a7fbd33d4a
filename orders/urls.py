"""The paths of orders, with and without a trailing slash."""

from django.urls import re_path

from . import api

ORDER = r"^orders/(?P<order_id>[A-Za-z0-9._-]{1,64})"

urlpatterns = [
    re_path(r"^orders/?$", api.Orders.as_view(), name="orders"),
    re_path(ORDER + r"/?$", api.OneOrder.as_view(), name="order"),
    re_path(ORDER + r"/events/?$", api.Events.as_view(), name="order-events"),
    re_path(ORDER + r"/cancel/?$", api.Cancel.as_view(), name="order-cancel"),
]
