#!/usr/bin/env bash
# build.sh DIR nbd|iscsi: makes DIR/vmlinuz and DIR/initramfs.cpio: a Debian kernel with some drivers, busybox, fio, mkfs and
# fsck of ext4 and xfs, and guest/init. Packages are downloaded and unpacked, not installed.
#   nbd     the cloud kernel, its nbd driver, nbd-client
#   iscsi   the ordinary kernel (the cloud kernel has no ALUA), open-iscsi, multipath-tools, sg_persist, udev with its rules
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
kind=$2
parts=(fs/ext4 fs/jbd2 fs/mbcache.ko fs/xfs lib crypto drivers/virtio net/core arch/x86/crypto)
programs=(mkfs.ext4 fsck.ext4 mkfs.xfs xfs_repair fio)
rules=()
case $kind in
  nbd)
    image=linux-image-cloud-amd64
    packages=(nbd-client libnl-3-200 libnl-genl-3-200)
    parts+=(drivers/block/nbd.ko drivers/block/virtio_blk.ko drivers/net)
    programs+=(nbd-client)
    ;;
  iscsi)
    image=linux-image-amd64
    packages=(
      open-iscsi libisns0 libopeniscsiusr libkmod2 libmount1 udev libudev1
      multipath-tools kpartx dmsetup libdevmapper1.02.1 libaio1 libedit2 libjson-c5 liburcu8
      sg3-utils sg3-utils-udev libsgutils2-1.46-2
    )
    parts+=(drivers/net/virtio_net.ko drivers/net/net_failover.ko drivers/md/dm-{mod,multipath,service-time}.ko
      drivers/scsi/{scsi_mod,scsi_common,sd_mod,sg,iscsi_tcp,libiscsi,libiscsi_tcp,scsi_transport_iscsi}.ko
      drivers/scsi/device_handler/scsi_dh_alua.ko block)
    programs+=(resize2fs iscsid iscsiadm multipath multipathd dmsetup kpartx sg_persist sg_inq udevadm)
    rules=(50-udev-default 55-dm 55-scsi-sg3_id 56-dm-mpath 60-block 60-multipath 60-persistent-storage
      60-persistent-storage-dm 95-dm-notify)
    ;;
  *) echo "build.sh: nbd or iscsi, not $kind" >&2; exit 2 ;;
esac
work=$(mktemp -d "${TMPDIR:-/tmp}/curve-guest.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

kernel=$(apt-cache depends "$image" | awk '/Depends: linux-image-/ {print $2}' | head -1)
[ -n "$kernel" ] || { echo "$image is not known to apt" >&2; exit 1; }
cd "$work"
apt-get -qq -o APT::Sandbox::User=root download "$kernel" busybox-static kmod cpio "${packages[@]}" >&2
mkdir root pkg
for deb in *.deb; do dpkg -x "$deb" pkg; done
modules=$(find pkg -maxdepth 4 -path '*lib/modules/*' -type d | head -1)
release=$(basename "$modules")
# A package's program, wherever the package has it.
packaged() { find pkg -path "*bin/$1" -type f | head -1; }

mkdir -p root/{bin,sbin,proc,sys,dev,mnt,tmp,etc,run}
# Rules of udev name programs in /usr/bin and in /bin.
ln -s . root/usr
# The kernel asks it for modules: hashes for checksums of file systems and digests.
ln -s ../bin/busybox root/sbin/modprobe
mkdir -p "root/lib/modules/$release/kernel"
for part in "${parts[@]}"; do
  [ -e "$modules/kernel/$part" ] || continue
  mkdir -p "root/lib/modules/$release/kernel/$(dirname "$part")"
  cp -r "$modules/kernel/$part" "root/lib/modules/$release/kernel/$(dirname "$part")/"
done
rm -rf root/lib/modules/"$release"/kernel/drivers/net/{wireless,ethernet,usb,fddi,hamradio,can}
cp "$modules"/modules.{builtin,order,builtin.modinfo} "root/lib/modules/$release/" 2>/dev/null || true
ln -s "$(pwd)/$(packaged kmod)" depmod
# Programs of packages bring their own libraries, which this machine need not have installed.
LD_LIBRARY_PATH=$(pwd)/pkg/lib:$(pwd)/pkg/lib/x86_64-linux-gnu:$(pwd)/pkg/usr/lib/x86_64-linux-gnu
export LD_LIBRARY_PATH
./depmod -b root "$release"

cp "$(packaged busybox)" root/bin/busybox
PATH=$PATH:/usr/sbin:/sbin
for program in "${programs[@]}"; do
  file=$(packaged "$program")
  cp -L "${file:-$(command -v "$program")}" root/sbin/
done
if [ "$kind" = iscsi ]; then
  mkdir -p root/lib/{udev/rules.d,multipath} root/etc/iscsi
  cp pkg/lib/udev/scsi_id root/lib/udev/
  for rule in "${rules[@]}"; do cp "pkg/lib/udev/rules.d/$rule.rules" root/lib/udev/rules.d/; done
  cp pkg/lib/multipath/{libchecktur,libprioalua,libprioconst,libpriosysfs}.so root/lib/multipath/
  cp pkg/etc/iscsi/iscsid.conf root/etc/iscsi/
  # What docs/iscsi.md recommends is what is tested.
  cp "$here/../../../deploy/iscsi/multipath.conf" root/etc/
  ln -s udevadm root/sbin/systemd-udevd
fi
mkdir -p root/lib/x86_64-linux-gnu
while read -r program; do
  missing=$(ldd "$program" 2>/dev/null | awk '/not found/ {print $1}')
  [ -z "$missing" ] || { echo "$program needs $missing" >&2; exit 1; }
  ldd "$program" 2>/dev/null | awk '/=> \// {print $3} /^\t\// {print $1}' | while read -r library; do
    place=root${library#"$work/pkg"}
    mkdir -p "$(dirname "$place")"
    cp -nL "$library" "$place"
  done
done < <(find root/sbin root/lib/udev root/lib/multipath -type f 2>/dev/null | grep -v '\.rules$')
cp "$here"/{init,map.sh,iscsi.sh} root/
chmod 755 root/init
cpio=$work/$(packaged cpio)
(cd root && find . | LC_ALL=C sort | env -u LD_LIBRARY_PATH "$cpio" --quiet -o -H newc -R 0:0) >"$out/initramfs.cpio.new"
cp pkg/boot/vmlinuz-"$release" "$out/vmlinuz"
mv "$out/initramfs.cpio.new" "$out/initramfs.cpio"
echo "$out: kernel $release, $(du -m "$out/initramfs.cpio" | cut -f1) MiB initramfs"
