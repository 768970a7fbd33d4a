"""What must hold of orders, in the tables of orders."""

from common.audit import Rule

HISTORY = """
SELECT o.order_id,
       'stored as ' || o.status || ' v' || o.version || ', but its last event is '
           || coalesce(last.status || ' v' || last.version, 'missing'),
       o.order_id
FROM orders_order o
LEFT JOIN LATERAL (
    SELECT status, version FROM orders_orderevent event
    WHERE event.order_id = o.order_id ORDER BY version DESC LIMIT 1
) last ON true
WHERE (o.status, o.version) IS DISTINCT FROM (last.status, last.version)
"""

TOTALS = """
SELECT o.order_id, 'its total is ' || o.total || ', and its lines sum to ' || coalesce(lines.amount, 0), o.order_id
FROM orders_order o
LEFT JOIN (
    SELECT order_id, sum(unit_price::numeric * quantity) AS amount FROM orders_orderline GROUP BY order_id
) lines USING (order_id)
WHERE o.total <> coalesce(lines.amount, 0)
"""

READABLE_SECRETS = """
SELECT id::text, 'its signing secret is stored readable' FROM orders_webhookendpoint WHERE secret <> ''
"""

RULES = (
    Rule.of_query(
        "history",
        "the status and the version of every order are those of its last event",
        service="orders",
        query=HISTORY,
        repair="rebuild the order from its events: manage.py history ORDER_ID",
    ),
    Rule.of_query(
        "totals",
        "the total of every order is the sum of its lines",
        service="orders",
        query=TOTALS,
        repair="set the total to that of its first event and its payment; nobody can have changed its lines",
    ),
    Rule.of_query(
        "webhook_secrets",
        "the signing secrets of webhooks are stored encrypted only",
        service="orders",
        query=READABLE_SECRETS,
        repair="manage.py reencrypt_secrets, once no process of the version before runs",
    ),
)
