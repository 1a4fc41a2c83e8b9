#!/usr/bin/env bash
# deps.sh GROUP…: installs the Debian packages of which a command or file is missing. One apt call for each group.
# What is already there is never touched, whatever its version. Without root the command to run is printed.
#   build   what the compiler and linker need
#   try     what `make playground` needs
#   test    what `make test` and `make bench` need beside these
#   lint    what `make lint` needs beside the first
#   s3      what `make fs-s3` needs beside `test`
#   peers   what `make bench-ceph`, `bench-fs` and `bench-iscsi` need beside `test`; nothing else does
set -euo pipefail

build=(
  cc:build-essential g++:build-essential
  /usr/include/rocksdb/c.h:librocksdb-dev
  /usr/lib/llvm-14/lib/libclang.so.1:libclang-14-dev
  git:git curl:curl
)
try=(nbdcopy:libnbd-bin nbdinfo:libnbd-bin qemu-img:qemu-utils qemu-io:qemu-utils)
test=(
  iscsi-ls:libiscsi-bin iscsi-test-cu:libiscsi-bin
  /usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so:qemu-block-extra
  s3fs:s3fs fio:fio nbdkit:nbdkit nbdfuse:libnbd-bin fusermount3:fuse3 jq:jq
  qemu-system-x86_64:qemu-system-x86
  tc:iproute2 mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs losetup:mount
  sqlite3:sqlite3 rsync:rsync dbench:dbench
  /usr/lib/python3/dist-packages/boto3:python3-boto3
  pgbench:postgresql-client-common /usr/lib/postgresql/15/bin/initdb:postgresql-15
  /usr/lib/postgresql/15/bin/pgbench:postgresql-15
)
lint=(python3:python3)
s3=(/usr/lib/python3.11/ensurepip:python3-venv)
peers=(
  tgtd:tgt /usr/lib/tgt/backing-store/bs_rbd.so:tgt-rbd
  ceph-mon:ceph-mon ceph-mgr:ceph-mgr ceph-osd:ceph-osd ceph:ceph-common rbd:ceph-common
  ceph-mds:ceph-mds ceph-fuse:ceph-fuse
  uuidgen:uuid-runtime jq:jq "/usr/lib/$(uname -m)-linux-gnu/librbd.so.1:librbd1"
  "/usr/lib/$(uname -m)-linux-gnu/libtcmalloc_minimal.so.4:libtcmalloc-minimal4"
)

present() {
  case $1 in
    /*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] ;;
  esac
}

missing() {
  local -n wanted=$1
  local pair
  for pair in "${wanted[@]}"; do
    present "${pair%:*}" || echo "${pair##*:}"
  done | sort -u
}

updated=
# Twice: apt takes away what is there from another release when that conflicts with what it installs, and then that is missing.
for group in "$@" "$@"; do
  case $group in build | try | test | lint | s3 | peers) ;; *) echo "deps.sh: unknown group $group" >&2; exit 2 ;; esac
  packages=$(missing "$group" | tr '\n' ' ')
  [ -n "${packages// /}" ] || continue
  if ! command -v apt-get >/dev/null; then
    echo "deps.sh: this is not a Debian system; install the equivalents of: $packages" >&2
    exit 10
  fi
  if [ "$(id -u)" -ne 0 ]; then
    echo "deps.sh: missing: $packages" >&2
    echo "run:  sudo apt-get install --no-install-recommends $packages" >&2
    exit 10
  fi
  if [ -z "$updated" ]; then
    apt-get update -qq || echo "deps.sh: apt-get update failed; trying with what is known" >&2
    updated=yes
  fi
  echo "installing: $packages"
  # shellcheck disable=SC2086 # a list of names
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-upgrade $packages
done

if [[ " $* " == *" build "* ]] && ! command -v cargo >/dev/null; then
  echo "deps.sh: cargo is missing; install the Rust toolchain: https://rustup.rs" >&2
  exit 10
fi
