// Place an order, read it, cancel it and wait for its end: with the fetch of Node.js 18 or newer.
// ORDERS_URL, CLIENT_ID and CLIENT_SECRET say where and as whom.

import { randomUUID } from "node:crypto";

const { ORDERS_URL, CLIENT_ID, CLIENT_SECRET } = process.env;
let authorization = "Basic " + Buffer.from(`${CLIENT_ID}:${CLIENT_SECRET}`).toString("base64");

// Sends a request and returns the answer; a problem document is thrown.
async function send(method, path, { json, form, key } = {}) {
  const headers = { authorization };
  if (json) headers["content-type"] = "application/json";
  if (key) headers["idempotency-key"] = key;
  const body = json ? JSON.stringify(json) : form && new URLSearchParams(form);
  const answer = await fetch(ORDERS_URL + path, { method, headers, body, signal: AbortSignal.timeout(30_000) });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

// A token, for ten minutes or so. It names the client whose orders these are.
const token = await send("POST", "/oauth/token", { form: { grant_type: "client_credentials" } });
authorization = `Bearer ${token.access_token}`;

// An order. The key makes it safe to send the request again when no answer came.
const key = randomUUID();
const items = [{ sku: "demo-lamp", quantity: 1, price: 39.9 }];
let order = await send("POST", "/orders", { json: { customer_id: "cust-123", payment_method: "gateway", items }, key: `place-${key}` });
const path = `/orders/${order.order_id}`;
console.log(`placed ${order.order_id}`);

// One order, and the newest ones.
console.log((await send("GET", path)).status);
const page = await send("GET", "/orders?limit=5");
if (!page.results.some((each) => each.order_id === order.order_id)) throw new Error("the order is not listed");

// Stock and money go back before it is canceled.
order = await send("POST", `${path}/cancel`, { json: { reason: "changed my mind" }, key: `cancel-${key}` });
for (let times = 0; times < 120 && !["done", "canceled", "failed"].includes(order.status); times++) {
  await new Promise((resolve) => setTimeout(resolve, 1000));
  order = await send("GET", path);
}
console.log(`ended ${order.status}`);
