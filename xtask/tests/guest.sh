# Runs in the guest, from tests/vm.rs: does a driver find what it needs there?
# Prints a line `ok NAME` or `not ok NAME` for each check, then `1..COUNT`.
count=0

check() {
    name=$1
    shift
    count=$((count + 1))
    if "$@" >&2; then
        echo "ok $name"
    else
        echo "not ok $name"
    fi
}

mounted() {
    grep -q "^[^ ]* $1 $2 " /proc/mounts
}

own_group() {
    set -- /sys/bus/pci/devices/"$1"/iommu_group/devices/*
    [ $# -eq 1 ] && [ -e "$1" ]
}

# namespace ADDRESS NUMBER: Linux's name for it. Linux looks at namespaces side
# by side, so their names say nothing of their numbers.
namespace() {
    for block in /sys/bus/pci/devices/"$1"/nvme/nvme*/nvme*n*; do
        if [ "$(cat "$block/nsid")" = "$2" ]; then
            basename "$block"
        fi
    done
}

# drive ADDRESS NUMBER SERIAL BLOCK_SIZE
drive() {
    name=$(namespace "$1" "$2") &&
        grep -q "^$3 *\$" "/sys/block/$name/device/serial" &&
        [ "$(cat "/sys/block/$name/queue/logical_block_size")" = "$4" ]
}

driver_of() {
    basename "$(readlink -f "/sys/bus/pci/devices/$1/driver")"
}

# give ADDRESS DRIVER: an empty DRIVER means Linux's own choice.
give() {
    echo "$1" >"/sys/bus/pci/devices/$1/driver/unbind" &&
        echo "$2" >"/sys/bus/pci/devices/$1/driver_override" &&
        echo "$1" >/sys/bus/pci/drivers_probe
}

wait_for() {
    tries=0
    until [ "$1" "$2" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || return 1
        sleep 0.1
    done
}

writes_and_reads_back() {
    head -c 1048576 /dev/urandom >/tmp/pattern &&
        dd if=/tmp/pattern of="/dev/$1" bs=64k oflag=direct status=none &&
        still_there "$1"
}

still_there() {
    dd if="/dev/$1" of=/tmp/back bs=64k count=16 iflag=direct status=none &&
        cmp /tmp/pattern /tmp/back
}

to_vfio() {
    give 0000:00:10.0 vfio-pci && [ "$(driver_of 0000:00:10.0)" = vfio-pci ] &&
        [ -z "$(ls /sys/block | grep nvme0n)" ] && [ -c "/dev/vfio/$group" ]
}

back_to_nvme() {
    give 0000:00:10.0 "" && [ "$(driver_of 0000:00:10.0)" = nvme ] &&
        wait_for -b /dev/nvme0n1 && wait_for -b /dev/nvme0n2
}

# Opens container, group and device as a driver would, by the numbers of
# Linux's vfio.h.
opens_through_type1() {
    perl -e '
        open(my $container, "+<", "/dev/vfio/vfio") or die "container: $!";
        open(my $group, "+<", "/dev/vfio/$ARGV[0]") or die "group: $!";
        (ioctl($container, 0x3b64, 0) // -1) == 0 or die "API version";
        ioctl($container, 0x3b65, 3) == 1 or die "no type1 version 2";
        my $number = pack("i", fileno($container));
        ioctl($group, 0x3b68, $number) or die "set container: $!";
        ioctl($container, 0x3b66, 3) or die "set IOMMU: $!";
        my $name = "$ARGV[1]\0";
        my $device = ioctl($group, 0x3b6a, $name) or die "device: $!";
        printf STDERR "device has descriptor %d\n", $device;
    ' "$group" 0000:00:10.0
}

noted() {
    grep -c pci_nvme_mmio_cfg /run/uniddrv-vm/trace/nvme
}

group=$(basename "$(readlink -f /sys/bus/pci/devices/0000:00:10.0/iommu_group)")

check "current folder" [ "$PWD" = "$1" ]
check "arguments" [ "$2" = "two words, it's \$HOME" ]
check "environment" [ "$VM_TEST_VALUE" = "a 'quoted'
value" ]
check "/proc" mounted /proc proc
check "/sys" mounted /sys sysfs
check "/dev" mounted /dev devtmpfs
check "/dev/shm" mounted /dev/shm tmpfs
check "/run" mounted /run tmpfs
check "root takes writes" touch /etc/written-by-the-guest /tmp/written-by-the-guest
check "/dev/stdout" sh -c 'echo "stdout opens again" >/dev/stdout'
check "huge pages" [ "$(cat /proc/sys/vm/nr_hugepages)" -eq 256 ]
check "modprobe" modprobe igb
for address in 10.0 11.0 12.0 13.0 14.0; do
    check "IOMMU group of $address" own_group "0000:00:$address"
done
check "namespace 1" drive 0000:00:10.0 1 uniddrv-data 512
check "namespace 2" drive 0000:00:10.0 2 uniddrv-data 4096
check "drive without data" drive 0000:00:11.0 1 uniddrv-null 512
check "names of the controllers" [ -d /sys/bus/pci/devices/0000:00:10.0/nvme/nvme0 ]
check "NICs" [ "$(driver_of 0000:00:13.0) $(driver_of 0000:00:14.0)" = "e1000e e1000e" ]
check "namespace 2 keeps data" writes_and_reads_back "$(namespace 0000:00:10.0 2)"
check "namespace 1 keeps data" writes_and_reads_back "$(namespace 0000:00:10.0 1)"
check "NVMe to vfio-pci" to_vfio
# Linux's driver enables the controller when it has it again, and QEMU notes that.
enabled_before=$(noted)
check "VFIO type1" opens_through_type1
check "NVMe back to Linux" back_to_nvme
check "QEMU's trace" [ "$(noted)" -gt "$enabled_before" ]
check "data survived" still_there "$(namespace 0000:00:10.0 1)"
echo "from the guest" >"$3/report" || exit 1
echo "1..$count"
exit 3
