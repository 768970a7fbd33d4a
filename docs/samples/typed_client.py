"""
Place an order, read it, cancel it and wait for its end: with the client that `make client` generates.

ORDERS_URL, CLIENT_ID and CLIENT_SECRET say where and as whom. Every answer is an object with types, and so is a
problem, so a type checker sees what is forgotten.
"""

import os
import sys
import time
import uuid

import httpx
from orders_client import AuthenticatedClient
from orders_client.api.orders import cancel_order, get_order, list_orders, place_order
from orders_client.models import (
    CancellationRequest,
    NewLineRequest,
    NewOrderRequest,
    Order,
    OrderStatus,
    PaymentMethod,
    Problem,
)

URL = os.environ["ORDERS_URL"]
ENDS = (OrderStatus.DONE, OrderStatus.CANCELED, OrderStatus.FAILED)


def token() -> str:
    """Return a token, for ten minutes or so. It names the client whose orders these are."""
    credentials = (os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"])
    answer = httpx.post(f"{URL}/oauth/token", auth=credentials, data={"grant_type": "client_credentials"})
    return str(answer.raise_for_status().json()["access_token"])


def order_in(answer: Order | Problem | None) -> Order:
    """Return the order in an answer; a problem ends the program."""
    if isinstance(answer, Problem):
        sys.exit(f"{answer.status} {answer.code}: {answer.detail}")
    assert answer is not None
    return answer


client = AuthenticatedClient(base_url=URL, token=token(), timeout=httpx.Timeout(30), raise_on_unexpected_status=True)

# An order. The key makes it safe to send the request again when no answer came.
key = uuid.uuid4()
lamp = NewLineRequest(sku="demo-lamp", quantity=1, price=39.90)
new = NewOrderRequest(customer_id="cust-123", payment_method=PaymentMethod.GATEWAY, items=[lamp])
order = order_in(place_order.sync(client=client, body=new, idempotency_key=f"place-{key}"))
print(f"placed {order.order_id}")

# One order, and the newest ones.
print(order_in(get_order.sync(order.order_id, client=client)).status.value)
page = list_orders.sync(client=client, limit=5, status=OrderStatus.RESERVED)
assert page is not None
assert not isinstance(page, Problem)
assert order.order_id in [each.order_id for each in page.results]

# Something goes wrong: a problem, with its code and its fields.
refused = place_order.sync(client=client, body=NewOrderRequest(customer_id="cust-123"))
assert isinstance(refused, Problem)
print(f"refused {refused.code}: {refused.errors.to_dict() if refused.errors else ''}")

# Stock and money go back before it is canceled.
reason = CancellationRequest(reason="changed my mind")
order = order_in(cancel_order.sync(order.order_id, client=client, body=reason, idempotency_key=f"cancel-{key}"))
for _ in range(120):
    if order.status in ENDS:
        break
    time.sleep(1)
    order = order_in(get_order.sync(order.order_id, client=client))
print(f"ended {order.status.value}")
