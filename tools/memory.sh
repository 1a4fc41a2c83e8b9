#!/usr/bin/env bash
# memory.sh [FEW MANY [VOLUMES]]: what one more idle copyset and one more open volume cost in memory (10 110 33).
# Two clusters that nobody uses are started one after the other in temporary directories, with FEW and with MANY copysets;
# the difference of their resident sizes, divided, is a copyset's. The same with one and with VOLUMES open volumes.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
bin=${CURVE_BIN_DIR:-$here/target/release}
few=${1:-10} many=${2:-110} volumes=${3:-33}
settle=${SETTLE:-20} # seconds; groups go to sleep, files are preallocated
dir=

wipe() {
  [ -n "$dir" ] || return 0
  "$bin/curve" playground wipe --yes --dir "$dir" >/dev/null || true
  rm -rf "$dir" "$dir.log"
  dir=
}
trap wipe EXIT

start() { # start COPYSETS
  dir=$(mktemp -d "${TMPDIR:-/tmp}/curve-memory.XXXXXX")
  "$bin/curve" playground start --dir "$dir" --copysets "$1" >"$dir.log" 2>&1 || { cat "$dir.log" >&2; exit 1; }
  sleep "$settle"
}

# resident NAME: KiB of the members whose names begin so, on average.
resident() {
  "$bin/curve" playground status --dir "$dir" --json |
    jq -r --arg name "$1" '.members[] | select(.name | startswith($name)) | .pid' |
    while read -r pid; do awk '/^VmRSS:/ {print $2}' "/proc/$pid/status"; done |
    awk '{sum += $1} END {if (NR == 0) exit 1; print sum / NR}'
}

slope() { # slope WHAT WHERE FROM_KIB FROM TO_KIB TO
  awk -v what="$1" -v where="$2" -v a="$3" -v m="$4" -v b="$5" -v n="$6" 'BEGIN {
    printf "| %s | %s | %d: %.1f MiB | %d: %.1f MiB | %.0f KiB |\n", what, where, m, a / 1024, n, b / 1024, (b - a) / (n - m)
  }'
}

start "$few"
chunkserver_few=$(resident chunkserver-) mds_few=$(resident mds-)
paths=()
for number in $(seq "$volumes"); do
  paths+=("/volume-$number")
  "$bin/curve" --config "$dir/curve.toml" bs create "/volume-$number" --size 1GiB >/dev/null
done
"$bin/curve" playground nbd "${paths[0]}" --dir "$dir" >/dev/null 2>&1
sleep "$settle"
one_open=$(resident nbd-)
"$bin/curve" playground stop nbd-1 --dir "$dir" >/dev/null
"$bin/curve" playground nbd "${paths[@]}" --dir "$dir" >/dev/null 2>&1
sleep "$settle"
many_open=$(resident nbd-2)
wipe

start "$many"
chunkserver_many=$(resident chunkserver-) mds_many=$(resident mds-)

echo "| one more | in each | few | many | costs |"
echo "|---|---|---|---|---|"
slope "idle copyset" chunkserver "$chunkserver_few" "$few" "$chunkserver_many" "$many"
slope "idle copyset" MDS "$mds_few" "$few" "$mds_many" "$many"
slope "open volume" curve-nbd "$one_open" 1 "$many_open" "$volumes"
