#!/usr/bin/env bash
# with-line.sh RATE COMMAND…: runs a command whose whole network is a loopback of this rate (as `tc` takes it: 4gbit), in a network
# namespace that ends with it. Needs root.
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
rate=$1
shift
exec unshare --net bash -c '
  set -euo pipefail
  ip link set lo up
  tc qdisc add dev lo root tbf rate "$0" burst 4mb latency 100ms
  exec "$@"' "$rate" "$@"
