# Runs the command on the machine's root, sends what it prints and its exit
# status through three serial ports, and switches the machine off.
here=/run/uniddrv-vm
busybox=$here/busybox
. $here/settings

port() {
    for entry in /sys/class/virtio-ports/*; do
        read -r name <"$entry/name"
        if [ "$name" = "$1" ]; then
            echo "/dev/${entry##*/}"
        fi
    done
}

# Linux looks for namespaces in the background.
tries=0
until [ -b /dev/nvme0n1 ] && [ -b /dev/nvme0n2 ] && [ -b /dev/nvme1n1 ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 200 ]; then
        echo "uniddrv-vm: the NVMe drives did not appear" >/dev/console
        break
    fi
    $busybox usleep 50000
done

# Pipes stand between the command and the ports, since a port can be opened
# only once and programs do open /dev/stdout again.
$busybox mkfifo $here/out $here/err
$busybox cat $here/out >"$(port out)" &
out=$!
$busybox cat $here/err >"$(port err)" &
err=$!
exec 9>"$(port status)"
echo up >&9

/bin/sh $here/command </dev/null >$here/out 2>$here/err 9>&-
code=$?

# Whatever the command left running holds the pipes open: it ends here.
tries=0
while kill -0 $out 2>/dev/null || kill -0 $err 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -gt 4 ]; then
        for entry in /proc/[0-9]*; do
            pid=${entry#/proc/}
            case $pid in
            1 | "$out" | "$err") continue ;;
            esac
            if $busybox readlink "$entry/exe" >/dev/null; then
                kill -KILL "$pid" 2>/dev/null
            fi
        done
    fi
    $busybox usleep 50000
done

index=0
while [ "$index" -lt "$writable_count" ]; do
    eval "folder=\$writable_$index"
    $busybox umount "$folder" || $busybox sync
    index=$((index + 1))
done

echo "exit $code" >&9
$busybox poweroff -f
