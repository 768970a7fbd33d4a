"""
What the codes of the system mean, in a sentence each: the catalogue for pages, commands and documents.

A code is an id that clients and reports rely on; the sentence is what a person reads beside it.
"""

from typing import Any

from django.utils.translation import gettext_lazy as _

# Why an order was turned back, why a payment or a refund failed or was refused, why a webhook of a gateway was kept,
# why the processor refused, and why a message is a dead letter.
REASONS: dict[str, Any] = {
    "canceled_by_customer": _("The customer or the client has canceled it."),
    "canceled_by_operator": _("An operator has canceled it."),
    "payment_timeout": _("It was not paid in time."),
    "payment_voided": _("Its payment was canceled at the gateway."),
    "authorization_expired": _("The reserved money was not taken in time."),
    "hold_expired": _("Its stock was held for too long without a payment."),
    "processing_refused": _("The processor has refused the order."),
    "processing_timeout": _("It was not processed in time."),
    "insufficient_funds": _("There is not enough money."),
    "no_account": _("The customer has no account in this currency."),
    "currency_mismatch": _("The currency is another one."),
    "capture_refused": _("The gateway has refused to take the reserved money."),
    "no_such_payment": _("The gateway knows no such payment."),
    "refund_failed": _("The gateway could not make the refund."),
    "canceled": _("It was canceled at the gateway."),
    "not_captured": _("No money has been taken that could go back."),
    "refund_exceeds_captured": _("More would go back than was taken."),
    "dispute_exceeds_captured": _("More is disputed than was taken."),
    "capture_exceeds_authorized": _("More would be taken than is reserved."),
    "already_succeeded": _("It has already succeeded at the gateway."),
    "payment_declined": _("The payment was declined."),
    "amount_mismatch": _("The amount is another one."),
    "capture_mismatch": _("The gateway has taken another amount than asked for."),
    "order_mismatch": _("It names another order than the payment belongs to."),
    "payment_mismatch": _("It names another payment of this order."),
    "reference_mismatch": _("The gateway answers about another order."),
    "contradicts_the_payment": _("It contradicts what the gateway has said before."),
    "second_payment": _("The order was paid twice: this money goes back automatically."),
    "return_of_stray_money": _("It confirms the return of money that belonged to no order."),
    "unknown_order": _("No order is known that it could belong to."),
    "unknown_payment": _("No payment is known that it could belong to."),
    "not_about_a_payment": _("It is not about a payment."),
    "another_installation": _("It belongs to another installation that uses the same gateway."),
    "malformed_webhook": _("It cannot be read."),
    "money_is_not_stray": _("The money belongs to an order, or has gone back already."),
    "hold_lost": _("Its stock is no longer held."),
    "bad_luck": _("The processor has refused it at random, as the setting of this system says."),
    "not_sold": _("The stock was not sold, so it cannot come back."),
    "more_than_sold": _("More would come back than was sold."),
    "failed": _("Handling it failed again and again with an error."),
    "killed_its_worker": _("The worker died while handling it, again and again."),
    "malformed": _("The message is damaged: it cannot be read."),
    "undecodable": _("It is not a message of this system."),
    "unknown_type": _("No service here handles messages of this type."),
    "unknown_version": _("No process here knows this version of the message."),
    "too_large": _("It is larger than a message may be."),
    "past_dedupe_horizon": _("It is so old that nobody can tell whether it was handled before."),
    "forged_type": _("Its sender may not send messages of this type."),
    "rejected": _("A worker has rejected it; its log says why."),
    "expired": _("The broker has dropped it because it waited too long."),
    "maxlen": _("The broker has dropped it because the queue was full."),
    "unpublishable": _("The broker has refused it again and again."),
    "second_person_needed": _("The amount needs the approval of a second person."),
    "paid_already": _("It says that the payment failed, but the order is paid."),
    "refund_not_asked_for": _("It tells of a refund that the order has not asked for."),
    "not_being_processed": _("It is about processing, but the order is not being processed."),
    "processed_already": _("It says that processing was refused, but the order is done."),
    "release_not_asked_for": _("It says that stock came back, but the order has not given any back."),
    "holds_no_stock": _("It is about stock, but the order holds none."),
    "nothing_collected": _("It is about a payment, but the order is paid by invoice."),
}

