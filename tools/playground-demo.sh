#!/usr/bin/env bash
# playground-demo.sh [DIR]: a cluster, a volume served over NBD, and a check that bytes written come back.
# Run again, it goes on with what is there.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-$here/playground}
bin=${CURVE_BIN_DIR:-$here/target/release}
curve() { "$bin/curve" "$@"; }
say() { printf '\n== %s\n' "$*"; }

say "starting 3 MDSs and 3 chunkservers in $dir"
curve playground start --dir "$dir"
export CURVE_CONFIG=$dir/curve.toml

say "the volume /demo, 4 GiB"
if curve bs stat /demo >/dev/null 2>&1; then echo "/demo exists already"; else curve bs create /demo --size 4GiB; fi

say "serving it over NBD"
ready=$(curve playground nbd /demo --dir "$dir")
echo "$ready"
uri=${ready#ready }
nbdinfo --size "$uri" >/dev/null

say "writing 64 MiB with nbdcopy, reading them back with qemu-img"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/curve-demo.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
dd if=/dev/urandom of="$scratch/written" bs=1M count=64 status=none
begun=$(date +%s.%N)
nbdcopy --flush "$scratch/written" "$uri"
ended=$(date +%s.%N)
qemu-img dd -f raw -O raw bs=1M count=64 "if=$uri" "of=$scratch/read"
cmp "$scratch/written" "$scratch/read"
echo "64 MiB written to three replicas in $(echo "$begun $ended" | awk '{printf "%.2f", $2 - $1}') s; read back: identical"

say "health"
curve cluster status

cat <<END

== what to try next
export CURVE_CONFIG=$dir/curve.toml PATH=$bin:\$PATH
curve playground status --dir $dir
curve playground kill chunkserver-2 --dir $dir         # the volume goes on; then:
curve playground restart chunkserver-2 --dir $dir
nbdinfo '$uri'
qemu-img convert -n -f qcow2 -O raw disk.qcow2 '$uri'
fio --name=try --ioengine=nbd --uri='$uri' --rw=randwrite --bs=4k --iodepth=32 --size=1g --runtime=10 --time_based
curve playground wipe --dir $dir                       # ends everything and removes the data
END
