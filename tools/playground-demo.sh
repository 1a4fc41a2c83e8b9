#!/usr/bin/env bash
# playground-demo.sh [DIR]: a cluster, a volume served over NBD, a file system mounted, and checks that what is written comes back.
# Run again, it goes on with what is there.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-$here/playground}
bin=${CURVE_BIN_DIR:-$here/target/release}
curve() { "$bin/curve" "$@"; }
say() { printf '\n== %s\n' "$*"; }

say "starting 3 MDSs, 3 chunkservers, 3 metaservers and an object store in $dir"
curve playground start --fs --dir "$dir"
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

say "the file system demo, its data in the object store"
if curve fs stat demo >/dev/null 2>&1; then echo "demo exists already"; else
  store=$(curve playground status --dir "$dir" --json | sed -n 's/.*"name": "s3-1".*/&/p; /"name": "s3-1"/,/"address"/s/.*"address": "\([^"]*\)".*/\1/p' | tail -1)
  curve fs create demo --backend s3 --endpoint "http://$store" --bucket curve --access-key playground \
    --secret-key-file "$dir/etc/s3.secret"
fi
mnt=$dir/mnt
if [ "$(id -u)" -ne 0 ] && ! command -v fusermount3 >/dev/null || [ ! -e /dev/fuse ]; then
  echo "not mounted: that needs /dev/fuse, and root or fusermount3 (package fuse3)"
else
  mkdir -p "$mnt"
  if grep -qs " $mnt fuse" /proc/mounts; then echo "$mnt is mounted already"; else
    "$bin/curve-fuse" mount demo "$mnt" --background --log "$dir/log/mount.log"
  fi
  cp -r "$here/docs" "$mnt/docs.new"
  diff -r "$here/docs" "$mnt/docs.new"
  rm -rf "$mnt/docs"
  mv "$mnt/docs.new" "$mnt/docs"
  echo "mounted on $mnt; a directory copied, compared and renamed: $(find "$mnt/docs" -type f | wc -l) files"
fi

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
ls -l $dir/mnt/docs; curve fs du $dir/mnt; curve fs info $dir/mnt/docs/curvefs.md; curve fs stats $dir/mnt
curve playground kill metaserver-2 --dir $dir; curve-fuse upgrade $dir/mnt --background    # the mount goes on through both
curve-fuse umount $dir/mnt
curve playground wipe --dir $dir                       # ends everything and removes the data
END
