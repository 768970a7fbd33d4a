-- The transactions of one order, as prepared SQL: what the database alone could do. Compare benchmarks/orders.py.
\set user random(0, 99)
\set product random(0, 49)
SELECT uuidv7()::text AS id, uuidv7()::text AS hold \gset

-- 1. processing: hold
BEGIN;
INSERT INTO processing_hold (hold_id, order_id, status, created_at, expires_at) VALUES (:hold::uuid, :id, 'held', now(), now() + interval '20 min');
INSERT INTO processing_holdline (hold_id, product_id, quantity) SELECT :hold::uuid, product_id, 1 FROM processing_product WHERE sku = 'bench-' || :product;
INSERT INTO processing_stockmovement (id, product_id, kind, quantity, hold_id, reason, actor, at) SELECT uuidv7(), product_id, 'held', 1, :hold::uuid, '', '', now() FROM processing_product WHERE sku = 'bench-' || :product;
UPDATE processing_product SET available = available - 1, held = held + 1 WHERE sku = 'bench-' || :product AND available >= 1;
COMMIT;

-- 2. orders: place
BEGIN;
INSERT INTO orders_order (order_id, principal, customer_id, user_id, user_email, description, status, total, currency, payment_method, payment_id, hold_id, fail_reason, version, fingerprint, created_at, updated_at)
    VALUES (:id, '', 'bench', 'bench-' || :user, '', '', 'reserved', 1000, 'USD', 'account', '', :hold::uuid, '', 1, md5(:id), now(), now());
INSERT INTO orders_orderline (order_id, position, product_id, sku, name, quantity, unit_price) VALUES (:id, 1, uuidv7(), 'bench', 'bench', 1, 1000);
INSERT INTO orders_orderevent (id, order_id, version, type, status, data, actor, message_id, correlation_id, at) VALUES (uuidv7(), :id, 1, 'order.created', 'reserved', '{"total": 1000}', '', '', 'bench', now());
INSERT INTO outbox_outgoingmessage (id, message_id, type, version, subject, "to", data, correlation_id, attempt, created_at, due_at, publish_attempts, refusals, last_error)
    SELECT uuidv7(), uuidv7(), type, 1, :id, 'payments', '{"order_id": 1, "amount": 1000}', 'bench', 0, now(), now(), 0, 0, '' FROM unnest(ARRAY['payments.charge', 'order.created', 'orders.overdue']) AS type;
COMMIT;

-- 3. payments: charge
BEGIN;
INSERT INTO outbox_incomingmessage (message_id, type, subject, attempt, received_at, handled_at) VALUES (uuidv7(), 'payments.charge', :id, 0, now(), now());
INSERT INTO payments_payment (order_id, method, gateway, gateway_payment_id, user_id, amount, currency, status, fail_reason, unanswered, created_at, updated_at)
    VALUES (:id, 'account', '', '', 'bench-' || :user, 1000, 'USD', 'succeeded', '', 0, now(), now());
INSERT INTO payments_entry (id, kind, source_id, target_id, amount, currency, order_id, reason, actor, request_id, at)
    SELECT uuidv7(), 'charge', mine.id, theirs.id, 1000, 'USD', :id, '', '', '', now() FROM payments_account mine, payments_account theirs WHERE mine.user_id = 'bench-' || :user AND theirs.user_id = 'revenue';
INSERT INTO outbox_outgoingmessage (id, message_id, type, version, subject, "to", data, correlation_id, attempt, created_at, due_at, publish_attempts, refusals, last_error)
    VALUES (uuidv7(), uuidv7(), 'payment.succeeded', 1, :id, 'orders', '{"order_id": 1}', 'bench', 0, now(), now(), 0, 0, '');
UPDATE payments_account SET balance = balance - 1000 WHERE user_id = 'bench-' || :user AND balance >= 1000;
COMMIT;

