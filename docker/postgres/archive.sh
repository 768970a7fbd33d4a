#!/bin/sh
# archive.sh FOLDER PATH NAME: PostgreSQL's archive_command. A file of its log is kept once, whole or not at all; what
# fails is tried again.
set -eu
kept=$1/wal/$3.gz
if [ -e "$kept" ]; then
    gunzip -c "$kept" | cmp -s - "$2"
    exit
fi
gzip -1 -c "$2" >"$kept.unfinished"
sync "$kept.unfinished"
mv "$kept.unfinished" "$kept"
sync "$1/wal"
