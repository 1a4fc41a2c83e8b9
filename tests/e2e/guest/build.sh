#!/usr/bin/env bash
# build.sh DIR: makes DIR/vmlinuz and DIR/initramfs.cpio: Debian's cloud kernel with its nbd driver, busybox, nbd-client,
# fio, mkfs and fsck of ext4 and xfs, and guest/init. Packages are downloaded and unpacked, not installed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/curve-guest.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2}' | head -1)
[ -n "$kernel" ] || { echo "no cloud kernel is known to apt" >&2; exit 1; }
cd "$work"
apt-get -qq -o APT::Sandbox::User=root download "$kernel" busybox-static kmod cpio nbd-client libnl-3-200 libnl-genl-3-200 >&2
mkdir root pkg
for deb in *.deb; do dpkg -x "$deb" pkg; done
modules=$(find pkg -maxdepth 4 -path '*lib/modules/*' -type d | head -1)
release=$(basename "$modules")

mkdir -p root/{bin,sbin,proc,sys,dev,mnt,tmp,etc}
mkdir -p "root/lib/modules/$release/kernel"
for part in drivers/block/nbd.ko drivers/block/virtio_blk.ko drivers/net fs/ext4 fs/jbd2 fs/mbcache.ko fs/xfs lib crypto drivers/virtio net/core arch/x86/crypto; do
  [ -e "$modules/kernel/$part" ] || continue
  mkdir -p "root/lib/modules/$release/kernel/$(dirname "$part")"
  cp -r "$modules/kernel/$part" "root/lib/modules/$release/kernel/$(dirname "$part")/"
done
rm -rf root/lib/modules/"$release"/kernel/drivers/net/{wireless,ethernet,usb,fddi,hamradio,can}
cp "$modules"/modules.{builtin,order,builtin.modinfo} "root/lib/modules/$release/" 2>/dev/null || true
kmod=$(find pkg -path '*bin/kmod' -type f | head -1)
ln -s "$(pwd)/$kmod" depmod
LD_LIBRARY_PATH=$(pwd)/pkg/lib/x86_64-linux-gnu:$(pwd)/pkg/usr/lib/x86_64-linux-gnu ./depmod -b root "$release"

cp "$(find pkg -path '*bin/busybox' -type f | head -1)" root/bin/busybox
PATH=$PATH:/usr/sbin:/sbin
for program in mkfs.ext4 fsck.ext4 mkfs.xfs xfs_repair fio; do
  cp -L "$(command -v "$program")" root/sbin/
done
cp "$(find pkg -path '*sbin/nbd-client' -type f | head -1)" root/sbin/
# nbd-client's own libraries come from its packages, which this machine need not have installed.
mkdir -p root/lib/x86_64-linux-gnu
find pkg -name 'libnl-*.so*' -exec cp -P {} root/lib/x86_64-linux-gnu/ \;
for program in root/sbin/*; do
  missing=$(LD_LIBRARY_PATH=$work/root/lib/x86_64-linux-gnu ldd "$program" | awk '/not found/ {print $1}')
  [ -z "$missing" ] || { echo "$program needs $missing" >&2; exit 1; }
  ldd "$program" | awk '/=> \// {print $3} /^\t\// {print $1}' | while read -r library; do
    mkdir -p "root$(dirname "$library")"
    cp -nL "$library" "root$library"
  done
done
cp "$here/init" "$here/map.sh" root/
chmod 755 root/init
cpio=$work/$(find pkg -path '*bin/cpio' -type f | head -1)
(cd root && find . | LC_ALL=C sort | "$cpio" --quiet -o -H newc -R 0:0) >"$out/initramfs.cpio.new"
cp pkg/boot/vmlinuz-"$release" "$out/vmlinuz"
mv "$out/initramfs.cpio.new" "$out/initramfs.cpio"
echo "$out: kernel $release, $(du -m "$out/initramfs.cpio" | cut -f1) MiB initramfs"
