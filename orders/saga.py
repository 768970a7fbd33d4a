"""
The life of an order: every transition, every compensation and every timeout, in one table.

The other services know only their own commands and events; this module alone knows what follows what. The table is
data: `manage.py saga` prints it and draws it, and transitions.py carries it out. Each pair of status and event is
decided: it is a step, old news, or refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils.translation import gettext_noop

from outbox.message import Message
from payments.messages import (
    Capture,
    Charge,
    PaymentAuthorized,
    PaymentFailed,
    PaymentPending,
    PaymentRefunded,
    PaymentReturnRefused,
    PaymentReturnUndone,
    PaymentSucceeded,
    PaymentVoided,
    Refund,
    Void,
)
from processing.messages import (
    PROCESSING_TIMEOUT,
    HoldExpired,
    KeepHold,
    OrderProcessed,
    Process,
    ProcessingRefused,
    Release,
    StockReleased,
)

from .messages import Overdue
from .models import Order, Status


@dataclass(frozen=True)
class CancelRequested:
    """A customer or an operator wants the order canceled. It comes from an endpoint or the admin, not as a message."""

    reason: str = "canceled_by_customer"


@dataclass(frozen=True)
class CaptureRequested:
    """A client or an operator wants the reserved money, or this much of it. It comes from an endpoint or the admin."""

    amount: int


Event = Message | CancelRequested | CaptureRequested


# The commands that an order sends -----------------------------------------------------------------------------------


def charge(order: Order) -> Message:
    return Charge(
        order_id=order.order_id,
        amount=order.total,
        currency=order.currency,
        method=order.payment_method,
        user_id=order.user_id or None,
        principal=order.principal,
        deadline=overdue_at(order).isoformat(),
        capture="manual" if order.capture else None,
    )


def capture(order: Order) -> Message:
    return Capture(order_id=order.order_id, amount=order.paid)


def process(order: Order) -> Message:
    return Process(order_id=order.order_id, hold_id=_hold(order), deadline=overdue_at(order).isoformat())


def void(order: Order) -> Message:
    return Void(order_id=order.order_id)


def refund(order: Order) -> Message:
    return Refund(order_id=order.order_id)


def release(order: Order) -> Message:
    """Give the stock back, and what is sold as well where it is sold before the money is taken."""
    is_sold = order.capture == Order.Capture.AFTER_PROCESSING
    return Release(order_id=order.order_id, hold_id=_hold(order), sold=True if is_sold else None)


def keep_hold(order: Order) -> Message:
    return KeepHold(order_id=order.order_id, hold_id=str(order.hold_id), until=overdue_at(order).isoformat())


def first_command(order: Order) -> Message:
    """What a new order asks for: its payment, or the processing where nothing is collected."""
    return process(order) if order.payment_method == Order.Method.INVOICE else charge(order)


def _hold(order: Order) -> str | None:
    return str(order.hold_id) if order.hold_id else None


# How it ends --------------------------------------------------------------------------------------------------------

PAYMENT_TIMEOUT = "payment_timeout"
AUTHORIZATION_EXPIRED = "authorization_expired"
CAPTURE_REFUSED = "capture_refused"

# An order that was turned back for one of these reasons has failed; for any other reason it is canceled.
FAILURES = frozenset(
    {"insufficient_funds", "no_account", "currency_mismatch", "processing_refused", PROCESSING_TIMEOUT}
)


def end(order: Order) -> Status:
    return Status.FAILED if order.fail_reason in FAILURES else Status.CANCELED


# The table ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """
    The status that follows, perhaps `through` another one, and the command that is sent.

    A step that leaves the order as it is only sends its command: it is no transition, and not in the history.
    """

    becomes: Status | Callable[[Order], Status]
    says: Callable[[Order], Message] | None = None
    through: Status | None = None


Steps = dict[tuple[Status, type[Event]], Step]

P, R, PP, PAID = Status.PENDING, Status.RESERVED, Status.PAYMENT_PENDING, Status.PAID
AUTHORIZED, CAPTURING = Status.AUTHORIZED, Status.CAPTURING
VOIDING, REFUNDING, RELEASING = Status.VOIDING, Status.REFUNDING, Status.RELEASING
DONE, CANCELED, FAILED = Status.DONE, Status.CANCELED, Status.FAILED

# fmt: off
STEPS: Steps = {
    # while it IS  and HEARS                it BECOMES         and SAYS
    (P,          PaymentPending):    Step(PP),
    (R,          PaymentPending):    Step(PP),
    (P,          PaymentSucceeded):  Step(PAID,       says=process, through=PP),
    (R,          PaymentSucceeded):  Step(PAID,       says=process, through=PP),
    (PP,         PaymentSucceeded):  Step(PAID,       says=process),
    (PAID,       OrderProcessed):    Step(DONE),

    # the money is only reserved: it is taken when the client asks for it, or by hand at the gateway
    (P,          PaymentAuthorized): Step(AUTHORIZED, through=PP),
    (R,          PaymentAuthorized): Step(AUTHORIZED, through=PP),
    (PP,         PaymentAuthorized): Step(AUTHORIZED),
    (AUTHORIZED, CaptureRequested):  Step(CAPTURING,  says=capture),
    (AUTHORIZED, PaymentSucceeded):  Step(PAID,       says=process),
    (CAPTURING,  PaymentSucceeded):  Step(PAID,       says=process),
    (CAPTURING,  Overdue):           Step(CAPTURING,  says=capture),
    (AUTHORIZED, HoldExpired):       Step(AUTHORIZED, says=keep_hold),
    (CAPTURING,  HoldExpired):       Step(CAPTURING,  says=keep_hold),

    # no money came in: give the stock back
    (P,          PaymentFailed):     Step(RELEASING,  says=release),
    (R,          PaymentFailed):     Step(RELEASING,  says=release),
    (PP,         PaymentFailed):     Step(RELEASING,  says=release),
    (AUTHORIZED, PaymentFailed):     Step(RELEASING,  says=release),
    (CAPTURING,  PaymentFailed):     Step(RELEASING,  says=release),
    (P,          PaymentVoided):     Step(RELEASING,  says=release),
    (R,          PaymentVoided):     Step(RELEASING,  says=release),
    (PP,         PaymentVoided):     Step(RELEASING,  says=release),
    (AUTHORIZED, PaymentVoided):     Step(RELEASING,  says=release),
    (CAPTURING,  PaymentVoided):     Step(RELEASING,  says=release),
    (CAPTURING,  PaymentRefunded):   Step(RELEASING,  says=release),  # taken although the capture was refused
    (RELEASING,  StockReleased):     Step(end),

    # turned back before it was paid: make sure that no money stays in, then give the stock back
    (P,          CancelRequested):   Step(VOIDING,    says=void),
    (R,          CancelRequested):   Step(VOIDING,    says=void),
    (PP,         CancelRequested):   Step(VOIDING,    says=void),
    (AUTHORIZED, CancelRequested):   Step(VOIDING,    says=void),
    (CAPTURING,  CancelRequested):   Step(VOIDING,    says=void),
    (P,          Overdue):           Step(VOIDING,    says=void),
    (R,          Overdue):           Step(VOIDING,    says=void),
    (PP,         Overdue):           Step(VOIDING,    says=void),
    (AUTHORIZED, Overdue):           Step(VOIDING,    says=void),
    (R,          HoldExpired):       Step(VOIDING,    says=void),
    (PP,         HoldExpired):       Step(VOIDING,    says=void),
    (VOIDING,    PaymentVoided):     Step(RELEASING,  says=release),
    (VOIDING,    PaymentFailed):     Step(RELEASING,  says=release),
    (VOIDING,    PaymentRefunded):   Step(RELEASING,  says=release),

    # turned back after it was paid: stop the processing and give the stock back, then the money
    (PAID,       ProcessingRefused): Step(REFUNDING,  says=release),
    (PAID,       CancelRequested):   Step(REFUNDING,  says=release),
    (PAID,       Overdue):           Step(REFUNDING,  says=release),
    (REFUNDING,  StockReleased):     Step(REFUNDING,  says=refund),
    (REFUNDING,  PaymentRefunded):   Step(end),
    (REFUNDING,  OrderProcessed):    Step(DONE),  # it had been accepted before the way back began

    # the gateway refuses to return the money: the order stays where it is until a person has decided
    (CAPTURING,  PaymentReturnRefused): Step(CAPTURING),  # after a refused capture, which payments takes back by itself
    (VOIDING,    PaymentReturnRefused): Step(VOIDING),
    (REFUNDING,  PaymentReturnRefused): Step(REFUNDING),

    # no answer on the way back: ask again, less and less often
    (VOIDING,    Overdue):           Step(VOIDING,    says=void),
    (RELEASING,  Overdue):           Step(RELEASING,  says=release),
    (REFUNDING,  Overdue):           Step(REFUNDING,  says=release),

    # late news: money that came in for an order that is on its way out goes back by itself
    (RELEASING,  PaymentSucceeded):  Step(VOIDING,    says=void),  # no end is shown before it is back
    (CANCELED,   PaymentSucceeded):  Step(CANCELED,   says=refund),
    (FAILED,     PaymentSucceeded):  Step(FAILED,     says=refund),

    # money that had gone back has come again: a person decides, and has it returned once more
    (RELEASING,  PaymentReturnUndone): Step(RELEASING),
    (CANCELED,   PaymentReturnUndone): Step(CANCELED),
    (FAILED,     PaymentReturnUndone): Step(FAILED),
    (RELEASING,  PaymentRefunded):   Step(RELEASING),
    (CANCELED,   PaymentRefunded):   Step(CANCELED),
    (FAILED,     PaymentRefunded):   Step(FAILED),
}
# fmt: on

# Old news, which changes nothing: it is so already, or a command that was sent since takes care of it.
ALREADY: dict[type[Event], frozenset[Status]] = {
    PaymentPending: frozenset({PP, AUTHORIZED, CAPTURING, PAID, VOIDING, REFUNDING, RELEASING, DONE, CANCELED, FAILED}),
    PaymentAuthorized: frozenset({AUTHORIZED, CAPTURING, PAID, VOIDING, REFUNDING, RELEASING, DONE, CANCELED, FAILED}),
    PaymentSucceeded: frozenset({PAID, VOIDING, REFUNDING, DONE}),
    PaymentFailed: frozenset({RELEASING, CANCELED, FAILED}),
    PaymentVoided: frozenset({RELEASING, CANCELED, FAILED}),
    PaymentRefunded: frozenset(),
    PaymentReturnRefused: frozenset({RELEASING, CANCELED, FAILED}),
    PaymentReturnUndone: frozenset({VOIDING, REFUNDING}),  # it was late: the order has asked since
    OrderProcessed: frozenset({DONE}),
    ProcessingRefused: frozenset({REFUNDING, CANCELED, FAILED}),
    StockReleased: frozenset({VOIDING, CANCELED, FAILED}),
    HoldExpired: frozenset({PAID, VOIDING, REFUNDING, RELEASING, DONE, CANCELED, FAILED}),
    CaptureRequested: frozenset(),
    CancelRequested: frozenset({VOIDING, REFUNDING, RELEASING, CANCELED}),
    Overdue: frozenset({DONE, CANCELED, FAILED}),
}

# Refused: what cannot be true of an order in this status. A message that says so becomes a dead letter, for a person
# to look at.
REFUSED: dict[type[Event], dict[Status, str]] = {
    PaymentFailed: dict.fromkeys((PAID, REFUNDING, DONE), "paid_already"),
    PaymentVoided: dict.fromkeys((PAID, REFUNDING, DONE), "paid_already"),
    PaymentRefunded: dict.fromkeys((P, R, PP, AUTHORIZED, PAID, DONE), "refund_not_asked_for"),
    PaymentReturnRefused: dict.fromkeys((P, R, PP, AUTHORIZED, PAID, DONE), "refund_not_asked_for"),
    PaymentReturnUndone: dict.fromkeys((P, R, PP, AUTHORIZED, CAPTURING, PAID, DONE), "refund_not_asked_for"),
    OrderProcessed: dict.fromkeys(
        (P, R, PP, AUTHORIZED, CAPTURING, VOIDING, RELEASING, CANCELED, FAILED), "not_being_processed"
    ),
    ProcessingRefused: {
        **dict.fromkeys((P, R, PP, AUTHORIZED, CAPTURING, VOIDING, RELEASING), "not_being_processed"),
        DONE: "processed_already",
    },
    StockReleased: dict.fromkeys((P, R, PP, AUTHORIZED, CAPTURING, PAID, DONE), "release_not_asked_for"),
    HoldExpired: {P: "holds_no_stock"},
    CaptureRequested: {
        **dict.fromkeys((P, R, PP, VOIDING, REFUNDING, RELEASING, CANCELED, FAILED), "not_authorized"),
        **dict.fromkeys((CAPTURING, PAID, DONE), "already_captured"),
    },
    CancelRequested: {DONE: "already_done", FAILED: "already_failed"},
}


@dataclass(frozen=True)
class Variant:
    """How the table is another one for some orders: what is found here counts, and the table above for the rest."""

    steps: Steps
    already: Mapping[type[Event], frozenset[Status]] = field(default_factory=dict)
    refused: Mapping[type[Event], Mapping[Status, str]] = field(default_factory=dict)


# fmt: off
# Nothing is collected: the processor decides. Who is refused has nothing to get back but the stock.
INVOICE = Variant(
    steps={
        (P,         OrderProcessed):    Step(DONE),
        (R,         OrderProcessed):    Step(DONE),
        (P,         ProcessingRefused): Step(end),
        (R,         ProcessingRefused): Step(RELEASING, says=release),
        (P,         CancelRequested):   Step(RELEASING, says=release),
        (R,         CancelRequested):   Step(RELEASING, says=release),
        (P,         Overdue):           Step(RELEASING, says=release),
        (R,         Overdue):           Step(RELEASING, says=release),
        (R,         HoldExpired):       Step(RELEASING, says=release),
        (RELEASING, OrderProcessed):    Step(DONE),  # it had been accepted before the way back began
    },
    already={ProcessingRefused: frozenset({RELEASING, CANCELED, FAILED})},
    refused={event: dict.fromkeys(Status, "nothing_collected") for event in (
        PaymentPending, PaymentAuthorized, PaymentSucceeded, PaymentFailed, PaymentVoided, PaymentRefunded,
        PaymentReturnRefused, PaymentReturnUndone, CaptureRequested,
    )},
)

# The stock is sold before the money is taken, so what is turned back after that takes back what was sold.
AFTER_PROCESSING = Variant(
    steps={
        (P,          PaymentAuthorized): Step(AUTHORIZED, says=process, through=PP),
        (R,          PaymentAuthorized): Step(AUTHORIZED, says=process, through=PP),
        (PP,         PaymentAuthorized): Step(AUTHORIZED, says=process),
        (AUTHORIZED, OrderProcessed):    Step(CAPTURING,  says=capture),
        (AUTHORIZED, ProcessingRefused): Step(VOIDING,    says=void),
        (PAID,       Overdue):           Step(PAID,       says=process),
    },
    already={
        OrderProcessed: frozenset({CAPTURING, VOIDING, REFUNDING, RELEASING, DONE, CANCELED, FAILED}),
        ProcessingRefused: frozenset({VOIDING, REFUNDING, RELEASING, CANCELED, FAILED}),
    },
    refused={
        CancelRequested: {CAPTURING: "already_accepted", PAID: "already_accepted"},
        CaptureRequested: {AUTHORIZED: "captured_by_itself"},
    },
)
# fmt: on
ALWAYS = Variant(STEPS, ALREADY, REFUSED)

# The tables of an order by its variant, in the order in which they count.
TABLES: dict[str, tuple[Variant, ...]] = {
    "": (ALWAYS,),
    "invoice": (INVOICE, ALWAYS),
    "captured after processing": (AFTER_PROCESSING, ALWAYS),
}


def variant(order: Order) -> str:
    """Which of the tables are those of an order."""
    if order.payment_method == Order.Method.INVOICE:
        return "invoice"
    return "captured after processing" if order.capture == Order.Capture.AFTER_PROCESSING else ""


def decide(order: Order, event: type[Event]) -> Step | str | None:
    """Return what this event does to this order: see `look_up`."""
    return look_up(Status(order.status), event, variant=variant(order))


def look_up(status: Status, event: type[Event], *, variant: str = "") -> Step | str | None:
    """Return what is decided: a step, nothing because the event is old news, or the code of a refusal."""
    for table in TABLES[variant]:
        if (step := table.steps.get((status, event))) is not None:
            return step
        if status in table.already.get(event, ()):
            return None
        if (code := table.refused.get(event, {}).get(status)) is not None:
            return code
    raise AssertionError(f"{status} and {event.__name__} are not decided.")


# What a refusal says to a customer or an operator, by its code.
REFUSALS = {
    "paid_already": gettext_noop("Order %(order)s is %(status)s: its payment has already succeeded."),
    "refund_not_asked_for": gettext_noop("Order %(order)s is %(status)s and has not asked for a refund."),
    "not_being_processed": gettext_noop("Order %(order)s is %(status)s and is not being processed."),
    "processed_already": gettext_noop("Order %(order)s is %(status)s and has already been processed."),
    "release_not_asked_for": gettext_noop("Order %(order)s is %(status)s and has not given back its stock."),
    "holds_no_stock": gettext_noop("Order %(order)s is %(status)s and holds no stock."),
    "already_done": gettext_noop("Order %(order)s is done and can no longer be canceled."),
    "already_failed": gettext_noop("Order %(order)s has failed and can no longer be canceled."),
    "already_accepted": gettext_noop("Order %(order)s has been processed and can no longer be canceled."),
    "not_authorized": gettext_noop("Order %(order)s is %(status)s: no money is reserved for it."),
    "already_captured": gettext_noop("Order %(order)s is %(status)s: its money has been taken, or is being taken."),
    "captured_by_itself": gettext_noop("Order %(order)s is %(status)s: its money is taken as soon as it is processed."),
    "nothing_collected": gettext_noop("Order %(order)s is paid by invoice: no money is collected here."),
}

EVENTS: tuple[type[Event], ...] = tuple(ALREADY)

# How long an order may stay in a status before it is overdue, counted from when it entered the status.
TIMEOUTS: dict[Status, Callable[[], timedelta]] = {
    P: lambda: settings.PAYMENT_TIMEOUT,
    R: lambda: settings.PAYMENT_TIMEOUT,
    PP: lambda: settings.PAYMENT_TIMEOUT,
    AUTHORIZED: lambda: settings.AUTHORIZATION_TTL,
    CAPTURING: lambda: timedelta(minutes=1),
    PAID: lambda: settings.PROCESSING_TIMEOUT,
    VOIDING: lambda: timedelta(minutes=1),
    REFUNDING: lambda: timedelta(minutes=1),
    RELEASING: lambda: timedelta(minutes=1),
}


# Where an order that is overdue asks again for what it waits for, and goes no other way by itself.
REPEATING = frozenset(status for (status, event), step in STEPS.items() if event is Overdue and step.becomes == status)


def overdue_at(order: Order) -> datetime:
    """The time when an order has been in its status for too long."""
    return order.status_since + TIMEOUTS[Status(order.status)]()


def _of_timeout(order: Order) -> str:
    if order.status == PAID or order.payment_method == Order.Method.INVOICE:
        return PROCESSING_TIMEOUT
    return AUTHORIZATION_EXPIRED if order.status == AUTHORIZED else PAYMENT_TIMEOUT


# Why an order is turned back, by the event that does it. The first reason stays.
REASONS: dict[type[Event], Callable[[Any, Order], str]] = {
    PaymentFailed: lambda event, order: event.reason,
    PaymentVoided: lambda event, order: "payment_voided",
    PaymentRefunded: lambda event, order: CAPTURE_REFUSED,  # without a reason only where nobody asked for it
    ProcessingRefused: lambda event, order: (
        PROCESSING_TIMEOUT if event.reason == PROCESSING_TIMEOUT else "processing_refused"
    ),
    HoldExpired: lambda event, order: "hold_expired",
    CancelRequested: lambda event, order: event.reason,
    Overdue: lambda event, order: _of_timeout(order),
}
