//! A driver's program that is hostile: it leaves out the SDK's start-up and tries what no driver
//! should, one thing a process: its first argument. Prints `done` or an errno if it can.
//!
//! `sandbox_host` runs it in a sandbox and outside of any.
#![expect(unsafe_code, reason = "raw system calls, with arguments that no library passes")]

use std::time::Duration;

// What `sandbox_host` hands over.
const SOCKET: usize = 3;
const DEVICE: usize = 5;
const MEMORY: usize = 6;
const PAGE: usize = 4096;
/// Where its own program was while it was executed.
const PROGRAM: usize = 65;

const READ_WRITE: usize = (libc::PROT_READ | libc::PROT_WRITE) as usize;
const SHARED: usize = libc::MAP_SHARED as usize;
const PRIVATE: usize = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
const NONE: usize = usize::MAX;
const EMPTY_PATH: usize = libc::AT_EMPTY_PATH as usize;

/// A system call: its result, or minus its errno.
fn call<const N: usize>(number: i64, arguments: [usize; N]) -> i64 {
    let mut all = [0_usize; 6];
    for (place, argument) in all.iter_mut().zip(arguments) {
        *place = argument;
    }
    // SAFETY: no memory that Rust relies on is written or unmapped by any call below: pointers
    // are to constants that the call reads, to `BUFFER`, or invalid; and mappings are new, or at
    // addresses that another call here has just returned.
    let result = unsafe { libc::syscall(number, all[0], all[1], all[2], all[3], all[4], all[5]) };
    if result == -1 {
        -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        result
    }
}

fn text(string: &'static std::ffi::CStr) -> usize {
    string.as_ptr() as usize
}

fn bytes(bytes: &'static [u8]) -> usize {
    bytes.as_ptr() as usize
}

/// The address of a page that calls may write to and nothing else looks at.
fn buffer() -> usize {
    static BUFFER: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *BUFFER.get_or_init(|| map(PRIVATE, READ_WRITE, NONE, 0, PAGE) as usize)
}

fn map(flags: usize, protection: usize, fd: usize, offset: usize, len: usize) -> i64 {
    call(libc::SYS_mmap, [0, len, protection, flags, fd, offset])
}

fn main() {
    let attempt = std::env::args().nth(1).unwrap_or_default();
    let result = attempt_it(&attempt);
    if result < 0 { println!("errno {}", -result) } else { println!("done") }
}

fn attempt_it(attempt: &str) -> i64 {
    let result = files(attempt).or_else(|| network(attempt)).or_else(|| processes(attempt));
    let result = result.or_else(|| memory(attempt)).or_else(|| descriptors(attempt));
    let result = result.or_else(|| system(attempt)).or_else(|| ordinary(attempt));
    result.unwrap_or_else(|| {
        println!("there is no attempt {attempt}");
        std::process::exit(3)
    })
}

/// Files and folders.
fn files(attempt: &str) -> Option<i64> {
    let here = libc::AT_FDCWD as usize;
    let (read, write) = (libc::O_RDONLY as usize, (libc::O_WRONLY | libc::O_CREAT) as usize);
    Some(match attempt {
        "open" => call(libc::SYS_openat, [here, text(c"/etc/passwd"), read, 0]),
        "open-root" => call(libc::SYS_openat, [here, text(c"/"), read, 0]),
        "open-old" => call(libc::SYS_open, [text(c"/etc/passwd"), read, 0]),
        "open-create" => call(libc::SYS_openat, [here, text(c"/dev/shm/hostile"), write, 0o600]),
        "open-own-memory" => {
            call(libc::SYS_openat, [here, text(c"/proc/self/mem"), libc::O_RDWR as usize, 0])
        }
        "open-handle" => call(libc::SYS_open_by_handle_at, [here, buffer(), read]),
        "stat" => call(libc::SYS_newfstatat, [here, text(c"/"), buffer(), 0]),
        "readlink" => call(libc::SYS_readlink, [text(c"/proc/self/exe"), buffer(), PAGE]),
        "mkdir" => call(libc::SYS_mkdir, [text(c"/hostile"), 0o700]),
        "unlink" => call(libc::SYS_unlink, [text(c"/etc/passwd")]),
        "chdir" => call(libc::SYS_chdir, [text(c"/")]),
        "chroot" => call(libc::SYS_chroot, [text(c"/")]),
        "mount" => call(libc::SYS_mount, [text(c"x"), text(c"/"), text(c"tmpfs"), 0, 0]),
        "unmount" => call(libc::SYS_umount2, [text(c"/"), libc::MNT_DETACH as usize]),
        "fsopen" => call(libc::SYS_fsopen, [text(c"tmpfs"), 0]),
        "inotify" => call(libc::SYS_inotify_init1, [0]),
        _ => return None,
    })
}

