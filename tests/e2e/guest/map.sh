# Part of guest/init: kernel devices by `curve-nbd map`, which outlive the process that serves them.

served_by() { curve-nbd list-mapped --json | sed -n 's/.*"pid": \([0-9]*\).*/\1/p'; }
completed() { awk '{print $1 + $5}' /sys/block/nbd0/stat; }

goes_on() { [ "$(completed)" -gt "$1" ]; }
other_than() { new=$(served_by) && [ -n "$new" ] && [ "$new" != "$1" ]; }
has_sectors() { [ "$(cat /sys/block/nbd0/size)" = "$1" ]; }

# Kills the process behind the device again and again for a minute while fio writes and verifies. Nobody may see an error.
# fio writes for longer than that, so that there is always I/O to wait for.
kill_under_fio() {
  fio --name=v --filename=/dev/nbd0 --rw=randwrite --bs=4k --size=64m --ioengine=libaio --iodepth=8 --direct=1 \
    --verify=crc32c --verify_backlog=128 --verify_fatal=1 --runtime=85 --time_based --randrepeat=0 >/tmp/fio.log 2>&1 &
  fio=$!
  wait_for 20 "I/O" goes_on "$(completed)"
  kills=0 worst=0 slowest=0 sum=0 end=$(($(now_cs) + 6000))
  while [ "$(now_cs)" -lt $end ]; do
    pid=$(served_by)
    [ -n "$pid" ] || failed "nobody serves: $(curve-nbd list-mapped)"
    killed=$(now_cs)
    kill -9 "$pid"
    kills=$((kills + 1))
    wait_for 20 "another process" other_than "$pid"
    begun=$(now_cs) before=$(completed)
    wait_for 20 "I/O after a restart" goes_on "$before"
    took=$(($(now_cs) - begun)) restart=$((begun - killed))
    [ $took -le $worst ] || worst=$took
    [ $restart -le $slowest ] || slowest=$restart
    sum=$((sum + took))
    sleep 2
  done
  wait $fio || { tail -20 /tmp/fio.log; failed "fio"; }
  grep -q 'err= 0' /tmp/fio.log || { cat /tmp/fio.log; failed "fio saw errors"; }
  echo "guest: $kills kills under fio verify, no error, another process after at most ${slowest}0 ms," \
    "I/O back at most ${worst}0 ms after that, $((sum * 10 / kills)) ms on average"
}

first_boot() {
  device=$(curve-nbd map /raw --device /dev/nbd0) || failed "map"
  [ "$device" = /dev/nbd0 ] || failed "map said $device"
  curve-nbd map /raw 2>/tmp/twice && failed "mapped twice"
  grep -q 'mapped already, as /dev/nbd0' /tmp/twice || failed "mapped twice: $(cat /tmp/twice)"
  kill_under_fio
  # The host grows the volume from 256 to 512 MiB when it sees this.
  echo "guest: grow now"
  wait_for 60 "the new size" has_sectors 1048576
  echo "guest: the device has followed the volume to 512 MiB"
  # The driver sets its timer back whenever it is told of a device.
  [ "$(cat /sys/block/nbd0/queue/io_timeout)" = 200 ] || failed "the timer: $(cat /sys/block/nbd0/queue/io_timeout) ms"
  before=$(served_by)
  curve-nbd takeover --all || failed "takeover"
  [ "$(served_by)" != "$before" ] || failed "takeover changed nothing"
  mkfs.ext4 -q -F /dev/nbd0 || failed "mkfs"
  mount -t ext4 -o discard /dev/nbd0 /mnt || failed "mount"
  curve-nbd unmap /raw 2>/tmp/busy && failed "a mounted device was unmapped"
  grep -q 'mounted at /mnt' /tmp/busy || failed "unmap said $(cat /tmp/busy)"
  dd if=/dev/urandom of=/mnt/file bs=64k count=100 2>/dev/null || failed "write"
  fstrim /mnt || failed "fstrim"
  umount /mnt
  curve-nbd unmap /dev/nbd0 || failed "unmap"
  [ -z "$(curve-nbd list-mapped | sed 1d)" ] || failed "still listed: $(curve-nbd list-mapped)"
  has_sectors 0 || failed "the device still has a size"
  device=$(curve-nbd map /kept --persist) || failed "map --persist"
  mkfs.ext4 -q -F "$device" && mount -t ext4 "$device" /mnt || failed "file system on $device"
  dd if=/dev/urandom of=/mnt/kept bs=4k count=200 2>/dev/null || failed "write"
  sha256sum </mnt/kept >/mnt/sum
  sync
  echo "guest: curvetab: $(cat /etc/curve/curvetab)"
}

# The machine lost its power; its disk kept the curvetab.
second_boot() {
  mkdir -p /etc/curve
  echo "/kept /dev/nbd0 defaults" >/etc/curve/curvetab
  curve-nbd map --all || failed "map --all"
  mount -t ext4 /dev/nbd0 /mnt || failed "mount after the reboot"
  sha256sum </mnt/kept | cmp - /mnt/sum || failed "the file is another one"
  umount /mnt
  curve-nbd unmap --all || failed "unmap --all"
  echo "guest: after a reboot curvetab brought the volume back"
}

map_mode() {
  head -c "$map_bytes" /dev/vda >/bin/curve-nbd && chmod 755 /bin/curve-nbd || failed "no program"
  mkdir -p /run /var/log
  # The cluster's addresses are those of the host's loopback. QEMU's network connects to whatever a guest asks for, so the
  # guest only has to take 127.0.0.1 for a host beyond its router.
  echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
  ip address del 127.0.0.1/8 dev lo
  ip route add 127.0.0.1/32 via 10.0.2.2 || failed "no route to the host's loopback"
  if [ -n "$again" ]; then second_boot; else first_boot; fi
}
