from django.db import migrations, models

# Owned by the column, so that it goes with it. Whoever may add orders may draw numbers: at once, and not from the next
# `manage.py grant` on, because processes of the release before are adding orders meanwhile.
SEQUENCE = """
CREATE SEQUENCE orders_order_number START 1001 OWNED BY orders_order.number;
DO $$
    DECLARE may_insert text;
    BEGIN
        FOR may_insert IN
            SELECT DISTINCT acl.grantee::regrole::text
            FROM pg_class, LATERAL aclexplode(relacl) AS acl
            WHERE pg_class.oid = 'orders_order'::regclass AND acl.privilege_type = 'INSERT' AND acl.grantee <> 0
        LOOP
            EXECUTE format('GRANT USAGE ON SEQUENCE orders_order_number TO %s', may_insert);
        END LOOP;
    END
$$;
"""


class Migration(migrations.Migration):
    """A short number for people, which the database gives to each order."""

    dependencies = [
        ("orders", "0021_endpoints_of_clients_indexed"),
    ]

    operations = [
        # Without a default, or every row would be written anew while nobody can use the table.
        migrations.AddField(
            model_name="order",
            name="number",
            field=models.BigIntegerField(editable=False, null=True, verbose_name="number"),
        ),
        migrations.RunSQL(SEQUENCE, "DROP SEQUENCE orders_order_number"),
        migrations.AlterField(
            model_name="order",
            name="number",
            field=models.BigIntegerField(
                db_default=models.Func(models.Value("orders_order_number"), function="nextval"),
                editable=False,
                null=True,
                verbose_name="number",
            ),
        ),
    ]
