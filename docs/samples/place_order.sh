#!/bin/sh
# Place an order, read it, cancel it and wait for its end: with curl.
# ORDERS_URL, CLIENT_ID and CLIENT_SECRET say where and as whom.
set -eu

field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p"; } # name: its text in the JSON that is piped in
send() { curl --silent --show-error --fail-with-body "$@"; } # prints the answer; a problem document ends the script
json='Content-Type: application/json'

# A token, for ten minutes or so. It names the client whose orders these are.
token=$(send "$ORDERS_URL/oauth/token" -u "$CLIENT_ID:$CLIENT_SECRET" -d grant_type=client_credentials | field access_token)
auth="Authorization: Bearer $token"

# An order. The key makes it safe to send the request again when no answer came.
key=$(date +%s)-$$
order=$(send "$ORDERS_URL/orders" -H "$auth" -H "$json" -H "Idempotency-Key: place-$key" -d '{
  "customer_id": "cust-123", "payment_method": "gateway",
  "items": [{"sku": "demo-lamp", "quantity": 1, "price": 39.90}]
}')
id=$(echo "$order" | field order_id)
echo "placed $id"

# One order, and the newest ones.
echo "$(send "$ORDERS_URL/orders/$id" -H "$auth" | field status)"
send "$ORDERS_URL/orders?limit=5" -H "$auth" >/dev/null

# Stock and money go back before it is canceled.
send -X POST "$ORDERS_URL/orders/$id/cancel" -H "$auth" -H "$json" -H "Idempotency-Key: cancel-$key" \
  -d '{"reason": "changed my mind"}' >/dev/null
for _ in $(seq 120); do
  status=$(send "$ORDERS_URL/orders/$id" -H "$auth" | field status)
  case $status in done | canceled | failed) break ;; esac
  sleep 1
done
echo "ended $status"
