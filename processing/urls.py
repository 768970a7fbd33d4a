"""The paths of processing, each with and without a trailing slash."""

from django.urls import re_path

from . import api

UUID = r"(?P<product_id>[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"

urlpatterns = [
    re_path(r"^products/?$", api.Products.as_view(), name="products"),
    re_path(rf"^products/{UUID}/?$", api.OneProduct.as_view(), name="product"),
    re_path(r"^admin/products/?$", api.MakeProduct.as_view(), name="make_product"),
    re_path(rf"^admin/products/{UUID}/?$", api.ChangeProduct.as_view(), name="change_product"),
]