/// Sockets.
fn network(attempt: &str) -> Option<i64> {
    let socket =
        |family: i32, kind: i32| call(libc::SYS_socket, [family as usize, kind as usize, 0]);
    Some(match attempt {
        "socket-internet" => socket(libc::AF_INET, libc::SOCK_STREAM),
        "socket-unix" => socket(libc::AF_UNIX, libc::SOCK_STREAM),
        "socket-netlink" => socket(libc::AF_NETLINK, libc::SOCK_RAW),
        "socketpair" => {
            let (family, kind) = (libc::AF_UNIX as usize, libc::SOCK_STREAM as usize);
            call(libc::SYS_socketpair, [family, kind, 0, buffer()])
        }
        "connect" => call(libc::SYS_connect, [SOCKET, buffer(), 2]),
        "bind" => call(libc::SYS_bind, [SOCKET, bytes(b"\x01\x00"), 2]),
        "listen" => call(libc::SYS_listen, [SOCKET, 1]),
        "accept" => call(libc::SYS_accept, [SOCKET, 0, 0]),
        "peer-process" => {
            let option = [SOCKET, libc::SOL_SOCKET as usize, 77, buffer(), buffer() + 64];
            call(libc::SYS_getsockopt, option)
        }
        "send-to-another" => {
            let address = bytes(b"\x01\x00\x00another");
            call(libc::SYS_sendto, [SOCKET, text(c"x"), 1, 0, address, 10])
        }
        "send-device" => send_device(),
        _ => return None,
    })
}

/// Passes the device's file descriptor on to the other end of the socket.
fn send_device() -> i64 {
    let byte = libc::iovec { iov_base: text(c"x") as *mut _, iov_len: 1 };
    // A `cmsghdr` with one file descriptor: length, level, type, number.
    let rights = libc::SOL_SOCKET as u64 | (libc::SCM_RIGHTS as u64) << 32;
    let control: [u64; 3] = [20, rights, DEVICE as u64];
    let message: [usize; 7] =
        [0, 0, (&raw const byte) as usize, 1, control.as_ptr() as usize, size_of_val(&control), 0];
    call(libc::SYS_sendmsg, [SOCKET, message.as_ptr() as usize, 0])
}

/// Other processes, and more of its own.
fn processes(attempt: &str) -> Option<i64> {
    let (own, parent) = (call(libc::SYS_getpid, []) as usize, call(libc::SYS_getppid, []) as usize);
    let trace = |what: libc::c_uint, pid| call(libc::SYS_ptrace, [what as usize, pid, 0, 0]);
    let vector = libc::iovec { iov_base: buffer() as *mut _, iov_len: 8 };
    let vector = (&raw const vector) as usize;
    Some(match attempt {
        "trace-me" => trace(libc::PTRACE_TRACEME, 0),
        "trace-parent" => trace(libc::PTRACE_SEIZE, parent),
        "kill-parent" => call(libc::SYS_kill, [parent, 0]),
        "kill-all" => call(libc::SYS_kill, [NONE, libc::SIGKILL as usize]),
        "kill-thread" => call(libc::SYS_tkill, [own, 0]),
        "kill-other-thread" => call(libc::SYS_tgkill, [2, 2, libc::SIGKILL as usize]),
        "queue-signal" => call(libc::SYS_rt_sigqueueinfo, [own, 0, buffer()]),
        "pidfd" => call(libc::SYS_pidfd_open, [own, 0]),
        "pidfd-signal" => call(libc::SYS_pidfd_send_signal, [SOCKET, 0, 0, 0]),
        "pidfd-take" => call(libc::SYS_pidfd_getfd, [SOCKET, 0, 0]),
        "read-process" => call(libc::SYS_process_vm_readv, [own, vector, 1, vector, 1, 0]),
        "write-process" => call(libc::SYS_process_vm_writev, [own, vector, 1, vector, 1, 0]),
        "advise-process" => call(libc::SYS_process_madvise, [SOCKET, vector, 1, 0, 0]),
        "fork" => leave_child(call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0])),
        "fork-old" => leave_child(call(libc::SYS_fork, [])),
        "thread" => {
            let thread = std::thread::Builder::new().spawn(|| {});
            thread.map_or_else(|error| -i64::from(error.raw_os_error().unwrap_or(0)), |_| 0)
        }
        "execute" => {
            let arguments = [text(c"true"), 0];
            call(libc::SYS_execve, [text(c"/bin/true"), arguments.as_ptr() as usize, 0])
        }
        // Where its program was, nothing is any more.
        "execute-again" => {
            call(libc::SYS_execveat, [PROGRAM, text(c""), buffer(), buffer(), EMPTY_PATH])
        }
        "execute-path" => {
            let path = text(c"/bin/true");
            call(libc::SYS_execveat, [PROGRAM, path, buffer(), buffer(), EMPTY_PATH])
        }
        "execute-memory" => {
            call(libc::SYS_execveat, [MEMORY, text(c""), buffer(), buffer(), EMPTY_PATH])
        }
        "wait-for" => call(libc::SYS_wait4, [NONE, 0, libc::WNOHANG as usize, 0]),
        _ => return None,
    })
}