# What gateways and banks say of themselves. There are more: a code that is not here is shown as it is.
OF_GATEWAYS: dict[str, Any] = {
    "card_declined": _("The bank has declined the card."),
    "generic_decline": _("The bank has declined the card without saying why."),
    "do_not_honor": _("The bank has declined the card without saying why."),
    "expired_card": _("The card has expired."),
    "incorrect_cvc": _("The security code of the card is wrong."),
    "incorrect_number": _("The number of the card is wrong."),
    "lost_card": _("The card was reported lost."),
    "stolen_card": _("The card was reported stolen."),
    "fraudulent": _("The gateway suspects fraud."),
    "processing_error": _("The bank could not process the card: it may work later."),
    "authentication_required": _("The bank asks the payer to confirm the payment."),
    "payment_intent_authentication_failure": _("The payer has not confirmed the payment at the bank."),
    "balance_insufficient": _("The balance at the gateway is too low to return the money."),
    "charge_already_refunded": _("The money has already gone back."),
    "charge_disputed": _("The payment is disputed: the bank decides about the money."),
    "account_closed": _("The account of the payer is closed: the money did not arrive."),
    "lost_or_stolen_card": _("The card was lost or stolen: the money did not arrive."),
    "expired_or_canceled_card": _("The card has expired or was canceled: the money did not arrive."),
    "return_refused": _("The gateway does not return this money."),
    "not_paid": _("The gateway says that it was not paid."),
    "not_authorized": _("No money is reserved at the gateway."),
}

STATUSES: dict[str, dict[str, Any]] = {
    "orders.order": {
        "pending": _("The order is accepted; its payment has been asked for."),
        "reserved": _("Its stock is held; its payment has been asked for."),
        "payment_pending": _("The gateway waits for the payer."),
        "authorized": _("The money is reserved and has not been taken yet."),
        "capturing": _("The reserved money is being taken."),
        "paid": _("The money is in; the order is being processed."),
        "voiding": _("The order is being canceled: its payment is canceled first."),
        "refunding": _("The order is being canceled: its stock and money go back."),
        "releasing": _("The order is being canceled: its stock goes back."),
        "done": _("The order is paid and processed."),
        "canceled": _("The order was canceled; nothing of it is kept."),
        "failed": _("The order could not be carried out; nothing of it is kept."),
    },
    "payments.payment": {
        "requested": _("The gateway is being asked for it."),
        "pending": _("The gateway waits for the payer."),
        "authorized": _("The money is reserved and has not been taken yet."),
        "capturing": _("The reserved money is being taken."),
        "succeeded": _("The money is in."),
        "failed": _("No money came in."),
        "voiding": _("The gateway is being asked to cancel it."),
        "voided": _("It was canceled before any money came in."),
        "refunding": _("The gateway is being asked to return the money."),
        "refunded": _("The money has gone back."),
        "void_refused": _("The gateway refuses to cancel it: a person has to decide."),
        "refund_refused": _("The gateway refuses to return the money: a person has to decide."),
    },
    "payments.refund": {
        "requested": _("The gateway is being asked to return the money."),
        "pending": _("The gateway has accepted it; the money is on its way."),
        "succeeded": _("The money has gone back."),
        "failed": _("The customer has not got the money."),
    },
    "payments.dispute": {
        "opened": _("The payer's bank wants the money back: answer at the gateway."),
        "won": _("The bank has decided for us: the money stays."),
        "lost": _("The bank has decided for the payer: the money is gone."),
    },
    "payments.webhookreceipt": {
        "received": _("It is stored and will be handled automatically."),
        "applied": _("It has been handled."),
        "unmatched": _("Its payment is not known yet; it is tried again when it is."),
        "quarantined": _("It contradicts what is known: a person has to decide."),
        "refunded": _("Its money has gone back."),
        "discarded": _("It was decided that it has no effect."),
    },
    "outbox.deadletter": {
        "dead": _("It was not handled, and waits for a person."),
        "replayed": _("It was sent again."),
        "discarded": _("It was decided that it is not needed."),
    },
    "processing.hold": {
        "held": _("The stock is kept for the order."),
        "sold": _("The stock has left with the order."),
        "released": _("The stock is for sale again."),
    },
    "processing.processing": {
        "accepted": _("The processor has accepted the order."),
        "refused": _("The processor has refused the order."),
        "withdrawn": _("The order was canceled before it was processed."),
    },
}


def in_words(code: str) -> str:
    """The sentence for a reason, or the reason itself if it is none of the known ones."""
    return str(REASONS.get(code) or OF_GATEWAYS.get(code) or code)


def explained(code: str) -> str:
    """A reason with its sentence: `card_declined: The bank has declined the card.`"""
    words = in_words(code)
    return code if words == code else f"{code}: {words}"


def of_status(model: str, status: str) -> str:
    """The sentence for a status of a model such as `orders.order`; empty if there is none."""
    return str(STATUSES.get(model, {}).get(status, ""))
