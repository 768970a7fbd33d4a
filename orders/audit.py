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
WHERE o.archived IS NULL AND (o.status, o.version) IS DISTINCT FROM (last.status, last.version)
"""

# What is detached cannot be looked at. The events of a document are in their order, and it is all that there is.
ARCHIVED = """
WITH attached AS (
    SELECT to_date(right(relname, 7), 'YYYY_MM') AS month FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'orders_archive'::regclass
)
SELECT coalesce(o.order_id, kept.order_id),
       CASE WHEN o.order_id IS NULL THEN 'its history is in the archive of ' || kept.month || ', where nobody looks'
            WHEN EXISTS (SELECT FROM orders_orderevent event WHERE event.order_id = o.order_id)
                THEN 'it has events besides those in the archive'
            ELSE 'stored as ' || o.status || ' v' || o.version || ', but its last event in the archive is '
                || coalesce((last ->> 'status') || ' v' || (last ->> 'version'), 'missing') END,
       coalesce(o.order_id, kept.order_id)
FROM (SELECT order_id, month, document #> '{orders_orderevent,-1}' AS last FROM orders_archive) kept
FULL JOIN (
    SELECT order_id, archived, status, version FROM orders_order WHERE archived IN (SELECT month FROM attached)
) o
    ON o.order_id = kept.order_id AND o.archived = kept.month
WHERE o.status IS DISTINCT FROM last ->> 'status' OR o.version IS DISTINCT FROM (last ->> 'version')::int
    OR EXISTS (SELECT FROM orders_orderevent event WHERE event.order_id = o.order_id)
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
        "archive",
        "the same holds of every order whose history is archived, and all of it is there",
        service="orders",
        query=ARCHIVED,
        repair="bring the history back: manage.py archive_orders --bring-back ORDER_ID; then see manage.py history",
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