/// In a child, ends it at once.
fn leave_child(result: i64) -> i64 {
    if result == 0 {
        call(libc::SYS_exit_group, [0]);
    }
    result
}

/// Memory that is not its own, and memory to execute.
fn memory(attempt: &str) -> Option<i64> {
    let execute = libc::PROT_EXEC as usize | libc::PROT_READ as usize;
    let window = || map(SHARED, READ_WRITE, DEVICE, PAGE, PAGE) as usize;
    let upper = 1_usize << 32;
    Some(match attempt {
        "map-registers" => map(SHARED, READ_WRITE, DEVICE, 0, PAGE),
        "map-behind" => map(SHARED, READ_WRITE, DEVICE, 2 * PAGE, PAGE),
        "map-larger" => map(SHARED, READ_WRITE, DEVICE, PAGE, 2 * PAGE),
        "map-privately" => map(libc::MAP_PRIVATE as usize, READ_WRITE, DEVICE, 0, PAGE),
        // The kernel takes an `int`, and does not see this bit.
        "map-in-disguise" => map(SHARED, READ_WRITE, DEVICE | upper, 0, PAGE),
        "map-window-in-disguise" => map(SHARED, READ_WRITE, DEVICE | upper, 2 * PAGE, PAGE),
        "remap-window" => call(libc::SYS_mremap, [window(), PAGE, 2 * PAGE, 1, 0]),
        "remap-pages" => call(libc::SYS_remap_file_pages, [window(), PAGE, 0, 2, 0]),
        "map-code" => map(PRIVATE, execute, NONE, 0, PAGE),
        "map-shared-code" => map(SHARED, execute, MEMORY, 0, PAGE),
        "protect-code" => call(libc::SYS_mprotect, [buffer(), PAGE, execute]),
        "protect-code-by-key" => call(libc::SYS_pkey_mprotect, [buffer(), PAGE, execute, NONE]),
        "map-huge" => map(PRIVATE | libc::MAP_HUGETLB as usize, READ_WRITE, NONE, 0, 2 << 20),
        "map-much" => map(PRIVATE, READ_WRITE, NONE, 0, 1 << 30),
        "lock-much" => {
            let address = map(PRIVATE, READ_WRITE, NONE, 0, 32 << 20) as usize;
            call(libc::SYS_mlock, [address, 32 << 20])
        }
        "punch-hole" => {
            let address = map(SHARED, READ_WRITE, MEMORY, 0, PAGE) as usize;
            call(libc::SYS_madvise, [address, PAGE, libc::MADV_REMOVE as usize])
        }
        "memfd" => call(libc::SYS_memfd_create, [text(c"x"), 0]),
        "secret-memory" => call(libc::SYS_memfd_secret, [0]),
        "shared-memory" => call(libc::SYS_shmget, [0, PAGE, libc::IPC_CREAT as usize | 0o600]),
        "message-queue" => {
            let flags = (libc::O_RDWR | libc::O_CREAT) as usize;
            call(libc::SYS_mq_open, [text(c"hostile"), flags, 0o600, 0])
        }
        "fault-handler" => call(libc::SYS_userfaultfd, [libc::O_CLOEXEC as usize]),
        _ => return None,
    })
}

