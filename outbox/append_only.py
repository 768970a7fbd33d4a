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


def erasable(table: str, *, change: str, gone: str = "") -> migrations.RunSQL:
    """
    Return a migration operation that lets rows of an append-only table be changed so, and in no other way.

    :param change: an SQL condition on OLD and NEW, such as one under which nothing but a name has been replaced
    :param gone: an SQL condition on OLD under which a row may be deleted, because it is kept elsewhere; the table must
        have been `erasable` by the same change before
    """
    function = """
        CREATE OR REPLACE FUNCTION {table}_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            {exceptions}
            RAISE EXCEPTION '{table} is append-only' USING ERRCODE = 'integrity_constraint_violation';
        END $$;
    """
    # A condition that is neither true nor false is not met.
    changed = f"IF TG_OP = 'UPDATE' THEN IF NEW IS DISTINCT FROM OLD AND ({change}) THEN RETURN NEW; END IF; END IF;"
    deleted = f"IF TG_OP = 'DELETE' THEN IF {gone} THEN RETURN OLD; END IF; END IF;" if gone else ""
    return migrations.RunSQL(
        sql=function.format(table=table, exceptions=f"{changed} {deleted}"),
        reverse_sql=function.format(table=table, exceptions=changed if gone else ""),
    )


def kept(table: str, *, until: str) -> migrations.RunSQL:
    """
    Return a migration operation that lets rows of a table be deleted under this condition only.

    :param until: an SQL condition on OLD, such as that the row is kept elsewhere
    """
    return migrations.RunSQL(
        sql=f"""
            CREATE FUNCTION {table}_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF {until} THEN RETURN OLD; END IF;
                RAISE EXCEPTION 'rows of {table} are not deleted' USING ERRCODE = 'integrity_constraint_violation';
            END $$;
            CREATE TRIGGER {table}_is_kept BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_is_kept();
        """,
        reverse_sql=f"""
            DROP TRIGGER {table}_is_kept ON {table};
            DROP FUNCTION {table}_is_kept();
        """,
    )
