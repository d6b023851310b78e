//! The system calls that a driver process may make, as seccomp filters.
//!
//! Three kinds of calls are told apart. What the start of a static program and a polling loop
//! need is allowed, with conditions on its arguments. What libraries and ordinary programs do by
//! habit, and get along without, is refused with EPERM: the author of a driver sees an error
//! where it happens. All else ends the process with SIGSYS: no driver does it by mistake, so it
//! is better not to let whoever does try on.
//!
//! Notable for not being allowed: `sendmsg`, since a driver could give its device's file
//! descriptor to a client who is not in a sandbox; `mremap`, since it could make a window on a
//! device larger; `read` and `write` of a device, which reach all registers of its first BAR.

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op,
    SeccompCondition as Condition, SeccompFilter, SeccompRule as Rule, TargetArch,
};

use super::Window;

/// The filters, in the order that they are to be installed in.
pub(super) struct Filters {
    /// Refuses with EPERM.
    pub(super) refuse: BpfProgram,
    /// Ends the process for what is not on its list.
    pub(super) allow: BpfProgram,
}

/// What the filters depend on.
pub(super) struct Process<'a> {
    /// The process and its only thread, as numbers in its own PID namespace.
    pub(super) pid: i32,
    pub(super) tid: i32,
    /// The file descriptor of the program, which may be executed.
    pub(super) program: i32,
    pub(super) windows: &'a [Window],
}

type Calls = Vec<(i64, Vec<Rule>)>;

