#!/bin/sh
# backup.sh FOLDER KEEP [once]: a base backup a day, and one after each restore. It is checked, or it is not there. KEEP of
# them stay, and the log since the oldest. PGHOST and PGUSER say of which server.
set -eu
umask 077
cd "$1"

# One that recovers is not what it is going to be: a backup of it would belong to the time before the restore.
until [ "$(psql -d postgres -Atwc 'SELECT pg_is_in_recovery()' 2>&1)" = f ]; do sleep 1; done
while :; do
    if [ "${3:-}" = once ] || [ -e base/wanted ] || ! find base -maxdepth 1 -name '*Z' -mmin -1440 | grep -q .; then
        rm -rf base/unfinished
        pg_basebackup --pgdata=base/unfinished --checkpoint=fast --wal-method=stream --no-password
        pg_verifybackup --quiet base/unfinished
        touch base/unfinished
        name=$(date -u +%Y%m%dT%H%M%SZ)
        mv base/unfinished "base/$name"
        rm -f base/wanted
        for old in $(ls base | grep 'Z$' | sort -r | tail -n "+$(($2 + 1))"); do rm -rf "base/$old"; done
        oldest=$(ls base | grep 'Z$' | sort | head -n 1)
        # Where each begins: one that was made before a restore may be further ahead in the log than those after it.
        first=$(sed -n 's/^START WAL LOCATION.*(file .\{8\}\(.\{16\}\)).*/\1/p' base/*Z/backup_label | sort | head -n 1)
        pg_archivecleanup -x .gz wal "00000001$first" # it does not look at the history, which is the first part
        echo "base/$name is complete and checked; everything since base/$oldest can be had again"
    fi
    [ "${3:-}" != once ] || exit 0
    sleep 60
done
