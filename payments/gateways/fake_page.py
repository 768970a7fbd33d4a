"""The page of the fake payment service on which a payer pays or declines."""

from html import escape

from common import money

from .fake_payments import Payment

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 24rem; margin: 4rem auto; padding: 0 1rem }}
button {{ font: inherit; padding: .5rem 1.5rem; margin-right: .5rem }}
</style>
<h1>{title}</h1>
<p>Order <b>{order}</b>. This is a fake payment service: no money is moved.</p>
{form}
</html>
"""
FORM = """<form method="post">
<button name="choice" value="pay">Pay</button>
<button name="choice" value="decline">Decline</button>
</form>"""
OUTCOMES = {"pay": "success", "decline": "failed"}


def html(payment: Payment) -> str:
    """Return the page of a payment: with its choice while it waits for one, and then with what became of it."""
    minor = money.minor_units(payment.amount, currency=payment.currency)
    state = f"<p>The payment is <b>{escape(payment.status)}</b>. You can close this page.</p>"
    return PAGE.format(
        title=f"Pay {escape(money.text(minor, currency=payment.currency))}",
        order=escape(payment.order_id),
        form=FORM if payment.waits_for_payer else state,
    )
