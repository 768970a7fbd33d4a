"""
Register a webhook endpoint, try it with a ping, look at what was delivered, and delete it again: with requests.

ORDERS_URL, CLIENT_ID and CLIENT_SECRET say where and as whom (scopes webhooks:read and webhooks:write), HOOK_URL where
webhooks are sent. What receives them there checks their signature: see verify_webhook.py.
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
    return answer.json() if answer.content else None


credentials = (os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"])
token = send("POST", "/oauth/token", auth=credentials, data={"grant_type": "client_credentials"})
session.headers["Authorization"] = f"Bearer {token['access_token']}"

# The secret is in this answer and in no other: keep it where the receiver finds it.
new = {"url": os.environ["HOOK_URL"], "events": ["order.paid", "order.canceled"], "description": "a sample"}
endpoint = send("POST", "/webhook-endpoints", json=new, headers={"Idempotency-Key": str(uuid.uuid4())})
path = f"/webhook-endpoints/{endpoint['endpoint_id']}"
assert endpoint["secret"].startswith("whsec_")
print("registered", flush=True)

# A ping takes the way of every other webhook.
send("POST", f"{path}/ping")
for _ in range(120):
    (delivery,) = send("GET", f"{path}/deliveries")["results"]
    if delivery["status"] != "pending" or len(delivery["attempts"]) > 1:  # what fails is tried again
        break
    time.sleep(1)
print(delivery["type"], delivery["status"])

send("DELETE", path)
print("deleted")
