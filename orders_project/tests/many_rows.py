"""
Rows by the million: what every service would hold after so many orders. Made by the databases themselves.

What is rare (a status, a type, a method of payment) is among the oldest: whoever walks back from now finds it last.
"""

import re
from collections.abc import Container, Iterable

from django.db import connections

INTO = re.compile(r"INSERT INTO (\w+)")
UUID7 = """
CREATE FUNCTION pg_temp.uuid7(at timestamptz, n bigint) RETURNS uuid IMMUTABLE LANGUAGE sql AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(hash, 1, 3) || '8'
            || substr(hash, 4, 15))::uuid FROM md5(n::text) AS hash
$$
"""
ROWS = """
CREATE TEMPORARY TABLE crowd AS
SELECT n, CASE WHEN %(long_ids)s THEN id::text ELSE 'o' || n END AS order_id, id, at,
    n > %(orders)s - 30 AS rare, n > %(orders)s / 2 AS old, n <= %(unfinished)s AS fresh
FROM (SELECT n, at, pg_temp.uuid7(at, n) AS id FROM generate_series(%(orders)s, 1, -1) AS n,
    LATERAL (SELECT now() - n / 7.0 * interval '1 second' AS at) AS times OFFSET 0) numbered
"""

MAILBOX = (
    """
    INSERT INTO outbox_outgoingmessage (id, message_id, type, version, subject, "to", data, correlation_id, attempt,
        created_at, due_at, publish_attempts, refusals, last_error, published_at)
    SELECT id, id, CASE WHEN rare THEN 'orders.overdue' ELSE 'order.done' END, 1, order_id, 'events', '{}', '', 0, at,
        at, 0, 0, '', CASE WHEN fresh THEN NULL ELSE at END
    FROM crowd
    """,
    """
    INSERT INTO outbox_incomingmessage (message_id, type, subject, attempt, received_at, handled_at)
    SELECT id, CASE WHEN rare THEN 'orders.overdue' ELSE 'payment.succeeded' END, order_id, 0, at, at FROM crowd
    """,
    """
    INSERT INTO outbox_deadletter (id, status, origin, queue, message_id, type, subject, reason, error, traceback,
        fingerprint, attempts, worker, headers, body, replays, died_at, resolved_at)
    SELECT id, CASE WHEN rare THEN 'replayed' WHEN n % 100 = 0 THEN 'dead' ELSE 'discarded' END,
        CASE WHEN rare THEN 'relay' ELSE 'consumer' END, 'orders', id,
        CASE WHEN rare THEN 'orders.overdue' ELSE 'payment.failed' END, order_id, 'OutOfTurn', 'wrong', 'Traceback',
        'f' || n % 30, 6, 'w', '{}', '{}', 0, at, at
    FROM crowd WHERE n % 10 = 0 OR rare
    """,
)
FILL: dict[str, tuple[str, ...]] = {
    "orders": (
        """
        INSERT INTO orders_order (order_id, principal, customer_id, user_id, user_email, description, status, total,
            currency, payment_method, payment_id, hold_id, fail_reason, version, fingerprint, created_at, updated_at)
        SELECT order_id, '', 'c' || n % 50, CASE WHEN old AND n % 19 = 0 THEN 'gone' ELSE 'u' || n % 5000 END,
            CASE WHEN n % 10 = 0 THEN 'e' || n % 1000 || '@example.com' ELSE '' END, '',
            CASE WHEN rare THEN 'failed' WHEN fresh THEN 'paid' WHEN n % 3 = 0 THEN 'canceled' ELSE 'done' END, 100,
            'USD', CASE WHEN rare THEN 'gateway' ELSE 'account' END, '', NULL, '', 4, '', at, at
        FROM crowd
        """,
        """
        INSERT INTO orders_orderline (order_id, position, product_id, sku, name, quantity, unit_price)
        SELECT order_id, 1, NULL, 'lamp', 'A lamp', 1, 100 FROM crowd
        """,
        """
        INSERT INTO orders_orderevent (id, order_id, version, type, status, data, actor, message_id, correlation_id, at)
        SELECT id, order_id, 1, 'order.created', CASE WHEN rare THEN 'failed' ELSE 'done' END,
            CASE WHEN n % 10 = 0 THEN jsonb_build_object('user_email', 'e' || n % 1000 || '@example.com') ELSE '{}' END,
            '', '', '', at
        FROM crowd
        """,
        """
        INSERT INTO orders_idempotencykey (principal, key, fingerprint, answer_status, answer, answer_headers,
            created_at, order_id)
        SELECT '', 'k' || n, '', 201, '{}', '{}', at, order_id FROM crowd
        """,
        """
        INSERT INTO orders_webhookendpoint (id, url, events, is_active, disabled_because, created_by, created_at)
        SELECT id, 'https://' || n || '.example.com', '[]', n <> 1, '', '', at FROM crowd WHERE n <= 3
        """,
        """
        INSERT INTO orders_webhookdelivery (id, event_id, type, order_id, body, status, attempts, tries, created_at,
            endpoint_id)
        SELECT crowd.id, crowd.id, 'order.done', order_id, '{}',
            CASE WHEN rare THEN 'failed' WHEN fresh THEN 'pending' ELSE 'delivered' END, 1, 1, at, endpoint.id
        FROM crowd JOIN orders_webhookendpoint endpoint
            ON endpoint.url = 'https://' || CASE WHEN rare THEN 3 ELSE 1 + n % 2 END || '.example.com'
        """,
    ),
    "payments": (
        """
        INSERT INTO payments_account (id, kind, user_id, principal, currency, balance, created_at)
        SELECT id, 'customer', 'u' || n, '', 'USD', 0, at FROM crowd WHERE n % 5 = 0
        """,
        """
        INSERT INTO payments_account (id, kind, user_id, principal, currency, balance, created_at)
        SELECT pg_temp.uuid7('2020-01-01', n), 'system', (ARRAY['cash', 'revenue'])[n], '', 'USD', 0, '2020-01-01'
        FROM generate_series(1, 2) AS n ON CONFLICT DO NOTHING
        """,
        """
        INSERT INTO payments_payment (order_id, method, gateway, gateway_payment_id, user_id, amount, currency, status,
            fail_reason, unanswered, ask_at, created_at, updated_at)
        SELECT order_id, CASE WHEN rare THEN 'gateway' ELSE 'account' END, CASE WHEN rare THEN 'fake' ELSE '' END,
            'p' || n, 'u' || n % 5000, 100, 'USD',
            CASE WHEN rare THEN 'refunded' WHEN fresh THEN 'pending' ELSE 'succeeded' END, '', 0, NULL, at, at
        FROM crowd
        """,
        """
        INSERT INTO payments_entry (id, kind, source_id, target_id, amount, currency, order_id, reason, actor,
            request_id, at)
        SELECT crowd.id, CASE WHEN rare THEN 'deposit' ELSE 'charge' END,
            CASE WHEN rare THEN cash.id ELSE customer.id END, CASE WHEN rare THEN customer.id ELSE revenue.id END, 100,
            'USD', CASE WHEN rare THEN '' ELSE order_id END, '', '', '', at
        FROM crowd
        JOIN payments_account customer ON customer.user_id = 'u' || n / 5 * 5 AND customer.kind = 'customer'
        JOIN payments_account cash ON cash.user_id = 'cash' AND cash.kind = 'system'
        JOIN payments_account revenue ON revenue.user_id = 'revenue' AND revenue.kind = 'system'
        """,
        """
        INSERT INTO payments_refund (refund_id, payment_id, amount, currency, status, reason, fail_reason, gateway,
            gateway_refund_id, is_foreign, unanswered, broken, created_at, updated_at)
        SELECT id, order_id, 10, 'USD', CASE WHEN rare THEN 'failed' WHEN fresh THEN 'pending' ELSE 'succeeded' END, '',
            '', 'fake', 'r' || n, rare, 0, 0, at, at
        FROM crowd
        """,
        """
        INSERT INTO payments_dispute (id, payment_id, gateway, dispute_id, amount, currency, status, reason, respond_by,
            created_at, updated_at)
        SELECT id, order_id, 'fake', 'd' || n, 10, 'USD',
            CASE WHEN rare THEN 'lost' WHEN fresh THEN 'opened' ELSE 'won' END, '', at + interval '7 days', at, at
        FROM crowd
        """,
        """
        INSERT INTO payments_idempotencykey (principal, key, fingerprint, answer_status, answer, answer_headers,
            created_at)
        SELECT '', 'k' || n, '', 201, '{}', '{}', at FROM crowd
        """,
        """
        INSERT INTO payments_webhookreceipt (id, gateway, webhook_id, status, reason, headers, body, says, amount,
            currency, payment_id, order_id, decided_by, received_at, handled_at)
        SELECT id, 'fake', 'w' || n, CASE WHEN rare THEN 'discarded' WHEN fresh THEN 'quarantined' ELSE 'applied' END,
            '', '{}', '{}', 'succeeded', 100, 'USD', 'p' || n, order_id, '', at, at
        FROM crowd
        """,
        """
        INSERT INTO payments_gatewaytransaction (id, gateway, transaction_id, kind, amount, fee, currency, fee_currency,
            at, payment_id, source_id, reference, order_id, description)
        SELECT id, 'fake', 't' || n, CASE WHEN rare THEN 'refund' ELSE 'charge' END, 100, 3, 'USD', 'USD', at, 'p' || n,
            'p' || n, order_id, order_id, ''
        FROM crowd
        """,
        """
        INSERT INTO payments_difference (id, kind, status, gateway, transaction_id, what, payment_id, order_id,
            amount_there, currency_there, currency_here, at, found_at, seen_at, closed_by, closed_why)
        SELECT id, CASE WHEN rare THEN 'unknown' ELSE 'missing_here' END, CASE WHEN rare THEN 'accepted'
            WHEN fresh THEN 'open' ELSE 'repaired' END, 'fake', 't' || n, 'charge', 'p' || n, order_id, 100, 'USD', '',
            at, at, at, '', ''
        FROM crowd
        """,
    ),
    "processing": (
        """
        INSERT INTO processing_product (product_id, sku, name, price, currency, available, held, sold, received,
            is_active, created_at, updated_at)
        SELECT id, 's' || n, 'Lamp ' || n, 100, 'USD', CASE WHEN n = 1 THEN 0 ELSE 1000 END, 0, 0,
            CASE WHEN n = 1 THEN 0 ELSE 1000 END, true, at, at
        FROM crowd WHERE n <= 1000
        """,
        """
        INSERT INTO processing_hold (hold_id, order_id, status, created_at, expires_at, ended_at)
        SELECT id, order_id, CASE WHEN rare THEN 'released' WHEN fresh THEN 'held' ELSE 'sold' END, at, at,
            CASE WHEN fresh THEN NULL ELSE at END
        FROM crowd
        """,
        """
        INSERT INTO processing_holdline (hold_id, product_id, quantity)
        SELECT crowd.id, product.product_id, 1 FROM crowd
        JOIN processing_product product ON product.sku = 's' || CASE WHEN n % 2 = 0 THEN 1 ELSE 1 + n % 1000 END
        """,
        """
        INSERT INTO processing_stockmovement (id, product_id, kind, quantity, hold_id, reason, actor, at)
        SELECT crowd.id, product.product_id,
            CASE WHEN rare THEN 'received' WHEN n % 3 = 0 THEN 'held' ELSE 'sold' END, 1, crowd.id, '', '', at
        FROM crowd JOIN processing_product product
            ON product.sku = 's' || CASE WHEN n % 2 = 0 OR rare THEN 1 ELSE 1 + n % 1000 END
        """,
        """
        INSERT INTO processing_processing (order_id, verdict, reason, at)
        SELECT order_id, CASE WHEN rare THEN 'refused' ELSE 'accepted' END, '', at FROM crowd
        """,
    ),
}


def gather(
    orders: int,
    *,
    services: Iterable[str] = FILL,
    tables: Container[str] | None = None,
    unfinished: int = 40,
    long_ids: bool = False,
) -> None:
    """
    Fill the databases of services, or these tables of them, with what so many orders would have left there.

    :param unfinished: how many of them, the newest, have not come to their end
    :param long_ids: with ids of orders as the system makes them, instead of `o1`, `o2` …
    """
    for service in services:
        statements = {statement: INTO.findall(statement)[0] for statement in (*FILL[service], *MAILBOX)}
        filled = {sql: table for sql, table in statements.items() if tables is None or table in tables}
        if not filled:
            continue
        with connections[service].cursor() as cursor:
            cursor.execute(UUID7)
            cursor.execute(ROWS, {"orders": orders, "unfinished": unfinished, "long_ids": long_ids})
            for statement in filled:
                cursor.execute(statement)
            cursor.execute("DROP TABLE crowd")
            cursor.execute("DROP FUNCTION pg_temp.uuid7")
            # Of these tables only: of all would lock the server's own, which the next service's transaction waits for.
            cursor.execute(f"ANALYZE {', '.join(filled.values())}")
