from django.db import migrations

# django-axes is gone, and its tables held what people typed: whoever mistook a field left a password readable there.
# The tables stay for processes of the version before, which may go on writing to them for a while: a trigger keeps what
# was typed out of them. They are dropped one version later.
STORE_NO_BODIES = """
DO $$
BEGIN
    IF to_regclass('axes_accessattempt') IS NOT NULL THEN
        CREATE OR REPLACE FUNCTION axes_store_no_bodies() RETURNS trigger LANGUAGE plpgsql AS $body$
            BEGIN
                NEW.get_data := '';
                NEW.post_data := '';
                RETURN NEW;
            END
        $body$;
        CREATE OR REPLACE TRIGGER axes_store_no_bodies BEFORE INSERT OR UPDATE ON axes_accessattempt
            FOR EACH ROW EXECUTE FUNCTION axes_store_no_bodies();
    END IF;
END $$
"""


class Migration(migrations.Migration):
    dependencies = [
        ("orders_project", "0006_fingerprints"),
    ]

    operations = [migrations.RunSQL(STORE_NO_BODIES, migrations.RunSQL.noop, elidable=True)]
