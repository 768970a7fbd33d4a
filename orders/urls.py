"""The paths of orders, with and without a trailing slash."""

from django.urls import re_path

from . import api, payment_api, webhook_api

ORDER = r"^orders/(?P<order_id>[A-Za-z0-9._-]{1,64})"

UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
REFUND = rf"/refunds/(?P<refund_id>{UUID})"
ENDPOINT = rf"^webhook-endpoints/(?P<endpoint_id>{UUID})"
DELIVERY = rf"/deliveries/(?P<delivery_id>{UUID})"

urlpatterns = [
    re_path(r"^orders/?$", api.Orders.as_view(), name="orders"),
    re_path(ORDER + r"/?$", api.OneOrder.as_view(), name="order"),
    re_path(ORDER + r"/events/?$", api.Events.as_view(), name="order-events"),
    re_path(ORDER + r"/cancel/?$", api.Cancel.as_view(), name="order-cancel"),
    re_path(ORDER + r"/payment/?$", payment_api.PaymentOfOrder.as_view(), name="order-payment"),
    re_path(ORDER + r"/capture/?$", payment_api.CaptureOfOrder.as_view(), name="order-capture"),
    re_path(ORDER + r"/refunds/?$", payment_api.Refunds.as_view(), name="order-refunds"),
    re_path(ORDER + REFUND + r"/?$", payment_api.OneRefund.as_view(), name="order-refund"),
    re_path(r"^webhook-endpoints/?$", webhook_api.Endpoints.as_view(), name="webhook-endpoints"),
    re_path(ENDPOINT + r"/?$", webhook_api.OneEndpoint.as_view(), name="webhook-endpoint"),
    re_path(ENDPOINT + r"/rotate/?$", webhook_api.Rotate.as_view(), name="webhook-rotate"),
    re_path(ENDPOINT + r"/ping/?$", webhook_api.Ping.as_view(), name="webhook-ping"),
    re_path(ENDPOINT + r"/deliveries/?$", webhook_api.Deliveries.as_view(), name="webhook-deliveries"),
    re_path(ENDPOINT + DELIVERY + r"/resend/?$", webhook_api.Resend.as_view(), name="webhook-resend"),
]
