#!/bin/busybox sh
# The guest's first program: loads the modules that the boot needs, mounts the
# machine's own root read-only with a layer of memory above it, and goes there.
/bin/busybox --install -s /bin
export PATH=/bin
. /vm/settings

fail() {
    echo "uniddrv-vm: $*" >/dev/console
    poweroff -f
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

# NVMe controllers are probed side by side and named as they come. One at a
# time they have the same names at every boot.
echo 0 >/sys/bus/pci/drivers_autoprobe
while read -r module; do
    insmod "/modules/$module" || fail "loading $module failed"
done </modules/order
cd /sys/bus/pci/devices
for address in 0000:00:10.0 0000:00:11.0 *; do
    echo "$address" >/sys/bus/pci/drivers_probe
done
cd /
echo 1 >/sys/bus/pci/drivers_autoprobe

mount -t tmpfs -o size=75% tmpfs /rw || fail "no memory for the root's upper layer"
mkdir /rw/upper /rw/work
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=524288 host /host ||
    fail "mounting the machine's root failed"
mount -t overlay -o lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work root /sysroot ||
    fail "laying memory over the machine's root failed"

for folder in proc sys dev run; do
    mkdir -p "/sysroot/$folder"
done
mount --move /proc /sysroot/proc
mount --move /sys /sysroot/sys
mount --move /dev /sysroot/dev
mount -t tmpfs -o mode=755 tmpfs /sysroot/run
mkdir -p /sysroot/dev/shm /sysroot/dev/pts /sysroot/dev/hugepages
mount -t tmpfs -o mode=1777 tmpfs /sysroot/dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /sysroot/dev/pts
mount -t hugetlbfs hugetlbfs /sysroot/dev/hugepages
mount -t cgroup2 cgroup2 /sysroot/sys/fs/cgroup
ln -s /proc/self/fd /sysroot/dev/fd
ln -s /proc/self/fd/0 /sysroot/dev/stdin
ln -s /proc/self/fd/1 /sysroot/dev/stdout
ln -s /proc/self/fd/2 /sysroot/dev/stderr
echo "$hugepages" >/sysroot/proc/sys/vm/nr_hugepages

tree="/sysroot/lib/modules/$(uname -r)"
mkdir -p "$tree"
mount --bind "/sysroot$modules" "$tree" || fail "the module tree $modules is not there"

index=0
while [ "$index" -lt "$writable_count" ]; do
    eval "folder=\$writable_$index"
    mkdir -p "/sysroot$folder"
    mount -t 9p -o trans=virtio,version=9p2000.L,rw,cache=mmap,msize=524288 \
        "writable$index" "/sysroot$folder" || fail "mounting $folder failed"
    index=$((index + 1))
done

ip link set lo up
hostname uniddrv-vm

mkdir -p /sysroot/run/uniddrv-vm/trace
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=none trace /sysroot/run/uniddrv-vm/trace ||
    fail "mounting QEMU's trace failed"
cp /bin/busybox /vm/session /vm/command /vm/settings /sysroot/run/uniddrv-vm/
exec switch_root /sysroot /run/uniddrv-vm/busybox sh /run/uniddrv-vm/session
