#!/bin/sh
# Runs PgBouncer in front of SERVER (host:port), for ROLES (name:password name:password …): what they send through it is
# done in sessions of their own. Passwords are letters and digits, as in docker/.env.example.
set -eu
: "${SERVER:?}" "${ROLES:?}"
umask 077
mkdir -p /tmp/pgbouncer
printf '* = host=%s port=%s\n' "${SERVER%:*}" "${SERVER##*:}" >/tmp/pgbouncer/servers.ini
for role in $ROLES; do
    printf '"%s" "%s"\n' "${role%%:*}" "${role#*:}"
done >/tmp/pgbouncer/users.txt
exec pgbouncer "${0%/*}/pgbouncer.ini"
