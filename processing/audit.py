"""What must hold of stock, in the tables of processing."""

from common.audit import Rule

from .models import Hold, StockMovement

Kind = StockMovement.Kind

COUNTERS = f"""
SELECT product.sku,
       'counts ' || product.available || ' available, ' || product.held || ' held, ' || product.sold || ' sold of '
           || product.received || ' received; its movements say ' || coalesce(moved.received, 0) || ' received, '
           || coalesce(moved.held, 0) || ' held, ' || coalesce(moved.sold, 0) || ' sold'
FROM processing_product product
LEFT JOIN (
    SELECT product_id,
           sum(quantity) FILTER (WHERE kind IN ('{Kind.RECEIVED}', '{Kind.CORRECTED}')) AS received,
           coalesce(sum(quantity) FILTER (WHERE kind = '{Kind.HELD}'), 0)
               - coalesce(sum(quantity) FILTER (WHERE kind IN ('{Kind.RELEASED}', '{Kind.SOLD}')), 0) AS held,
           coalesce(sum(quantity) FILTER (WHERE kind = '{Kind.SOLD}'), 0)
               - coalesce(sum(quantity) FILTER (WHERE kind = '{Kind.RETURNED}'), 0) AS sold
    FROM processing_stockmovement GROUP BY product_id
) moved USING (product_id)
WHERE product.received <> product.available + product.held + product.sold
   OR (product.received, product.held, product.sold)
      <> (coalesce(moved.received, 0), coalesce(moved.held, 0), coalesce(moved.sold, 0))
"""  # noqa: S608

HOLDS = f"""
SELECT product.sku,
       'counts ' || product.held || ' held and ' || product.sold || ' sold; its holds, less returns, add up to '
           || coalesce(lines.held, 0) || ' and ' || coalesce(lines.sold, 0) - coalesce(returned.quantity, 0)
FROM processing_product product
LEFT JOIN (
    SELECT line.product_id,
           sum(line.quantity) FILTER (WHERE hold.status = '{Hold.Status.HELD}') AS held,
           sum(line.quantity) FILTER (WHERE hold.status = '{Hold.Status.SOLD}') AS sold
    FROM processing_holdline line JOIN processing_hold hold USING (hold_id) GROUP BY line.product_id
) lines USING (product_id)
LEFT JOIN (
    SELECT product_id, sum(quantity) AS quantity FROM processing_stockmovement
    WHERE kind = '{Kind.RETURNED}' GROUP BY product_id
) returned USING (product_id)
WHERE (product.held, product.sold)
   <> (coalesce(lines.held, 0), coalesce(lines.sold, 0) - coalesce(returned.quantity, 0))
"""  # noqa: S608

RULES = (
    Rule.of_query(
        "counters",
        "stock received = available + held + sold, and the movements add up to the counters",
        service="processing",
        query=COUNTERS,
        repair="set the counters to what the movements say, which nobody can have changed",
    ),
    Rule.of_query(
        "holds",
        "the holds of each product add up to what it counts as held and sold",
        service="processing",
        query=HOLDS,
        repair="compare the product's movements with its holds, and correct whichever the movements contradict",
    ),
)
