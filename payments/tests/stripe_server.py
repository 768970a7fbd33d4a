"""
A local server that speaks Stripe's API, as far as it is used, with its states, errors and webhooks.

The fixture `stripe` of test_journeys_at_stripe.py starts one. What a payer, a bank or somebody in the dashboard does is
a method: `pays`, `declines`, `has_to_act`, `pays_late`, `expires`, `captures`, `refunds`, `refund_becomes`, `disputes`,
`decides`. Each change adds an event to `events`, in Stripe's form; `delivery` returns one as a request that is signed,
so that a test delivers the events in any order and any number of times. `refunds_become` is the status of the next
refunds; `broken` makes the next call fail: `500` (nothing is done) or `500 late` (it is done), which is saved under the
key as Stripe does it, or `silent` (it is done, and the connection is closed). The search finds a payment after `index`
only.
"""

import contextlib
import hashlib
import hmac
import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from payments.gateways.stripe_objects import VERSION

KEY, SECRET = "sk_test_local", "whsec_local"
OPEN = {"requires_payment_method", "requires_confirmation", "requires_action", "requires_capture"}
Json = dict[str, Any]


class Problem(Exception):
    """An error in Stripe's form."""

    def __init__(self, status: int, code: str, kind: str = "invalid_request_error", **more: Any) -> None:
        super().__init__(code)
        self.status = status
        self.body = {"error": {"type": kind, "message": code, **({"code": code} if code else {}), **more}}


