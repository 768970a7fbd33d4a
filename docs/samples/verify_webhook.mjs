// Verify that a webhook comes from Orders: Standard Webhooks, with Node's own library.

import { createHmac, timingSafeEqual } from "node:crypto";

const TOLERANCE = 300; // seconds

// Returns whether a webhook was signed with the secret of the endpoint, and lately. `headers` are as Node gives them, with
// names in lower case; `body` is a Buffer.
// Verify the body as it came, before you parse it. Act once for each `webhook-id`: a webhook may come again.
export function isGenuine(secret, headers, body) {
  const id = headers["webhook-id"] ?? "";
  const seconds = headers["webhook-timestamp"] ?? "";
  if (!/^[0-9]+$/.test(seconds) || Math.abs(Date.now() / 1000 - Number(seconds)) > TOLERANCE) return false;
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const expected = createHmac("sha256", key).update(`${id}.${seconds}.`).update(body).digest();
  // While a secret is rotated there is a signature for each.
  return (headers["webhook-signature"] ?? "").split(" ").some((signature) => {
    const given = Buffer.from(signature.replace(/^v1,/, ""), "base64");
    return signature.startsWith("v1,") && given.length === expected.length && timingSafeEqual(given, expected);
  });
}
