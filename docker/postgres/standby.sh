#!/bin/sh
# standby.sh COMMAND…: a standby of PRIMARY (host:port). The first time it copies its data, as replicator; from then on it
# follows it, until it is promoted. COMMAND runs the server, by the image's own entrypoint.
set -eu
umask 077
: "${PRIMARY:?}" "${REPLICATION_PASSWORD:?}" "${PGDATA:?}"
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    find "$PGDATA" -mindepth 1 -delete # what was cut short
    PGHOST=${PRIMARY%:*} PGPORT=${PRIMARY##*:} PGUSER=replicator PGPASSWORD=$REPLICATION_PASSWORD \
        pg_basebackup --pgdata="$PGDATA/copying" --checkpoint=fast --wal-method=stream --write-recovery-conf --no-password
    # Of a primary that was restored: a standby would stop at that moment, or take itself for a primary.
    sed -i -e '/^restore_command/d' -e '/^recovery_target/d' "$PGDATA/copying/postgresql.auto.conf"
    mv "$PGDATA/copying/PG_VERSION" "$PGDATA/.PG_VERSION"
    mv "$PGDATA/copying/"* "$PGDATA/"
    rmdir "$PGDATA/copying"
    mv "$PGDATA/.PG_VERSION" "$PGDATA/PG_VERSION" # last of all
elif ! grep -q '^primary_conninfo' "$PGDATA/postgresql.auto.conf"; then
    echo "standby: $PGDATA has the data of a primary, which does not become a standby by itself: delete them" >&2
    exit 1
fi
exec docker-entrypoint.sh "$@"
