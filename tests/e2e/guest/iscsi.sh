# Part of guest/init: the kernel's iSCSI initiator under open-iscsi, and dm-multipath over two gateways. The host's test has made
# the targets, kills a gateway when the guest says so, and grows a volume (tests/e2e/tests/e2e/iscsi_guest.rs).

secret=a-long-enough-secret
their_secret=who-the-gateway-is
session() { iscsiadm -m node -T "$target:$1" -p "$2" "--$3" >/tmp/said 2>&1; }
setting() { iscsiadm -m node -T "$target:$1" -o update -n "$2" -v "$3" || failed "$2 of $1"; }

# log_in TARGET GATEWAY: sets $device.
log_in() {
  session "$1" "$2" login || failed "login at $1 through $2: $(cat /tmp/said)"
  link=/dev/disk/by-path/ip-$2-iscsi-$target:$1-lun-0
  wait_for 60 "$link" test -b "$link"
  device=$(readlink -f "$link")
}
log_out() { session "$1" "$2" logout || failed "logout from $1: $(cat /tmp/said)"; }
# log_in_refused WHY TARGET GATEWAY
log_in_refused() {
  session "$2" "$3" login && failed "$2 let in: $1"
  grep -qE 'authorization failure|non-retryable iSCSI login failure' /tmp/said || failed "$1: $(cat /tmp/said)"
}

# One write and its verification of 16 MiB.
fio_pass() {
  fio --name=v --filename="$1" --rw=randwrite --bs=4k --size=16m --ioengine=libaio --iodepth=8 --direct=1 \
    --verify=crc32c --do_verify=1 --verify_fatal=1 --randrepeat=0 >/tmp/fio.log 2>&1 && grep -q 'err= 0' /tmp/fio.log
}
block_written() { fio --name=w --filename="$1" --rw=write --bs=4k --size=4k --direct=1 >/tmp/block 2>&1; }

discovered() {
  iscsiadm -m discovery -t sendtargets -p "$gateway_1" >/tmp/found 2>/tmp/said || failed "discovery: $(cat /tmp/said)"
  for name in plain chap mutual paths; do
    for portal in "$gateway_1,1" "$gateway_2,2"; do
      grep -q "^$portal $target:$name$" /tmp/found || failed "no $portal $name in $(cat /tmp/found)"
    done
  done
  [ "$(wc -l </tmp/found)" = 8 ] || failed "discovery tells $(cat /tmp/found)"
  echo "guest: discovery tells of 4 targets through 2 gateways"
}