/// The file descriptors that it has.
fn descriptors(attempt: &str) -> Option<i64> {
    let vector = libc::iovec { iov_base: buffer() as *mut _, iov_len: 8 };
    let vector = (&raw const vector) as usize;
    let fcntl = |fd, command: i32, value| call(libc::SYS_fcntl, [fd, command as usize, value]);
    let upper = 1_usize << 32;
    Some(match attempt {
        "control-socket" => call(libc::SYS_ioctl, [SOCKET, libc::FIONREAD as usize, buffer()]),
        // VFIO_DEVICE_RESET.
        "control-device" => call(libc::SYS_ioctl, [DEVICE, 0x3b6f, 0]),
        "type-into-terminal" => call(libc::SYS_ioctl, [0, libc::TIOCSTI as usize, text(c"x")]),
        "read-device" => call(libc::SYS_read, [DEVICE, buffer(), 8]),
        "write-device" => call(libc::SYS_write, [DEVICE, buffer(), 8]),
        "read-device-in-disguise" => call(libc::SYS_read, [DEVICE | upper, buffer(), 8]),
        "read-device-vector" => call(libc::SYS_readv, [DEVICE, vector, 1]),
        "write-device-vector" => call(libc::SYS_writev, [DEVICE, vector, 1]),
        "read-at" => call(libc::SYS_pread64, [DEVICE, buffer(), 8, 0]),
        "write-at" => call(libc::SYS_pwrite64, [DEVICE, buffer(), 8, 0]),
        "read-vector-at" => call(libc::SYS_preadv, [DEVICE, vector, 1, 0, 0]),
        "write-vector-at" => call(libc::SYS_pwritev, [DEVICE, vector, 1, 0, 0]),
        "seek" => call(libc::SYS_lseek, [DEVICE, 0, libc::SEEK_CUR as usize]),
        "write-memory" => call(libc::SYS_write, [MEMORY, buffer(), 8]),
        "resize" => call(libc::SYS_ftruncate, [MEMORY, 8 * PAGE]),
        "allocate" => call(libc::SYS_fallocate, [MEMORY, 0, 0, 8 * PAGE]),
        "send-file" => call(libc::SYS_sendfile, [SOCKET, DEVICE, 0, 8]),
        "copy-range" => call(libc::SYS_copy_file_range, [DEVICE, 0, MEMORY, 0, 8, 0]),
        "splice" => call(libc::SYS_splice, [DEVICE, 0, 1, 0, 8, 0]),
        "duplicate" => call(libc::SYS_dup, [DEVICE]),
        "duplicate-to" => call(libc::SYS_dup2, [DEVICE, 20]),
        "duplicate-with" => call(libc::SYS_dup3, [DEVICE, 20, 0]),
        "duplicate-by-fcntl" => fcntl(DEVICE, libc::F_DUPFD, 20),
        "make-blocking" => fcntl(SOCKET, libc::F_SETFL, 0),
        "own-signals" => fcntl(SOCKET, libc::F_SETOWN, 1),
        "seal" => fcntl(MEMORY, libc::F_ADD_SEALS, 1),
        "mode" => call(libc::SYS_fchmod, [MEMORY, 0o777]),
        "event" => call(libc::SYS_eventfd2, [0, 0]),
        _ => return None,
    })
}

