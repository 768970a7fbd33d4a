"""The codes of problems: what each means, and the HTTP status that it is answered with. They are a part of the API."""

from http import HTTPStatus
from typing import Any

from django.utils.translation import gettext_lazy as _

# By status, so that a code stands in one place only. A refusal whose code is not here is a conflict: 409. The first
# code of a status is that of an answer of which nothing else is known.
BY_STATUS: dict[HTTPStatus, dict[str, Any]] = {
    HTTPStatus.BAD_REQUEST: {
        "malformed": _("The request cannot be read: it is not JSON, or not HTTP."),
        "invalid": _("A field or parameter of the request is wrong; `errors` says which and why."),
        "unknown_product": _("There is no such product. Where the sku is nearly a known one, that one is named."),
        "two_prices": _("In its own currency a product would have two prices, or none."),
        "duplicate_line": _("A product is ordered in two lines: put the quantity in one."),
        "nothing_ordered": _("The order has taxes, discounts or shipping, and no goods."),
        "no_such_line": _("`of` does not name a line of goods of this order."),
        "discount_too_large": _("A discount is more than what it belongs to costs."),
        "nothing_to_pay": _("The total of the order would be zero."),
        "total_too_large": _("The total of the order, or of a line, is larger than amounts may be."),
        "free_lines_not_allowed": _("Only products of the catalog can be ordered here (`ORDERS_ALLOW_FREE_LINES`)."),
        "nothing_reserved": _("Only a gateway can reserve money, to be captured later."),
        "reason_missing": _("Staff must give a reason."),
        "no_period": _("The period of a statement ends before it begins, or cannot be told."),
        "signature_malformed": _("The signature of the webhook cannot be read."),
        "malformed_webhook": _("The signature of the webhook is right, but its body cannot be read."),
    },
    HTTPStatus.UNAUTHORIZED: {
        "not_authenticated": _("There is no token."),
        "authentication_failed": _("The token is not valid, or not any more."),
        "admin_secret_needed": _("`X-Admin-Secret` is missing or wrong, and no token allows this."),
        "signature_missing": _("The webhook has no signature."),
        "signature_stale": _("The webhook was signed too long ago, or in the future."),
        "signature_mismatch": _("The signature of the webhook fits none of the secrets."),
    },
    HTTPStatus.FORBIDDEN: {
        "permission_denied": _("The token does not allow this: `detail` names the scope that is needed."),
        "cross_site": _("A page of another site may not make a browser do this."),
        "csrf_failed": _("The form has no CSRF token, or a wrong one: load the page again."),
        "second_person_needed": _("One person alone may not move this amount: use the back office."),
    },
    HTTPStatus.NOT_FOUND: {
        "not_found": _("There is nothing at this address."),
        "order_not_found": _("There is no such order, or it belongs to another client."),
        "refund_not_found": _("The order has no such refund."),
        "no_account": _("The user has no account, or it belongs to another client."),
        "endpoint_not_found": _("There is no such webhook endpoint, or it belongs to another client."),
        "delivery_not_found": _("There is no such delivery to this webhook endpoint."),
    },
    HTTPStatus.METHOD_NOT_ALLOWED: {
        "method_not_allowed": _("This address does not have this method; `Allow` lists those that it has."),
    },
    HTTPStatus.NOT_ACCEPTABLE: {
        "not_acceptable": _("The format that `Accept` asks for is not available."),
    },
    HTTPStatus.REQUEST_TIMEOUT: {
        "request_timeout": _("The body did not arrive in time."),
    },
    HTTPStatus.CONFLICT: {
        "refused": _("The request is valid, but not possible now; `detail` says why."),
        "insufficient_stock": _(
            "There is less in stock than is asked for; `errors` names the lines, and `lacking` the products."
        ),
        "inactive_product": _("The product is not on sale."),
        "price_changed": _("The price of the product is another one than the request says."),
        "wrong_currency": _("The product is not sold in the currency of the order."),
        "currency_mismatch": _("The user has accounts in other currencies only."),
        "total_mismatch": _("The lines do not sum to `total_amount`."),
        "order_exists": _("Another order of this client has this order_id."),
        "held_otherwise": _(
            "Stock is held for this order_id, but not what is asked for now: try again after `Retry-After`."
        ),
        "already_done": _("The order is done and can no longer be canceled."),
        "already_failed": _("The order has failed and can no longer be canceled."),
        "already_accepted": _("The order has been processed and can no longer be canceled."),
        "not_authorized": _("No money is reserved for the order, or not any more."),
        "already_captured": _("The money has been taken, or is being taken."),
        "captured_by_itself": _("The money of this order is taken as soon as it is processed."),
        "capture_exceeds_authorized": _("Less money is reserved than is to be captured."),
        "nothing_collected": _("The order is paid by invoice: no money is collected here."),
        "refund_exceeds_captured": _("No more than `left` can still be refunded."),
        "not_paid": _("No money is in yet."),
        "being_returned": _("All of the money is on its way back."),
        "nothing_kept": _("All of the money is back."),
        "not_sold_yet": _("Pieces can go back into stock only once the order is done."),
        "account_taken": _("Another client has an account of this user, and the system is being upgraded."),
        "ambiguous_user": _("Several clients have a user of this name."),
        "ambiguous_order": _("Several clients have an order of this id: `order_ids` says which."),
        "balance_too_large": _("The balance would be larger than an account may hold."),
        "request_id_reused": _("The number of the form was used for another one."),
        "sku_taken": _("Another product has this sku."),
        "too_many_endpoints": _("The client has as many webhook endpoints as it may have."),
        "endpoint_off": _("The webhook endpoint is switched off."),
        "webhook_id_reused": _("Another webhook was received under this webhook-id."),
        "idempotency_key_reused": _("The Idempotency-Key was used for another request."),
        "idempotency_key_in_use": _(
            "The first request with this Idempotency-Key is still running: try again after `Retry-After`."
        ),
        "answer_too_large": _("The answer is larger than what is kept under an Idempotency-Key."),
    },
    HTTPStatus.PRECONDITION_FAILED: {
        "version_conflict": _("It has changed since you looked at it (`If-Match`): read it again."),
    },
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: {
        "too_large": _("The body is larger than 256 KB."),
    },
    HTTPStatus.REQUEST_URI_TOO_LONG: {
        "uri_too_long": _("The address, with its parameters, is too long."),
    },
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: {
        "unsupported_media_type": _("Send JSON, as `application/json`."),
    },
    HTTPStatus.TOO_MANY_REQUESTS: {
        "rate_limited": _("Too many requests, or orders for one email: try again after `Retry-After`."),
        "too_many_idempotency_keys": _("The client has as many Idempotency-Keys as are kept for one."),
        "locked_out": _("There were too many wrong secrets from one address: try again after `Retry-After`."),
    },
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: {
        "request_header_fields_too_large": _("The headers are too large, or too many."),
    },
    HTTPStatus.INTERNAL_SERVER_ERROR: {
        "internal": _("The server failed. Report it with the `correlation_id`."),
    },
    HTTPStatus.NOT_IMPLEMENTED: {
        "not_implemented": _("The request uses a part of HTTP that is not supported here."),
    },
    HTTPStatus.BAD_GATEWAY: {
        "bad_gateway": _("A part of the system did not answer as expected. Report it with the `correlation_id`."),
    },
    HTTPStatus.SERVICE_UNAVAILABLE: {
        "unavailable": _("A part of the system cannot be reached or is busy: try again after `Retry-After`."),
        "overloaded": _(
            "Too many orders or calls wait, and nothing was placed: send the same request again after `Retry-After`."
        ),
        "placed_too_slowly": _("Placing the order took too long, and nothing was placed: try again."),
        "not_during_upgrade": _("This is not possible while the system is being upgraded: try again later."),
        "history_detached": _("The history of the order is in a month of the archive that is not attached now."),
    },
    HTTPStatus.GATEWAY_TIMEOUT: {
        "timeout": _("It took too long, and may have had its effect: send it again under its Idempotency-Key."),
    },
}
STATUS = {code: status for status, codes in BY_STATUS.items() for code in codes}


def code_of(status: int) -> str:
    """The code of an answer of which only the status is known."""
    general = HTTPStatus.BAD_REQUEST if status < HTTPStatus.INTERNAL_SERVER_ERROR else HTTPStatus.INTERNAL_SERVER_ERROR
    return next(iter(BY_STATUS.get(HTTPStatus(status), BY_STATUS[general])))


def meaning(code: str) -> str:
    """What a code means, in the language that is active."""
    return str(BY_STATUS[STATUS[code]][code])
