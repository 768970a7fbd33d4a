"""
Place an order, read it, cancel it and wait for its end: with requests.

ORDERS_URL, CLIENT_ID and CLIENT_SECRET say where and as whom.
"""

import os
import sys
import time
import uuid
from typing import Any

import requests

URL = os.environ["ORDERS_URL"]
TIMEOUT = 30

session = requests.Session()


def send(method: str, path: str, **options: Any) -> Any:
    """Send a request and return the answer; a problem document ends the program."""
    answer = session.request(method, URL + path, timeout=TIMEOUT, **options)
    if not answer.ok:
        sys.exit(f"{method} {path}: {answer.status_code} {answer.text}")
    return answer.json()


# A token, for ten minutes or so. It names the client whose orders these are.
credentials = (os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"])
token = send("POST", "/oauth/token", auth=credentials, data={"grant_type": "client_credentials"})
session.headers["Authorization"] = f"Bearer {token['access_token']}"

# An order. The key makes it safe to send the request again when no answer came.
key = uuid.uuid4()
items = [{"sku": "demo-lamp", "quantity": 1, "price": 39.90}]
new = {"customer_id": "cust-123", "payment_method": "gateway", "items": items}
order = send("POST", "/orders", json=new, headers={"Idempotency-Key": f"place-{key}"})
order_id = order["order_id"]
print(f"placed {order_id}")

# One order, and the newest ones.
print(send("GET", f"/orders/{order_id}")["status"])
page = send("GET", "/orders", params={"limit": 5})
assert order_id in [each["order_id"] for each in page["results"]]

# Stock and money go back before it is canceled.
reason = {"reason": "changed my mind"}
order = send("POST", f"/orders/{order_id}/cancel", json=reason, headers={"Idempotency-Key": f"cancel-{key}"})
for _ in range(120):
    if order["status"] in ("done", "canceled", "failed"):
        break
    time.sleep(1)
    order = send("GET", f"/orders/{order_id}")
print(f"ended {order['status']}")