# Digests go along, and blocks of 4096 bytes.
with_chap() {
  log_in_refused "no secret" chap "$gateway_1"
  setting chap node.session.auth.authmethod CHAP
  setting chap node.session.auth.username alice
  setting chap node.session.auth.password a-wrong-guess-at-it
  log_in_refused "wrong secret" chap "$gateway_1"
  setting chap node.session.auth.password $secret
  for digest in HeaderDigest DataDigest; do setting chap "node.conn[0].iscsi.$digest" CRC32C; done
  log_in chap "$gateway_1"
  [ "$(iscsiadm -m session -P 2 | grep -c 'Digest: CRC32C')" = 2 ] || failed "digests: $(iscsiadm -m session -P 2)"
  [ "$(cat "/sys/block/${device#/dev/}/queue/logical_block_size")" = 4096 ] || failed "blocks of 4096 bytes"
  exercise "$device" "mkfs.xfs -q -f" xfs "xfs_repair -n"
  log_out chap "$gateway_1"
  echo "guest: CHAP with digests"
}

with_mutual_chap() {
  setting mutual node.session.auth.authmethod CHAP
  setting mutual node.session.auth.username alice
  setting mutual node.session.auth.password $secret
  setting mutual node.session.auth.username_in gate
  setting mutual node.session.auth.password_in another-gateway
  log_in_refused "the gateway does not prove who it is" mutual "$gateway_2"
  setting mutual node.session.auth.password_in $their_secret
  log_in mutual "$gateway_1"
  first=$device
  log_in mutual "$gateway_2"
  second=$device
  echo "guest: mutual CHAP through both gateways"
}

# The two paths are two nexuses: what one reserves, the other one does not get.
reservations() {
  persist() { sg_persist "$@" >/tmp/said 2>&1; }
  persist --out --register --param-sark=0xabc "$first" || failed "register: $(cat /tmp/said)"
  persist --out --register --param-sark=0xdef "$second" || failed "register: $(cat /tmp/said)"
  persist --in --read-keys "$second" && grep -q 0xabc /tmp/said && grep -q 0xdef /tmp/said || failed "keys: $(cat /tmp/said)"
  persist --out --reserve --param-rk=0xabc --prout-type=1 "$first" || failed "reserve: $(cat /tmp/said)"
  persist --in --read-reservation "$second" && grep -q 'Write Exclusive' /tmp/said && grep -q 0xabc /tmp/said ||
    failed "reservation: $(cat /tmp/said)"
  block_written "$first" || failed "the holder may not write: $(cat /tmp/block)"
  block_written "$second" && failed "the other path writes in spite of the reservation"
  persist --out --reserve --param-rk=0xdef --prout-type=1 "$second" && failed "reserved twice"
  persist --out --release --param-rk=0xabc --prout-type=1 "$first" || failed "release: $(cat /tmp/said)"
  persist --in --read-reservation "$second" && grep -q 'NO reservation' /tmp/said || failed "released: $(cat /tmp/said)"
  block_written "$second" || failed "the other path may not write: $(cat /tmp/block)"
  persist --out --clear --param-rk=0xdef "$second" || failed "clear: $(cat /tmp/said)"
  echo "guest: sg_persist through two gateways"
}

paths_up() { dmsetup status "$map" | grep -o '[0-9]*:[0-9]* A' | wc -l; }
has_paths() { [ "$(paths_up)" = "$1" ]; }
has_map() {
  map=$(dmsetup ls --target multipath | sed -n 's/\t.*//p')
  [ -n "$map" ] && [ -b "/dev/mapper/$map" ]
}
map_stat() { awk '{print $1 + $5}' "/sys/block/$dm/stat"; }
map_goes_on() { [ "$(map_stat)" -gt "$1" ]; }

load() {
  while [ ! -e /tmp/enough ]; do
    fio_pass "/dev/mapper/$map" || return 1
    echo pass >>/tmp/passes
  done
}

# lose GATEWAY: asks the host to kill it, and later to start it again.
lose() {
  kill -0 "$load" 2>/dev/null || failed "fio has ended: $(cat /tmp/fio.log)"
  wait_for 60 "I/O" map_goes_on "$(map_stat)"
  begun=$(now_cs)
  echo "guest: kill $1 now"
  wait_for 60 "the loss of a path" has_paths 1
  wait_for 60 "I/O through the other gateway" map_goes_on "$(map_stat)"
  took=$(($(now_cs) - begun))
  echo "guest: start $1 again"
  wait_for 120 "the path through $1" has_paths 2
  echo "guest: I/O went on ${took}0 ms after $1 was killed, with two paths $(($(now_cs) - begun))0 ms after"
}

two_paths() {
  mkdir -p /etc/multipath
  multipathd -d -s >>/tmp/messages 2>&1 &
  log_in paths "$gateway_1"
  log_in paths "$gateway_2"
  wait_for 60 "a multipath device" has_map
  wait_for 60 "two paths" has_paths 2
  dm=$(basename "$(readlink -f "/dev/mapper/$map")")
  multipath -ll
  dmsetup table "$map" | grep -q ' 1 alua ' || failed "not by ALUA: $(dmsetup table "$map")"
  load &
  load=$!
  lose gw-1
  lose gw-2
  touch /tmp/enough
  wait $load || failed "fio: $(cat /tmp/fio.log)"
  echo "guest: two gateways killed under dm-multipath, $(wc -l </tmp/passes) passes of fio verify, no error"
}

# has_grown BLOCK-DEVICE SECTORS
has_grown() { [ "$(cat "/sys/block/$1/size")" = "$2" ]; }
rescanned() {
  iscsiadm -m session --rescan >/dev/null || failed "rescan"
  for path in /sys/block/"$dm"/slaves/*; do has_grown "$(basename "$path")" "$1" || return 1; done
}

grown_to() {
  wait_for 60 "the volume's new size" rescanned "$1"
  multipathd resize map "$map" >/tmp/said || failed "resize: $(cat /tmp/said)"
  wait_for 60 "the device's new size" has_grown "$dm" "$1"
}

# The host grows the volume from 512 MiB to 1 GiB under a mounted file system. Then 64 MiB are written, the host looks what the
# volume takes in the cluster, and grows it by a little more to say that it has; the guest takes the file away and trims.
grow_and_trim() {
  mkfs.ext4 -q -F "/dev/mapper/$map" || failed "ext4 on $map"
  # Without the kernel's own writes at leisure, which would take space while the host looks.
  mount -t ext4 -o noinit_itable "/dev/mapper/$map" /mnt || failed "mount $map"
  echo "guest: grow now"
  grown_to 2097152
  resize2fs "/dev/mapper/$map" >/tmp/said 2>&1 || failed "resize2fs: $(cat /tmp/said)"
  [ "$(df -k /mnt | awk 'END {print $(NF - 4)}')" -gt 900000 ] || failed "the file system's size: $(df -k /mnt)"
  dd if=/dev/urandom of=/mnt/file bs=64k count=1024 2>/dev/null && sync || failed "write"
  echo "guest: 64 MiB are written"
  grown_to 2099200
  rm /mnt/file
  sync
  fstrim /mnt || failed "fstrim"
  echo "guest: trimmed"
  umount /mnt
  fsck.ext4 -f -n "/dev/mapper/$map" || failed "fsck after growing"
  echo "guest: grown online under ext4, and trimmed"
}

iscsi_mode() {
  gateway_1=${gateways%,*} gateway_2=${gateways#*,}
  mkdir -p /run/lock/iscsi /etc/iscsi /var
  ln -s /run /var/run
  ln -s /run/lock /var/lock
  # iscsid asks who calls it.
  echo root:x:0:0:root:/:/bin/sh >/etc/passwd
  syslogd -O /tmp/messages
  systemd-udevd --daemon --resolve-names=never || failed "udevd"
  for module in sd_mod sg iscsi_tcp scsi_dh_alua dm-multipath dm-service-time; do
    modprobe "$module" || failed "module $module"
  done
  echo "InitiatorName=iqn.2026-01.com.example.host:guest" >/etc/iscsi/initiatorname.iscsi
  iscsid || failed "iscsid"
  discovered
  log_in plain "$gateway_1"
  exercise "$device" "mkfs.ext4 -q -F" ext4 "fsck.ext4 -f -n"
  fio_pass "$device" || failed "fio: $(cat /tmp/fio.log)"
  log_out plain "$gateway_1"
  with_chap
  with_mutual_chap
  reservations
  log_out mutual "$gateway_1"
  log_out mutual "$gateway_2"
  two_paths
  grow_and_trim
  multipath -f "$map" || failed "the device is busy"
  log_out paths "$gateway_1"
  log_out paths "$gateway_2"
}