class StripeServer(ThreadingHTTPServer):
    """Stripe, for one account."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Api)
        self.lock = threading.RLock()
        self.objects: dict[str, Json] = {}  # by id, in the order in which they were made
        self.events: list[Json] = []
        self.saved: dict[str, tuple[Any, int, Json]] = {}  # by idempotency key: the request, the status, the answer
        self.indexed: set[str] = set()
        self.refunds_become, self.broken = "succeeded", ""
        self.calls: list[str] = []
        self._numbers = itertools.count(1)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    # Requests -------------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, form: Json, key: str) -> tuple[int, Json] | None:
        """Return status and answer of a request, the saved one if there is one; None if nobody answers."""
        with self.lock:
            self.calls.append(f"{method} {path}")
            request = (method, path, form)
            if key in self.saved:
                known, status, saved = self.saved[key]
                if known != request:
                    raise Problem(400, "", "idempotency_error")
                return status, saved
            broken, self.broken = self.broken, ""
            failure = (500, Problem(500, "", "api_error").body)
            try:
                answer = failure if broken == "500" else (200, deepcopy(self._do(method, path, form)))
            except Problem as problem:
                answer = problem.status, problem.body
            if broken == "500 late":
                answer = failure
            if key:
                self.saved[key] = (request, *answer)
            return None if broken == "silent" else answer

    def _do(self, method: str, path: str, form: Json) -> Json:
        for route_method, pattern, allowed, do in ROUTES:
            match = re.fullmatch(pattern, path)
            if method == route_method and match:
                for name in form:
                    if not re.fullmatch(rf"(?:{allowed}|expand\[\])", name):
                        raise Problem(400, "parameter_unknown", param=name)
                answer: Json = getattr(self, do)(*match.groups(), form)
                return self._expanded(answer, form.get("expand[]", ""))
        raise Problem(404, "", message=f"Unrecognized request URL ({method}: {path}).")

    def _expanded(self, answer: Json, path: str) -> Json:
        if path.startswith("data."):
            return answer | {"data": [self._expanded(one, path.removeprefix("data.")) for one in answer["data"]]}
        return answer | {path: self.objects.get(answer[path], answer[path])} if path and answer[path] else answer

    def _get(self, kind: str, name: str) -> Json:
        if name not in self.objects or self.objects[name]["object"] != kind:
            raise Problem(404, "resource_missing", param=kind)
        return self.objects[name]

    def _all(self, kind: str) -> list[Json]:
        return [one for one in self.objects.values() if one["object"] == kind]

    def _page(self, found: list[Json], form: Json) -> Json:
        """Return a page of a list, the newest first."""
        since, until = int(form.get("created[gte]", 0)), int(form.get("created[lt]", 1 << 40))
        found = [one for one in reversed(found) if since <= one["created"] < until]
        if after := form.get("starting_after"):
            found = found[[one["id"] for one in found].index(after) + 1 :]
        limit = int(form.get("limit", 10))
        return {"object": "list", "data": found[:limit], "has_more": len(found) > limit}

    def create_intent(self, form: Json) -> Json:
        if int(form["amount"]) < 1:
            raise Problem(400, "parameter_invalid_integer", param="amount")
        intent = self._new(
            "payment_intent", "pi", amount=int(form["amount"]), amount_capturable=0, amount_received=0,
            canceled_at=None, cancellation_reason=None, capture_method=form.get("capture_method", "automatic"),
            client_secret="", currency=form["currency"], last_payment_error=None, latest_charge=None,
            metadata=_metadata(form), next_action=None, status="requires_payment_method",
        )  # fmt: skip
        intent["client_secret"] = intent["id"] + "_secret_local"
        self._tell("payment_intent.created", intent)
        return intent

    def get_intent(self, name: str, form: Json) -> Json:
        return self._get("payment_intent", name)

    def list_intents(self, form: Json) -> Json:
        return self._page(self._all("payment_intent"), form)

    def search_intents(self, form: Json) -> Json:
        wanted = re.fullmatch(r'metadata\["order_id"\]:"(.*)"', form["query"])
        if not wanted:
            raise Problem(400, "", param="query")
        text = wanted[1].replace('\\"', '"').replace("\\\\", "\\").lower()
        found = [self.objects[name] for name in self.indexed]
        return self._page([one for one in found if one["metadata"].get("order_id", "").lower() == text], form)

    def cancel_intent(self, name: str, form: Json) -> Json:
        intent = self._get("payment_intent", name)
        if intent["status"] not in OPEN:
            raise Problem(400, "payment_intent_unexpected_state", payment_intent=deepcopy(intent))
        return self._cancel(intent, None)

    def _cancel(self, intent: Json, reason: str | None) -> Json:
        held = intent["status"] == "requires_capture"
        intent.update(
            status="canceled", amount_capturable=0, next_action=None, canceled_at=int(time.time()),
            cancellation_reason=reason,
        )  # fmt: skip
        if held:
            self.objects[intent["latest_charge"]].update(refunded=True, amount_refunded=intent["amount"])
        self._tell("payment_intent.canceled", intent)
        return intent

    def capture_intent(self, name: str, form: Json) -> Json:
        intent = self._get("payment_intent", name)
        if intent["status"] != "requires_capture":
            expired = intent["cancellation_reason"] == "automatic"
            code = "charge_expired_for_capture" if expired else "payment_intent_unexpected_state"
            raise Problem(400, code, payment_intent=deepcopy(intent))
        amount = int(form.get("amount_to_capture") or intent["amount_capturable"])
        if amount > intent["amount_capturable"]:
            raise Problem(400, "amount_too_large", param="amount_to_capture")
        return self._take(intent, amount)

    def create_refund(self, form: Json) -> Json:
        intent = self._get("payment_intent", form["payment_intent"])
        charge = self.objects.get(intent["latest_charge"] or "")
        if charge is None or not charge["captured"]:
            raise Problem(400, "", message="This PaymentIntent does not have a successful charge to refund.")
        if charge["disputed"]:
            raise Problem(400, "charge_disputed")
        left = charge["amount_captured"] - charge["amount_refunded"]
        amount = int(form.get("amount", left))
        if left == 0:
            raise Problem(400, "charge_already_refunded")
        if not 0 < amount <= left:
            raise Problem(400, "amount_too_large", param="amount")
        return self._refund(intent, amount, self.refunds_become, _metadata(form), reason=None)

    def list_refunds(self, form: Json) -> Json:
        found = [one for one in self._all("refund") if one["payment_intent"] == form.get("payment_intent")]
        return self._page(found, form)

    def list_transactions(self, form: Json) -> Json:
        return self._page(self._all("balance_transaction"), form)

    # What payers, banks and people in the dashboard do ---------------------------------------------------------------

    def pays(self, name: str) -> None:
        """The payer pays, which reserves the money of a payment that is captured by hand."""
        with self.lock:
            intent = self._get("payment_intent", name)
            charge = self._charge(intent, status="succeeded")
            intent.update(latest_charge=charge["id"], next_action=None, last_payment_error=None)
            if intent["capture_method"] == "manual":
                card = {"capture_before": int(time.time()) + 7 * 86400}
                charge.update(captured=False, payment_method_details={"type": "card", "card": card})
                intent.update(status="requires_capture", amount_capturable=intent["amount"])
                self._tell("payment_intent.amount_capturable_updated", intent)
            else:
                self._take(intent, intent["amount"])

    def declines(self, name: str, code: str = "card_declined", decline_code: str = "insufficient_funds") -> None:
        """The payer's bank declines; the payer may try another card."""
        with self.lock:
            intent = self._get("payment_intent", name)
            charge = self._charge(intent, status="failed")
            problem = {"type": "card_error", "code": code, "decline_code": decline_code, "charge": charge["id"]}
            intent.update(
                status="requires_payment_method", latest_charge=charge["id"], next_action=None,
                last_payment_error=problem | {"message": "Your card was declined."},
            )  # fmt: skip
            self._tell("charge.failed", charge)
            self._tell("payment_intent.payment_failed", intent)

    def has_to_act(self, name: str, kind: str = "redirect_to_url", **details: Any) -> None:
        """The payer's bank wants the payer to do something."""
        with self.lock:
            intent = self._get("payment_intent", name)
            details = details or {"url": "https://hooks.stripe.com/3d_secure", "return_url": "https://shop.test"}
            intent.update(status="requires_action", next_action={"type": kind, kind: details})
            self._tell("payment_intent.requires_action", intent)

    def pays_late(self, name: str) -> None:
        """The payer has paid by a method that takes days; `pays` or `declines` ends it."""
        with self.lock:
            intent = self._get("payment_intent", name)
            intent.update(status="processing", next_action=None)
            self._tell("payment_intent.processing", intent)

    def expires(self, name: str) -> None:
        """Money that was reserved is released, since nobody captured it in time; Stripe calls that a refund."""
        with self.lock:
            intent = self._get("payment_intent", name)
            self._cancel(intent, "automatic")
            released = self._new_refund(intent, intent["amount"], "succeeded", {}, reason="expired_uncaptured_charge")
            self._tell("refund.created", released)

    def captures(self, name: str, amount: int) -> None:
        """Somebody captures reserved money in the dashboard."""
        with self.lock:
            self.capture_intent(name, {"amount_to_capture": str(amount)})

    def refunds(self, name: str, amount: int) -> str:
        """Somebody refunds in the dashboard. Return the id of the refund."""
        with self.lock:
            made = self.create_refund({"payment_intent": name, "amount": str(amount)})
            return str(made["id"])

    def refund_becomes(self, name: str, status: str, failure_reason: str | None = None) -> None:
        """A refund has arrived, or has failed, also after it had succeeded."""
        with self.lock:
            refund = self._get("refund", name)
            refund.update(status=status, failure_reason=failure_reason)
            if status in ("failed", "canceled"):
                self._back(self.objects[refund["charge"]], -refund["amount"])
                self._book("refund_failure", refund["amount"], 0, refund, "refund_failure")
            for kind in ["refund.updated", "charge.refund.updated"] + ["refund.failed"] * (status == "failed"):
                self._tell(kind, refund)

    def disputes(self, name: str, amount: int, status: str = "needs_response") -> str:
        """The payer's bank takes money back, or, with `warning_needs_response`, asks only. Return the dispute's id."""
        with self.lock:
            charge = self.objects[self._get("payment_intent", name)["latest_charge"]]
            dispute = self._new(
                "dispute", "dp", amount=amount, charge=charge["id"], currency=charge["currency"], metadata={},
                evidence_details={"due_by": int(time.time()) + 7 * 86400}, payment_intent=name, reason="fraudulent",
                status=status,
            )  # fmt: skip
            self._tell("charge.dispute.created", dispute)
            if not status.startswith("warning_"):
                charge["disputed"] = True
                self._book("adjustment", -amount, 1500, dispute, "dispute")
                self._tell("charge.dispute.funds_withdrawn", dispute)
            return str(dispute["id"])

    def decides(self, name: str, status: str) -> None:
        """A dispute is `won` or `lost`."""
        with self.lock:
            dispute = self._get("dispute", name)
            dispute["status"] = status
            self._tell("charge.dispute.closed", dispute)
            if status == "won":
                self._book("adjustment", dispute["amount"], 0, dispute, "dispute_reversal")
                self._tell("charge.dispute.funds_reinstated", dispute)

    def index(self) -> None:
        """The search finds from now on what there is."""
        with self.lock:
            self.indexed = {one["id"] for one in self._all("payment_intent")}

    # What is common --------------------------------------------------------------------------------------------------

    def _new(self, kind: str, prefix: str, **fields: Any) -> Json:
        name = f"{prefix}_{next(self._numbers)}"
        self.objects[name] = {"id": name, "object": kind, "created": int(time.time()), "livemode": False, **fields}
        return self.objects[name]

    def _charge(self, intent: Json, status: str) -> Json:
        return self._new(
            "charge", "ch" if status == "succeeded" else "ch_failed", amount=intent["amount"], amount_captured=0,
            amount_refunded=0, captured=False, currency=intent["currency"], disputed=False,
            metadata=dict(intent["metadata"]), payment_intent=intent["id"], refunded=False, status=status,
            payment_method_details={"type": "card", "card": {}},
        )  # fmt: skip

    def _take(self, intent: Json, amount: int) -> Json:
        charge = self.objects[intent["latest_charge"]]
        charge.update(captured=True, amount_captured=amount)
        intent.update(status="succeeded", amount_received=amount, amount_capturable=0)
        self._book("charge", intent["amount"], 30 + intent["amount"] * 29 // 1000, charge, "charge")
        if amount < intent["amount"]:  # booked in two parts, the second of which is no refund
            self._book("refund", amount - intent["amount"], 0, charge, "partial_capture_reversal")
        self._tell("charge.captured" if intent["capture_method"] == "manual" else "charge.succeeded", charge)
        self._tell("payment_intent.succeeded", intent)
        return intent

    def _new_refund(self, intent: Json, amount: int, status: str, metadata: Json, reason: str | None) -> Json:
        return self._new(
            "refund", "re", amount=amount, charge=intent["latest_charge"], currency=intent["currency"],
            failure_reason="declined" if status == "failed" else None, metadata=metadata,
            payment_intent=intent["id"], reason=reason, status=status,
        )  # fmt: skip

    def _refund(self, intent: Json, amount: int, status: str, metadata: Json, reason: str | None) -> Json:
        refund = self._new_refund(intent, amount, status, metadata, reason)
        charge = self.objects[intent["latest_charge"]]
        self._tell("refund.created", refund)
        if status not in ("failed", "canceled"):
            self._back(charge, amount)
            self._book("refund", -amount, 0, refund, "refund")
            self._tell("charge.refunded", charge)
        return refund

    def _back(self, charge: Json, amount: int) -> None:
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount_captured"]

    def _book(self, kind: str, amount: int, fee: int, source: Json, category: str) -> None:
        self._new(
            "balance_transaction", "txn", amount=amount, currency=source["currency"], description=None, fee=fee,
            net=amount - fee, reporting_category=category, source=source["id"], type=kind,
        )  # fmt: skip

    def _tell(self, kind: str, about: Json) -> None:
        self.events.append({
            "id": f"evt_{next(self._numbers)}", "object": "event", "api_version": VERSION,
            "created": int(time.time()), "data": {"object": deepcopy(about)}, "livemode": False,
            "pending_webhooks": 1, "request": {"id": None, "idempotency_key": None}, "type": kind,
        })  # fmt: skip

    def delivery(self, event: Json, *, pending_webhooks: int = 1) -> tuple[dict[str, str], bytes]:
        """Return headers and body of a request with this event."""
        body = json.dumps(event | {"pending_webhooks": pending_webhooks}).encode()
        now = str(int(time.time()))
        digest = hmac.new(SECRET.encode(), now.encode() + b"." + body, hashlib.sha256).hexdigest()
        return {"Stripe-Signature": f"t={now},v1={digest}"}, body


CREATE = r"amount|currency|capture_method|metadata\[\w+\]|automatic_payment_methods\[enabled\]"
ROUTES = [
    ("POST", "/v1/payment_intents", CREATE, "create_intent"),
    ("GET", "/v1/payment_intents", r"limit|starting_after|created\[(?:gte|lt)\]", "list_intents"),
    ("GET", "/v1/payment_intents/search", "query|limit|page", "search_intents"),
    ("GET", r"/v1/payment_intents/(\w+)", "client_secret", "get_intent"),
    ("POST", r"/v1/payment_intents/(\w+)/cancel", "cancellation_reason", "cancel_intent"),
    ("POST", r"/v1/payment_intents/(\w+)/capture", "amount_to_capture", "capture_intent"),
    ("POST", "/v1/refunds", r"payment_intent|amount|reason|metadata\[\w+\]", "create_refund"),
    ("GET", "/v1/refunds", "payment_intent|limit|starting_after", "list_refunds"),
    ("GET", "/v1/balance_transactions", r"limit|starting_after|created\[(?:gte|lt)\]", "list_transactions"),
]  # fmt: skip


def _metadata(form: Json) -> dict[str, str]:
    """Return the metadata of a form; an empty value is none."""
    found = {match[1]: value for name, value in form.items() if (match := re.fullmatch(r"metadata\[(\w+)\]", name))}
    return {name: value for name, value in found.items() if value}


class Api(BaseHTTPRequestHandler):
    """Stripe's API over HTTP."""

    server: StripeServer

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        fields = parse_qs(body if self.command == "POST" else url.query, keep_blank_values=True)
        try:
            if self.headers.get("Authorization") != f"Bearer {KEY}":
                raise Problem(401, "")
            if self.headers.get("Stripe-Version") != VERSION:
                raise Problem(400, "", message="Invalid Stripe API version.")
            form = {name: values[0] for name, values in fields.items()}
            answer = self.server.answer(self.command, url.path, form, self.headers.get("Idempotency-Key", ""))
        except Problem as problem:
            answer = problem.status, problem.body
        if answer is None:
            self.close_connection = True
            return
        content = json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST  # noqa: N815 - the name that http.server calls

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def running() -> Iterator[StripeServer]:
    """Run the server within this block."""
    server = StripeServer()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
