"""Append-only tables: the database refuses to change or delete their rows."""

from django.db import migrations


def append_only(table: str) -> migrations.RunSQL:
    """Return a migration operation that makes this table append-only. (Its owner may still TRUNCATE it.)"""
    return migrations.RunSQL(
        sql=f"""
            CREATE FUNCTION {table}_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RAISE EXCEPTION '{table} is append-only' USING ERRCODE = 'integrity_constraint_violation';
            END $$;
            CREATE TRIGGER {table}_is_append_only BEFORE UPDATE OR DELETE ON {table}
                FOR EACH ROW EXECUTE FUNCTION {table}_is_append_only();
        """,
        reverse_sql=f"""
            DROP TRIGGER {table}_is_append_only ON {table};
            DROP FUNCTION {table}_is_append_only();
        """,
    )


def erasable(table: str, *, change: str) -> migrations.RunSQL:
    """
    Return a migration operation that lets rows of an append-only table be changed so, and in no other way.

    :param change: an SQL condition on OLD and NEW, such as one under which nothing but a name has been replaced
    """
    function = """
        CREATE OR REPLACE FUNCTION {table}_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            {exception}
            RAISE EXCEPTION '{table} is append-only' USING ERRCODE = 'integrity_constraint_violation';
        END $$;
    """
    # A condition that is neither true nor false is not met.
    exception = f"IF TG_OP = 'UPDATE' THEN IF NEW IS DISTINCT FROM OLD AND ({change}) THEN RETURN NEW; END IF; END IF;"
    return migrations.RunSQL(
        sql=function.format(table=table, exception=exception),
        reverse_sql=function.format(table=table, exception=""),
    )
