from django.db import migrations

# django-axes is gone, and its tables held what people typed: whoever mistook a field left a password readable there.
# The tables stay for processes of the version before, which may go on writing to them for a while: a trigger keeps what
# was typed out of them. They are dropped one version later.
PURGE = """
DO $$
DECLARE attempts text;
BEGIN
    FOREACH attempts IN ARRAY ARRAY['axes_accessattempt', 'axes_accessfailurelog', 'axes_accesslog'] LOOP
        IF to_regclass(attempts) IS NOT NULL THEN
            EXECUTE format('TRUNCATE %I CASCADE', attempts);
        END IF;
    END LOOP;
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
        ("orders_project", "0005_approval_of_any_action"),
        ("sessions", "0001_initial"),
    ]

    operations = [
        migrations.RunSQL(PURGE, migrations.RunSQL.noop, elidable=True),
        # Sessions lasted two weeks: everybody logs in once more.
        migrations.RunSQL("DELETE FROM django_session", migrations.RunSQL.noop, elidable=True),
    ]
