#!/usr/bin/env bash
# idle-cpu.sh [SECONDS] [ARGUMENTS OF playground start…]: CPU and memory of a playground that nobody uses.
# A cluster with a volume that is open and idle is started in a temporary directory, left alone, measured, and removed.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
bin=${CURVE_BIN_DIR:-$here/target/release}
seconds=${1:-20}
shift || true
dir=$(mktemp -d "${TMPDIR:-/tmp}/curve-idle.XXXXXX")
trap '"$bin/curve" playground wipe --yes --dir "$dir" >/dev/null; rm -rf "$dir"' EXIT

"$bin/curve" playground start --dir "$dir" "$@" >/dev/null 2>&1
"$bin/curve" --config "$dir/curve.toml" bs create /idle --size 1GiB >/dev/null
"$bin/curve" playground nbd /idle --dir "$dir" >/dev/null 2>&1
# Groups go to sleep, files are preallocated.
sleep 20

ticks() { awk '{print $14 + $15}' "/proc/$1/stat"; }
members() { "$bin/curve" playground status --dir "$dir" --json | jq -r '.members[] | "\(.name) \(.pid)"'; }
hertz=$(getconf CLK_TCK)
declare -A before
while read -r name pid; do before[$name]=$(ticks "$pid"); done < <(members)
sleep "$seconds"
total=0
while read -r name pid; do
  used=$(($(ticks "$pid") - before[$name]))
  total=$((total + used))
  resident=$(awk '/VmRSS/ {print int($2 / 1024)}' "/proc/$pid/status")
  awk -v name="$name" -v used="$used" -v s="$seconds" -v hz="$hertz" -v mb="$resident" \
    'BEGIN {printf "%-14s %5.2f %% of a core, %4d MiB resident\n", name, 100 * used / hz / s, mb}'
done < <(members)
awk -v used="$total" -v s="$seconds" -v hz="$hertz" 'BEGIN {printf "%-14s %5.2f %% of a core\n", "in all", 100 * used / hz / s}'