/// Allowed whatever the arguments.
const ALLOWED: &[i64] = &[
    // What was handed over: receiving more, waiting for it, and closing it.
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_close,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_fstat,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_brk,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_mlockall,
    libc::SYS_munlockall,
    // Time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    // Itself.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_exit,
    libc::SYS_exit_group,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

/// Refused with EPERM whatever the arguments.
const REFUSED: &[i64] = &[
    // The C library looks at files: its own program's name, /proc/self/maps for the stack.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_lseek,
    libc::SYS_sysinfo,
    libc::SYS_membarrier,
    // `realloc` of a large block gets along without.
    libc::SYS_mremap,
    // Threads.
    libc::SYS_clone,
    libc::SYS_clone3,
    // Pinning oneself to a CPU, and better scheduling.
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setscheduler,
    libc::SYS_setpriority,
    // Buffers of one's own, and more about sockets than their data.
    libc::SYS_memfd_create,
    libc::SYS_sendmsg,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];

/// Advice that changes nothing but this process's own memory.
const ADVICE: &[i32] = &[
    libc::MADV_NORMAL,
    libc::MADV_WILLNEED,
    libc::MADV_DONTNEED,
    libc::MADV_FREE,
    libc::MADV_HUGEPAGE,
    libc::MADV_NOHUGEPAGE,
    libc::MADV_DONTDUMP,
    libc::MADV_POPULATE_READ,
    libc::MADV_POPULATE_WRITE,
];

/// The operations of futexes that locks are made of.
const FUTEX: &[i32] =
    &[libc::FUTEX_WAIT, libc::FUTEX_WAKE, libc::FUTEX_WAIT_BITSET, libc::FUTEX_WAKE_BITSET];
/// All but the flags FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME.
const FUTEX_OPERATION: u64 = !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u32 as u64;

/// What `fcntl` may ask, and the one flag that it may set.
const FCNTL: &[i32] = &[libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_GET_SEALS];

/// `prctl`: names memory. linux/prctl.h
const PR_SET_VMA: i32 = 0x5356_4d41;

/// Bits of `mmap`'s flags that say what kind of mapping it is.
const MAP_KIND: i32 = libc::MAP_TYPE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;

/// Compiles the filters for `process`.
pub(super) fn compile(process: &Process<'_>) -> Result<Filters, BackendError> {
    let architecture: TargetArch = std::env::consts::ARCH.try_into()?;
    let (allowed, refused) = (allowed(process)?, refused()?);
    let filter = |calls: Calls, otherwise, action| {
        SeccompFilter::new(calls.into_iter().collect(), otherwise, action, architecture)
    };
    // Where both have an opinion, the kernel takes the more severe one: what the first refuses,
    // the second has to let pass.
    let passed = refused.iter().map(|&(call, _)| (call, Vec::new()));
    let mut all: Calls = passed.collect();
    all.extend(allowed);
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    Ok(Filters {
        refuse: filter(refused, SeccompAction::Allow, refuse)?.try_into()?,
        allow: filter(all, SeccompAction::KillProcess, SeccompAction::Allow)?.try_into()?,
    })
}

/// Refused: the calls of [`REFUSED`], and others with some of their arguments.
fn refused() -> Result<Calls, BackendError> {
    let mut calls: Calls = REFUSED.iter().map(|&call| (call, Vec::new())).collect();
    let not = |argument, value: i32| int(argument, Op::Ne, value);
    // What is asked of an open file is fine, what is asked by name is not.
    let by_name = |argument| masked(argument, libc::AT_EMPTY_PATH, 0);
    calls.push((libc::SYS_newfstatat, rules([vec![by_name(3)?]])?));
    calls.push((libc::SYS_statx, rules([vec![by_name(2)?]])?));
    // Duplicating, and flags that the other side of a socket sees too.
    let others = FCNTL.iter().map(|&command| not(1, command)).collect::<Result<_, _>>()?;
    calls.push((libc::SYS_fcntl, rules([others])?));
    // Setting limits; asking for them is fine.
    let set = Condition::new(2, Len::Qword, Op::Ne, 0)?;
    calls.push((libc::SYS_prlimit64, rules([vec![set]])?));
    // Naming memory, as some allocators do.
    calls.push((libc::SYS_prctl, rules([vec![int(0, Op::Eq, PR_SET_VMA)?]])?));
    #[cfg(target_arch = "x86_64")]
    {
        // The C library sets its thread's FS, and asks for shadow stacks.
        const ARCH_SET_FS: i32 = 0x1002;
        calls.push((libc::SYS_arch_prctl, rules([vec![not(0, ARCH_SET_FS)?]])?));
    }
    Ok(calls)
}

/// Allowed: the calls of [`ALLOWED`], and others with some of their arguments.
fn allowed(process: &Process<'_>) -> Result<Calls, BackendError> {
    let mut calls: Calls = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();

    let no_window = |argument| {
        let numbers = process.windows.iter().map(|window| window.number);
        numbers.map(|number| int(argument, Op::Ne, number)).collect::<Result<Vec<_>, _>>()
    };
    for call in [libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev] {
        let conditions = no_window(0)?;
        // A rule has to have a condition.
        calls.push((call, if conditions.is_empty() { vec![] } else { rules([conditions])? }));
    }
    // To whom a socket is connected, and nobody else.
    calls.push((libc::SYS_sendto, rules([vec![Condition::new(4, Len::Qword, Op::Eq, 0)?]])?));

    // Nothing executable. Private memory, what was handed over, and the windows.
    let no_code = || masked(2, libc::PROT_EXEC, 0);
    let private = vec![no_code()?, masked(3, MAP_KIND, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)?];
    let mut shared = vec![no_code()?, masked(3, MAP_KIND, libc::MAP_SHARED)?];
    shared.extend(no_window(4)?);
    let mut mmap = rules([private, shared])?;
    for window in process.windows {
        mmap.extend(rules([vec![
            int(2, Op::Eq, libc::PROT_READ | libc::PROT_WRITE)?,
            int(3, Op::Eq, libc::MAP_SHARED)?,
            int(4, Op::Eq, window.number)?,
            Condition::new(1, Len::Qword, Op::Le, window.len)?,
            Condition::new(5, Len::Qword, Op::Eq, window.offset)?,
        ]])?);
    }
    calls.push((libc::SYS_mmap, mmap));
    calls.push((libc::SYS_mprotect, rules([vec![no_code()?]])?));
    calls.push((libc::SYS_madvise, any(2, u64::from(u32::MAX), ADVICE)?));

    calls.push((libc::SYS_futex, any(1, FUTEX_OPERATION, FUTEX)?));
    // `abort` and `raise`.
    calls.push((
        libc::SYS_tgkill,
        rules([vec![int(0, Op::Eq, process.pid)?, int(1, Op::Eq, process.tid)?]])?,
    ));
    // Its own limits, see `refused` for which way.
    calls.push((libc::SYS_prlimit64, rules([vec![int(0, Op::Eq, 0)?]])?));
    // Further filters, which can only take away; its name, which it tells nobody but debuggers.
    calls.push((
        libc::SYS_prctl,
        any(0, u64::from(u32::MAX), &[libc::PR_SET_NO_NEW_PRIVS, libc::PR_SET_NAME, PR_SET_VMA])?,
    ));
    let install = int(0, Op::Eq, libc::SECCOMP_SET_MODE_FILTER.cast_signed())?;
    calls.push((libc::SYS_seccomp, rules([vec![install, int(1, Op::Eq, 0)?]])?));
    // Is this a terminal?
    calls.push((libc::SYS_ioctl, rules([vec![int(1, Op::Eq, libc::TCGETS as i32)?]])?));
    // Once: the number is above the limit on numbers, so that after it is closed by the very
    // execution, no file descriptor can have it again.
    calls.push((
        libc::SYS_execveat,
        rules([vec![int(0, Op::Eq, process.program)?, int(4, Op::Eq, libc::AT_EMPTY_PATH)?]])?,
    ));
    Ok(calls)
}

/// A condition on an argument that the kernel takes as an `int`: of its upper half, it sees
/// nothing, and so must we.
fn int(argument: u8, op: Op, value: i32) -> Result<Condition, BackendError> {
    Condition::new(argument, Len::Dword, op, u64::from(value as u32))
}

/// Holds where the bits `mask` of an argument are `value`.
fn masked(argument: u8, mask: i32, value: i32) -> Result<Condition, BackendError> {
    int(argument, Op::MaskedEq(u64::from(mask as u32)), value)
}

/// Rules of which one has to hold, each of conditions that all have to.
fn rules<const N: usize>(rules: [Vec<Condition>; N]) -> Result<Vec<Rule>, BackendError> {
    rules.into_iter().map(Rule::new).collect()
}

/// Rules that hold where the bits `mask` of an argument are one of `values`.
fn any(argument: u8, mask: u64, values: &[i32]) -> Result<Vec<Rule>, BackendError> {
    let rule = |&value: &i32| Rule::new(vec![int(argument, Op::MaskedEq(mask), value)?]);
    values.iter().map(rule).collect()
}