/// The rest of the kernel.
fn system(attempt: &str) -> Option<i64> {
    let user = call(libc::SYS_getuid, []) as usize;
    let prctl = |what: i32, value: usize| call(libc::SYS_prctl, [what as usize, value, 0, 0, 0]);
    let limits: [u64; 2] = [1 << 20, 1 << 20];
    let limits = limits.as_ptr() as usize;
    let open_files = libc::RLIMIT_NOFILE as usize;
    Some(match attempt {
        "ring" => call(libc::SYS_io_uring_setup, [4, buffer()]),
        "bpf" => call(libc::SYS_bpf, [5, buffer(), 120]),
        "counters" => call(libc::SYS_perf_event_open, [buffer(), 0, NONE, NONE, 0]),
        "keys" => call(libc::SYS_keyctl, [0, NONE - 2, 0]),
        "add-key" => call(libc::SYS_add_key, [text(c"user"), text(c"x"), text(c"x"), 1, NONE - 2]),
        "unshare" => call(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize]),
        "enter-namespace" => call(libc::SYS_setns, [SOCKET, 0]),
        "set-user" => call(libc::SYS_setuid, [user]),
        "become-root" => call(libc::SYS_setresuid, [0, 0, 0]),
        "set-group" => call(libc::SYS_setgid, [0]),
        "set-capabilities" => call(libc::SYS_capset, [text(c"\x22\x05\x08\x20"), buffer()]),
        "module" => call(libc::SYS_init_module, [buffer(), 8, text(c"")]),
        "kernel-log" => call(libc::SYS_syslog, [3, buffer(), 8]),
        "reboot" => call(libc::SYS_reboot, [0, 0, 0, 0]),
        "host-name" => call(libc::SYS_sethostname, [text(c"hostile"), 7]),
        "set-clock" => call(libc::SYS_clock_settime, [0, 0]),
        "ports" => call(libc::SYS_iopl, [3]),
        "segments" => call(libc::SYS_modify_ldt, [0, buffer(), 16]),
        "personality" => call(libc::SYS_personality, [0x0040_0000]),
        "dumpable" => prctl(libc::PR_SET_DUMPABLE, 1),
        "outlive" => prctl(libc::PR_SET_PDEATHSIG, 0),
        "let-trace" => prctl(libc::PR_SET_PTRACER, NONE),
        "raise-limit" => call(libc::SYS_prlimit64, [0, open_files, limits, 0]),
        "limits-of-others" => call(libc::SYS_prlimit64, [2, open_files, 0, buffer()]),
        "set-limit" => call(libc::SYS_setrlimit, [open_files, limits]),
        "another-cpu" => call(libc::SYS_sched_setaffinity, [0, 8, bytes(b"\x01\0\0\0\0\0\0")]),
        "real-time" => {
            let fifo = libc::SCHED_FIFO as usize;
            call(libc::SYS_sched_setscheduler, [0, fifo, bytes(b"\x01\0\0\0")])
        }
        "priority-lock" => call(libc::SYS_futex, [buffer(), libc::FUTEX_LOCK_PI as usize, 0, 0]),
        "listen-to-calls" => {
            let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as usize;
            call(libc::SYS_seccomp, [libc::SECCOMP_SET_MODE_FILTER as usize, flags, buffer()])
        }
        "timer" => call(libc::SYS_timer_create, [0, 0, buffer()]),
        "unknown-call" => call(4_000, []),
        "x32-call" => call(0x4000_0000 | libc::SYS_getpid, []),
        "32-bit-call" => old_call(),
        _ => return None,
    })
}

/// `getpid` by the system call interface of 32-bit programs.
fn old_call() -> i64 {
    let mut result: u32 = 20;
    // SAFETY: the interrupt takes the number in EAX and leaves the result there; on a kernel
    // without it, it faults. `getpid` touches no memory.
    unsafe { std::arch::asm!("int 0x80", inlateout("eax") result) };
    i64::from(result.cast_signed())
}

/// What a driver does, and how it may end.
fn ordinary(attempt: &str) -> Option<i64> {
    let (read_fault, stack): (usize, [usize; 16]) = (16, std::array::from_fn(|index| index));
    Some(match attempt {
        "map-window" => map(SHARED, READ_WRITE, DEVICE, PAGE, PAGE),
        "map-memory" => map(SHARED, READ_WRITE, MEMORY, 0, 4 * PAGE),
        "receive" => {
            let received = call(libc::SYS_recvfrom, [SOCKET, buffer(), PAGE, 0, 0, 0]);
            let sent = call(libc::SYS_sendto, [SOCKET, buffer(), 5, 0, 0, 0]);
            if received == 5 { sent } else { received.min(-1) }
        }
        "live" => {
            let blocks: Vec<Vec<u8>> = (1..64).map(|count| vec![1; count << 14]).collect();
            let mut grown: Vec<u8> = Vec::new();
            for block in &blocks {
                grown.extend(block);
            }
            let map: std::collections::HashMap<_, _> = blocks.iter().enumerate().collect();
            let time = std::time::Instant::now();
            std::thread::sleep(Duration::from_millis(1));
            let sum: usize = grown.iter().map(|&byte| usize::from(byte)).sum();
            let right = map.len() == 63 && sum == 2016 << 14 && !time.elapsed().is_zero();
            i64::from(right) - 1
        }
        "filter-more" => {
            let allow: u64 = 0x7fff_0000 << 32 | 0x06;
            let program = [1_usize, (&raw const allow) as usize];
            let mode = libc::SECCOMP_SET_MODE_FILTER as usize;
            call(libc::SYS_seccomp, [mode, 0, program.as_ptr() as usize])
        }
        "wait" => {
            println!("waiting");
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        "panic" => panic!("on purpose"),
        "abort" => std::process::abort(),
        // A plain load from an address where nothing is.
        // SAFETY: not sound, on purpose: the fault ends the process.
        "fault" => unsafe { std::ptr::read_volatile(read_fault as *const i64) },
        "overflow" => i64::from(recurse(stack) == 0),
        _ => return None,
    })
}

#[expect(unconditional_recursion, reason = "on purpose")]
fn recurse(stack: [usize; 16]) -> usize {
    let deeper = recurse(std::hint::black_box(stack));
    deeper + stack[deeper % 16]
}
