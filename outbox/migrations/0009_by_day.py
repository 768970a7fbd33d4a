from django.db import migrations

# The smallest UUIDv7 of a time, as `floor7` in ids.py.
FIRST_ID = """
CREATE FUNCTION outbox_first_id(at timestamptz) RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid
$$;
"""

# The partitions of a table that have bounds, so all but the rest. What begins with the smallest id has no first one.
PARTS = """
CREATE FUNCTION outbox_parts(of text) RETURNS TABLE (part text, first uuid, bound uuid) LANGUAGE sql STABLE
    SET search_path = public, pg_temp AS $$
    SELECT relname::text, (regexp_match(bounds, 'FROM \\(''([^'']+)'''))[1]::uuid,
        (regexp_match(bounds, 'TO \\(''([^'']+)'''))[1]::uuid
    FROM pg_inherits JOIN pg_class ON oid = inhrelid, pg_get_expr(relpartbound, oid) AS bounds
    WHERE inhparent = to_regclass(of) AND bounds <> 'DEFAULT'
$$;
"""

# What tells about a row by its table: its key, and when it was published or handled.
KNOWN = """
    key text := CASE of WHEN 'outbox_outgoingmessage' THEN 'id' WHEN 'outbox_incomingmessage' THEN 'message_id' END;
    stamp text := CASE of WHEN 'outbox_outgoingmessage' THEN 'published_at' ELSE 'handled_at' END;
"""

# Processes may not create tables: this creates those of the days from tomorrow on, and nothing else. A day is made
# apart and attached then. Rows that are there already, of a host whose clock is ahead, move to it. A promise that a
# conversion has left behind, which died, is taken back: see by_day_ddl.py.
MAKE = f"""
CREATE FUNCTION outbox_make_days(of text, until date) RETURNS integer LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    {KNOWN}
    rest text := of || '_rest';
    today date := (now() AT TIME ZONE 'UTC')::date;
    day date;
    name text;
    low uuid;
    high uuid;
    options text;
    made integer := 0;
BEGIN
    IF key IS NULL THEN
        RAISE EXCEPTION '% has no days', of;
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('by day: ' || of, 0)) THEN
        RETURN 0;
    END IF;
    IF obj_description(to_regclass(of), 'pg_class') = 'no more days' THEN
        RETURN 0;
    END IF;
    PERFORM FROM pg_class WHERE oid = to_regclass(of) AND relkind = 'p';
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(of) AND conname = of || '_by_day') THEN
            EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', of, of || '_by_day');
        END IF;
        RETURN 0;
    END IF;
    SELECT array_to_string(reloptions, ', ') INTO options FROM pg_class WHERE oid = to_regclass(rest);
    FOR day IN SELECT generate_series(today + 1, least(until, today + 7), interval '1 day')::date LOOP
        low := outbox_first_id(day::timestamp AT TIME ZONE 'UTC');
        high := outbox_first_id((day + 1)::timestamp AT TIME ZONE 'UTC');
        CONTINUE WHEN EXISTS (
            SELECT FROM outbox_parts(of) AS other WHERE (other.first IS NULL OR other.first < high) AND other.bound > low
        );
        IF pg_relation_size(to_regclass(rest)) > 256 * 1024 * 1024 THEN
            RAISE EXCEPTION '% is too large to be looked through while it is locked', rest
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        name := of || to_char(day, '_YYYY_MM_DD');
        EXECUTE format('LOCK TABLE ONLY %I IN SHARE UPDATE EXCLUSIVE MODE', of);
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', rest);
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', name, rest);
        IF options IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %I SET (%s)', name, options);
        END IF;
        EXECUTE format(
            'CREATE INDEX %I ON %I (%I) WHERE %I >= %L', name || '_late', name, key, stamp,
            (day + 1)::timestamp AT TIME ZONE 'UTC' + interval '1 hour'
        );
        EXECUTE format('INSERT INTO %I SELECT * FROM %I WHERE %I >= %L AND %3$I < %5$L', name, rest, key, low, high);
        EXECUTE format('DELETE FROM %I WHERE %I >= %L AND %2$I < %4$L', rest, key, low, high);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', of, name, low, high);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;
REVOKE EXECUTE ON FUNCTION outbox_make_days(text, date) FROM PUBLIC;
"""  # noqa: S608 - of a constant

# Whoever calls this says which rows have to stay. What was not sent stays, whatever they say.
DROP = f"""
CREATE FUNCTION outbox_drop_day(of text, part text, keep uuid[]) RETURNS integer LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    {KNOWN}
    columns text;
    kept integer;
BEGIN
    IF key IS NULL THEN
        RAISE EXCEPTION '% has no days', of;
    END IF;
    EXECUTE format('LOCK TABLE ONLY %I IN ACCESS EXCLUSIVE MODE', of);
    PERFORM FROM outbox_parts(of) AS day
    WHERE day.part = outbox_drop_day.part AND day.bound <= outbox_first_id(now() - interval '1 day');
    IF NOT FOUND THEN
        RETURN NULL;  -- it is not over, or somebody else has dropped it
    END IF;
    SELECT string_agg(quote_ident(attname), ', ') INTO columns
    FROM pg_attribute WHERE attrelid = to_regclass(of) AND attnum > 0 AND NOT attisdropped;
    EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', of, part);
    EXECUTE format('INSERT INTO %I (%s) SELECT %2$s FROM %I WHERE %I = ANY ($1)', of, columns, part, key) USING keep;
    GET DIAGNOSTICS kept = ROW_COUNT;
    IF stamp = 'published_at' THEN
        EXECUTE format(
            'INSERT INTO %I (%s) SELECT %2$s FROM %I WHERE published_at IS NULL AND NOT %I = ANY ($1)',
            of, columns, part, key
        ) USING keep;
    END IF;
    EXECUTE format('DROP TABLE %I', part);
    RETURN kept;
END $$;
REVOKE EXECUTE ON FUNCTION outbox_drop_day(text, text, uuid[]) FROM PUBLIC;
"""  # noqa: S608 - of a constant


class Migration(migrations.Migration):
    """What outbox and inbox need where they are in partitions by day: see by_day.py."""

    dependencies = [
        ("outbox", "0008_erasable_names"),
    ]

    operations = [
        migrations.RunSQL(FIRST_ID, "DROP FUNCTION outbox_first_id"),
        migrations.RunSQL(PARTS, "DROP FUNCTION outbox_parts"),
        migrations.RunSQL(MAKE, "DROP FUNCTION outbox_make_days"),
        migrations.RunSQL(DROP, "DROP FUNCTION outbox_drop_day"),
    ]