-- 4. orders: paid
BEGIN;
INSERT INTO outbox_incomingmessage (message_id, type, subject, attempt, received_at, handled_at) VALUES (uuidv7(), 'payment.succeeded', :id, 0, now(), now());
UPDATE orders_order SET status = 'paid', version = 3, updated_at = now() WHERE order_id = :id AND version = 1;
INSERT INTO orders_orderevent (id, order_id, version, type, status, data, actor, message_id, correlation_id, at)
    SELECT uuidv7(), :id, version, 'payment.succeeded', 'paid', '{"status": "paid"}', '', '', 'bench', now() FROM unnest(ARRAY[2, 3]) AS version;
INSERT INTO outbox_outgoingmessage (id, message_id, type, version, subject, "to", data, correlation_id, attempt, created_at, due_at, publish_attempts, refusals, last_error)
    SELECT uuidv7(), uuidv7(), type, 1, :id, 'processing', '{"order_id": 1}', 'bench', 0, now(), now(), 0, 0, '' FROM unnest(ARRAY['processing.process', 'order.payment_pending', 'order.paid']) AS type;
COMMIT;

-- 5. processing: process
BEGIN;
INSERT INTO outbox_incomingmessage (message_id, type, subject, attempt, received_at, handled_at) VALUES (uuidv7(), 'processing.process', :id, 0, now(), now());
UPDATE processing_hold SET status = 'sold', ended_at = now() WHERE hold_id = :hold::uuid AND status = 'held';
INSERT INTO processing_stockmovement (id, product_id, kind, quantity, hold_id, reason, actor, at) SELECT uuidv7(), product_id, 'sold', 1, :hold::uuid, '', '', now() FROM processing_product WHERE sku = 'bench-' || :product;
INSERT INTO processing_processing (order_id, verdict, reason, at) VALUES (:id, 'accepted', '', now());
INSERT INTO outbox_outgoingmessage (id, message_id, type, version, subject, "to", data, correlation_id, attempt, created_at, due_at, publish_attempts, refusals, last_error)
    VALUES (uuidv7(), uuidv7(), 'order.processed', 1, :id, 'orders', '{"order_id": 1}', 'bench', 0, now(), now(), 0, 0, '');
UPDATE processing_product SET held = held - 1, sold = sold + 1 WHERE sku = 'bench-' || :product;
COMMIT;

-- 6. orders: done
BEGIN;
INSERT INTO outbox_incomingmessage (message_id, type, subject, attempt, received_at, handled_at) VALUES (uuidv7(), 'order.processed', :id, 0, now(), now());
UPDATE orders_order SET status = 'done', version = 4, updated_at = now() WHERE order_id = :id AND version = 3;
INSERT INTO orders_orderevent (id, order_id, version, type, status, data, actor, message_id, correlation_id, at) VALUES (uuidv7(), :id, 4, 'order.processed', 'done', '{"status": "done"}', '', '', 'bench', now());
INSERT INTO outbox_outgoingmessage (id, message_id, type, version, subject, "to", data, correlation_id, attempt, created_at, due_at, publish_attempts, refusals, last_error)
    VALUES (uuidv7(), uuidv7(), 'order.done', 1, :id, 'events', '{"order_id": 1}', 'bench', 0, now(), now(), 0, 0, '');
COMMIT;

-- 7., 8., 9. the relay, once a service: claim, stamp
BEGIN;
SELECT * FROM outbox_outgoingmessage WHERE subject = :id AND "to" = 'payments' AND published_at IS NULL ORDER BY due_at, id LIMIT 200 FOR UPDATE SKIP LOCKED;
UPDATE outbox_outgoingmessage SET published_at = now() WHERE subject = :id AND "to" = 'payments';
COMMIT;
BEGIN;
SELECT * FROM outbox_outgoingmessage WHERE subject = :id AND "to" = 'processing' AND published_at IS NULL ORDER BY due_at, id LIMIT 200 FOR UPDATE SKIP LOCKED;
UPDATE outbox_outgoingmessage SET published_at = now() WHERE subject = :id AND "to" = 'processing';
COMMIT;
BEGIN;
SELECT * FROM outbox_outgoingmessage WHERE subject = :id AND "to" IN ('orders', 'events') AND published_at IS NULL ORDER BY due_at, id LIMIT 200 FOR UPDATE SKIP LOCKED;
UPDATE outbox_outgoingmessage SET published_at = now() WHERE subject = :id AND "to" IN ('orders', 'events');
COMMIT;
