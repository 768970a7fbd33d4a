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

# Until what is there has been copied, nothing is changed. From then on it has no PG_VERSION, so no server starts in it,
# until all of it is there again; a restore that was cut short is begun again.
new=$PGDATA/restoring
aside="$1/replaced-…, since a restore was cut short"
if [ -e "$PGDATA/PG_VERSION" ] || [ ! -d "$new" ]; then
    rm -rf "$1/replacing"
    mkdir "$1/replacing"
    cp -a "$PGDATA/." "$1/replacing/" || {
        rm -rf "$1/replacing"
        refuse "what is in $PGDATA could not be copied to $1, and everything is as it was"
    }
    aside=$1/replaced-$(date -u +%Y%m%dT%H%M%SZ)
    mv "$1/replacing" "$aside"
fi
mkdir -p "$new"
rm -f "$PGDATA/PG_VERSION"
find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name restoring -exec rm -rf {} +
find "$new" -mindepth 1 -delete
cp -a "$1/base/$base/." "$new/"
server() { head -c 8 "$1/global/pg_control" | od -A n -t x1; } # what tells it from every other
for old in "$1"/replaced-*; do
    [ "$(server "$old" 2>&1)" = "$(server "$new")" ] || continue
    for file in "$old"/pg_wal/????????????????????????; do # written, and not archived any more
        name=${file##*/}
        if [ -f "$file" ] && [ ! -e "$1/wal/$name.gz" ]; then cp -a "$file" "$new/pg_wal/"; fi
    done
done
settings=$new/postgresql.auto.conf
sed -i -e '/^restore_command/d' -e '/^recovery_target/d' "$settings"
cat >>"$settings" <<SETTINGS
restore_command = 'gunzip -c "$1/wal/%f.gz" >"%p"'
recovery_target_timeline = 'current'
recovery_target_action = 'promote'
SETTINGS
if [ -n "${2:-}" ]; then echo "recovery_target_time = '${2%Z}+00'" >>"$settings"; fi
touch "$new/recovery.signal"
mv "$new/PG_VERSION" "$new/.PG_VERSION"
mv "$new"/* "$PGDATA/"
mv "$new/.PG_VERSION" "$PGDATA/PG_VERSION" # last of all
rmdir "$new"
touch "$1/base/wanted"
echo "from base/$base; what was there before is in $aside"
