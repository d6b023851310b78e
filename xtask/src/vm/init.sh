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
mount -t overlay -o lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work root /root ||
    fail "laying memory over the machine's root failed"

for folder in proc sys dev run; do
    mkdir -p "/root/$folder"
done
mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
mount -t tmpfs -o mode=755 tmpfs /root/run
mkdir -p /root/dev/shm /root/dev/pts /root/dev/hugepages
mount -t tmpfs -o mode=1777 tmpfs /root/dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /root/dev/pts
mount -t hugetlbfs hugetlbfs /root/dev/hugepages
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
ln -s /proc/self/fd /root/dev/fd
ln -s /proc/self/fd/0 /root/dev/stdin
ln -s /proc/self/fd/1 /root/dev/stdout
ln -s /proc/self/fd/2 /root/dev/stderr
echo "$hugepages" >/root/proc/sys/vm/nr_hugepages

tree="/root/lib/modules/$(uname -r)"
mkdir -p "$tree"
mount --bind "/root$modules" "$tree" || fail "the module tree $modules is not there"

index=0
while [ "$index" -lt "$writable_count" ]; do
    eval "folder=\$writable_$index"
    mkdir -p "/root$folder"
    mount -t 9p -o trans=virtio,version=9p2000.L,rw,cache=mmap,msize=524288 \
        "writable$index" "/root$folder" || fail "mounting $folder failed"
    index=$((index + 1))
done

ip link set lo up
hostname uniddrv-vm

mkdir -p /root/run/uniddrv-vm/trace
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=none trace /root/run/uniddrv-vm/trace ||
    fail "mounting QEMU's trace failed"
cp /bin/busybox /vm/session /vm/command /vm/settings /root/run/uniddrv-vm/
exec switch_root /root /run/uniddrv-vm/busybox sh /run/uniddrv-vm/session
