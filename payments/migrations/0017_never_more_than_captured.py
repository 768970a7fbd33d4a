from django.db import migrations

# Whatever code books a refund: under a lock of the order, so that two that are booked at once see each other.
CREATE = """
CREATE FUNCTION payments_never_more_than_captured() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kept bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('money of ' || NEW.order_id, 0));
    SELECT coalesce(sum(CASE
        WHEN kind IN ('charge', 'refund_failed') THEN amount
        WHEN kind IN ('refund', 'dispute_lost') THEN -amount
        ELSE 0
    END), 0) INTO kept FROM payments_entry WHERE order_id = NEW.order_id;
    IF kept < 0 THEN
        RAISE EXCEPTION 'more would go back for order % than was captured', NEW.order_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'never_more_than_captured', TABLE = 'payments_entry';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER never_more_than_captured AFTER INSERT ON payments_entry
FOR EACH ROW WHEN (NEW.kind IN ('refund', 'dispute_lost'))
EXECUTE FUNCTION payments_never_more_than_captured();
"""
DROP = """
DROP TRIGGER never_more_than_captured ON payments_entry;
DROP FUNCTION payments_never_more_than_captured();
"""


class Migration(migrations.Migration):
    """The database refuses to give back more than was captured."""

    dependencies = [
        ("payments", "0016_accounts_per_currency"),
    ]

    operations = [migrations.RunSQL(CREATE, DROP)]
