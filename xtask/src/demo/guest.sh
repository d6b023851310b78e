# What `cargo xtask demo --vm` runs inside the virtual machine: sh -c THIS sh
# PROGRAM FOLDER, with the command uniddrv and the folder for the results.
set -eu
program=$1
folder=$2

heading() {
    printf '\n== %s\n' "$1"
}

show() {
    echo "$ uniddrv $*"
    "$program" "$@"
}

nvme() {
    echo "$ uniddrv list | grep NVMe"
    "$program" list | grep NVMe
}

# Linux names the drive in the background, once it has found it.
disk() {
    for folder_of_disk in "/sys/bus/pci/devices/$1"/nvme/nvme*/nvme*n*; do
        case ${folder_of_disk##*/} in
        *c*n*) continue ;;
        esac
        if [ "$(cat "$folder_of_disk/nsid" 2>/dev/null)" = "$2" ]; then
            echo "/dev/${folder_of_disk##*/}"
            return
        fi
    done
}

heading "The machine's devices, with Linux's drivers"
echo "This is Linux $(uname -r) with an IOMMU, in QEMU. What it has is emulated in software,"
echo "so the figures are small; what counts is the comparison on the same device."
show list

heading "Taking an NVMe controller from Linux"
show bind 0000:00:10.0
nvme

heading "Verifying data through Linux's VFIO, on both namespaces"
for namespace in 1 2; do
    show bench 0000:00:10.0 --namespace "$namespace" --rw randrw --bs 4k --qd 32 \
        --time 4 --size 64M --verify --overwrite
done

heading "Giving it back"
show unbind 0000:00:10.0
tries=0
until drive=$(disk 0000:00:10.0 1) && [ -b "$drive" ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ]; then
        echo "Linux has not found the drive again" >&2
        exit 1
    fi
    sleep 0.1
done
echo "Linux's driver has it again, and reads from it:"
echo "$ dd if=$drive of=/dev/null bs=1M count=16"
dd if="$drive" of=/dev/null bs=1M count=16

heading "Measuring Linux's driver with fio, then uniddrv, on the same controller"
arguments="bench 0000:00:11.0 --compare native --rw randread --bs 4k --qd 1,32 --time 4"
echo "$ uniddrv $arguments --json --report $folder/report-vm.html"
# The words have no spaces in them.
# shellcheck disable=SC2086
"$program" $arguments --json --report "$folder/report-vm.html" >"$folder/vm.json"
echo "Both controllers are with Linux again:"
nvme
