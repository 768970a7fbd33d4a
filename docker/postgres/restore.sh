#!/bin/sh
# restore.sh FOLDER [MOMENT]: make the data in PGDATA, whose server is stopped, what they were at this moment, such as
# 2026-11-29T10:15:00Z, or at the end of the archive. The server recovers when it starts. What was there is not deleted.
set -eu
umask 077
refuse() {
    echo "restore: $1" >&2
    exit 1
}

case "${2:-}" in
"" | ????-??-??T??:??:??Z) ;;
*) refuse "$2 is no moment such as 2026-11-29T10:15:00Z" ;;
esac
stamp=$(echo "${2:-9}" | tr -d ':-')
base=$(ls "$1/base" | grep 'Z$' | awk -v until="$stamp" '($0 "") <= (until "")' | sort | tail -n 1)
[ -n "$base" ] || refuse "no backup in $1/base was complete at that moment; there are: $(ls "$1/base" | tr '\n' ' ')"
[ ! -e "$PGDATA/postmaster.pid" ] || refuse "the server runs; if it was killed, delete $PGDATA/postmaster.pid"

aside=$1/replaced-$(date -u +%Y%m%dT%H%M%SZ)
mkdir "$aside"
find "$PGDATA" -mindepth 1 -maxdepth 1 -exec mv {} "$aside/" \;
cp -a "$1/base/$base/." "$PGDATA/"
for file in "$aside"/pg_wal/????????????????????????; do # written, and not archived any more
    name=${file##*/}
    if [ -f "$file" ] && [ ! -e "$1/wal/$name.gz" ]; then cp -a "$file" "$PGDATA/pg_wal/"; fi
done
settings=$PGDATA/postgresql.auto.conf
sed -i -e '/^restore_command/d' -e '/^recovery_target/d' "$settings"
cat >>"$settings" <<SETTINGS
restore_command = 'gunzip -c "$1/wal/%f.gz" >"%p"'
recovery_target_timeline = 'current'
recovery_target_action = 'promote'
SETTINGS
if [ -n "${2:-}" ]; then echo "recovery_target_time = '${2%Z}+00'" >>"$settings"; fi
touch "$PGDATA/recovery.signal" "$1/base/wanted"
echo "from base/$base; what was there before is in $aside"
