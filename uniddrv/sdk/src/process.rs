//! Processes: spawned from a program's file descriptor into namespaces of their own, with
//! exactly the file descriptors that they are given; and watched through a pidfd.
//!
//! [`Birth::spawn`] is what `posix_spawn` is, with namespaces and a pidfd: parent and child
//! share their memory until the child executes its program, so nothing is copied, however large
//! the parent is.

mod pidfd;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::io::{Errno, FdFlags};
use rustix::process::Pid;

pub use pidfd::{Ended, Pidfd};

bitflags::bitflags! {
    /// Namespaces of Linux, see namespaces(7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Namespaces: c_int {
        /// Users and capabilities, user_namespaces(7).
        const USER = libc::CLONE_NEWUSER;
        /// Process numbers, pid_namespaces(7).
        const PID = libc::CLONE_NEWPID;
        /// Mounts, mount_namespaces(7).
        const MOUNT = libc::CLONE_NEWNS;
        /// Network devices, addresses and ports, network_namespaces(7).
        const NETWORK = libc::CLONE_NEWNET;
        /// System V and POSIX message queues and shared memory, ipc_namespaces(7).
        const IPC = libc::CLONE_NEWIPC;
        /// The host's name, uts_namespaces(7).
        const UTS = libc::CLONE_NEWUTS;
        /// The root of the cgroup tree as it is seen, cgroup_namespaces(7).
        const CGROUP = libc::CLONE_NEWCGROUP;
    }
}

/// What a new process is born with.
#[derive(Debug)]
pub struct Birth<'a> {
    /// The program, as a file descriptor. It need not have a name anywhere.
    pub program: BorrowedFd<'a>,
    /// Its arguments; the first is its own name.
    pub arguments: &'a [&'a CStr],
    /// Its environment, each `NAME=value`.
    pub environment: &'a [&'a CStr],
    /// What it inherits, and under which number. Everything else is closed.
    pub inherited: &'a [(BorrowedFd<'a>, RawFd)],
    /// Which namespaces it is the first process of. In a user namespace of its own it has all
    /// capabilities, and as ambient ones it keeps them when it executes its program, although no
    /// user is root there yet.
    pub namespaces: Namespaces,
}

/// Why a process could not be spawned.
#[derive(Debug, thiserror::Error)]
#[error("cannot spawn a process: {step}: {source}")]
pub struct BirthError {
    /// The system call that failed.
    pub step: &'static str,
    /// What it returned.
    pub source: io::Error,
}

/// The child's stack until it executes its program: a few small frames.
const STACK: usize = 64 << 10;

/// What the child needs before it executes its program. Everything is allocated beforehand: the
/// child may not allocate, since another thread may hold the allocator's lock.
struct Plan {
    program: c_int,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    moves: *mut Move,
    move_count: usize,
    /// A number above all that the child is to end up with.
    above: c_int,
    keep_capabilities: bool,
    failed: Option<(&'static str, c_int)>,
}

/// A file descriptor on its way to the number that the child is to have it under.
struct Move {
    from: c_int,
    to: c_int,
}

impl Birth<'_> {
    /// Spawns the process. It starts with all signals at their default action and none blocked,
    /// and its parent is the calling *thread*, as far as PR_SET_PDEATHSIG is concerned.
    ///
    /// # Errors
    /// Which step failed, and how: EPERM where namespaces are refused, ENOSPC where there are
    /// too many of them, EINVAL for a number below 0 or given twice.
    pub fn spawn(&self) -> Result<Pidfd, BirthError> {
        let invalid = |step| BirthError { step, source: Errno::INVAL.into() };
        let mut moves: Vec<Move> = Vec::with_capacity(self.inherited.len());
        for &(fd, to) in self.inherited {
            if to < 0 || moves.iter().any(|earlier| earlier.to == to) {
                return Err(invalid("numbering what it inherits"));
            }
            moves.push(Move { from: fd.as_raw_fd(), to });
        }
        let highest = moves.iter().map(|one| one.to).max().unwrap_or(2).max(2);
        let above = highest.checked_add(1).ok_or(invalid("numbering what it inherits"))?;
        let arguments = pointers(self.arguments);
        let environment = pointers(self.environment);
        let mut plan = Plan {
            program: self.program.as_raw_fd(),
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            moves: moves.as_mut_ptr(),
            move_count: moves.len(),
            above,
            keep_capabilities: self.namespaces.contains(Namespaces::USER),
            failed: None,
        };
        let mut stack = vec![0_u128; STACK / size_of::<u128>()];
        let flags = libc::CLONE_VM
            | libc::CLONE_VFORK
            | libc::CLONE_PIDFD
            | libc::SIGCHLD
            | self.namespaces.bits();
        let mut pidfd: c_int = -1;
        // SAFETY: the child runs `born` in this process's memory while this thread waits
        // (CLONE_VFORK) until it has executed its program or ended, so `plan`, what it points to
        // and `stack` outlive its use of them. The stack is its own, aligned to 16 bytes, and
        // used from its upper end down. Blocked signals keep handlers of this process from
        // running in the child. `pidfd` is where CLONE_PIDFD stores; both signal sets are
        // initialised by the calls that they are passed to before they are read.
        let (pid, errno) = unsafe {
            let mut every: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut every);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const every, &raw mut before);
            let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
            let plan = (&raw mut plan).cast::<c_void>();
            let pid = libc::clone(born, top, flags, plan, &raw mut pidfd);
            let errno = io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
            (pid, errno)
        };
        let Some(pid) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else {
            return Err(BirthError { step: "clone", source: errno });
        };
        // SAFETY: clone succeeded with CLONE_PIDFD, so it has stored a new file descriptor here
        // that nothing else knows of.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let mut process = Pidfd::new(pidfd, pid);
        if let Some((step, errno)) = plan.failed {
            // It has ended already, or is about to.
            let _ = process.wait(std::time::Duration::from_secs(1));
            return Err(BirthError { step, source: io::Error::from_raw_os_error(errno) });
        }
        Ok(process)
    }
}

/// `strings` as execve(2) wants them: pointers, and a null at the end.
fn pointers(strings: &[&CStr]) -> Vec<*const c_char> {
    let pointers = strings.iter().map(|string| string.as_ptr());
    pointers.chain([std::ptr::null()]).collect()
}

/// The child, until it executes its program. Async-signal-safe: system calls and nothing else.
extern "C" fn born(plan: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a `Plan` whose pointers are valid, waits meanwhile and touches none
    // of it, so this is the only reference.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    // SAFETY: `moves` points to `move_count` entries, see above.
    let moves = unsafe { std::slice::from_raw_parts_mut(plan.moves, plan.move_count) };
    let step = execute_plan(plan, moves);
    // SAFETY: errno is this thread's, which in the child is the waiting parent thread's.
    plan.failed = Some((step, unsafe { *libc::__errno_location() }));
    // SAFETY: ends the child at once, without anything of the parent's being run.
    unsafe { libc::_exit(127) }
}

/// Returns only when a step fails: which.
fn execute_plan(plan: &Plan, moves: &mut [Move]) -> &'static str {
    // SAFETY: system calls on the child's own signal actions, signal mask, capabilities and table
    // of file descriptors (there is no CLONE_SIGHAND and no CLONE_FILES), with arguments that are
    // numbers or point to initialised values on this stack, and execveat with strings and arrays
    // that `spawn` keeps. No file descriptor here is owned by a Rust value of the child's: the
    // owners are the parent's, whose table stays as it is.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=64 {
            // Fails for SIGKILL, SIGSTOP and the two that the C library keeps to itself.
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());

        if plan.keep_capabilities {
            // Version 3: effective, permitted, inheritable; the lower 32, then the upper ones.
            let (header, all) = ([0x2008_0522_u32, 0], [u32::MAX; 6]);
            if libc::syscall(libc::SYS_capset, header.as_ptr(), all.as_ptr()) != 0 {
                return "capset";
            }
            for capability in 0..64 {
                // Fails for numbers that are no capabilities.
                libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0);
            }
        }

        // Out of the way first, since one's target may be another's source.
        let program = libc::fcntl(plan.program, libc::F_DUPFD_CLOEXEC, plan.above);
        if program < 0 {
            return "duplicating the program's file descriptor";
        }
        for one in moves.iter_mut() {
            one.from = libc::fcntl(one.from, libc::F_DUPFD_CLOEXEC, plan.above);
            if one.from < 0 {
                return "duplicating a file descriptor";
            }
        }
        let (first, last) = (0_u32, u32::MAX);
        if libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) != 0 {
            return "close_range";
        }
        // These are not closed when the program is executed.
        for one in &*moves {
            if libc::dup2(one.from, one.to) < 0 {
                return "dup2";
            }
        }
        libc::syscall(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            plan.arguments,
            plan.environment,
            libc::AT_EMPTY_PATH,
        );
    }
    "execveat"
}

/// Executes `program` in place of the one that calls. Returns only when that fails.
pub fn execute(program: BorrowedFd<'_>, arguments: &[&CStr], environment: &[&CStr]) -> io::Error {
    let arguments = pointers(arguments);
    let environment = pointers(environment);
    // SAFETY: both arrays end with null and point to strings that the references keep alive; the
    // program's name is empty. On success nothing of this program is left to be unsound.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// Moves the calling thread into new `namespaces`; for [`Namespaces::PID`], its next children.
///
/// # Errors
/// What `unshare` returns: EPERM where the namespace is refused, ENOSPC where there are too
/// many, EINVAL for [`Namespaces::USER`] in a process of several threads.
pub fn enter(namespaces: Namespaces) -> io::Result<()> {
    // SAFETY: namespaces are all that `bits` can name; the table of file descriptors, whose
    // owners might be on other threads, stays shared.
    if unsafe { libc::unshare(namespaces.bits()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Takes the file descriptor `number`, which whoever executed this program left open for it.
///
/// It is closed when a further program is executed from here on.
///
/// # Errors
/// EBADF where `number` is not open, is 0, 1 or 2 (the standard library's), or was opened by
/// this program itself or taken before: that one would have two owners.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if number <= 2 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: only asked for its flags and given one; that is sound for any number that is open,
    // whoever owns it, and the kernel refuses those that are not.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = rustix::io::fcntl_getfd(borrowed)?;
    if flags.contains(FdFlags::CLOEXEC) {
        return Err(Errno::BADF.into());
    }
    rustix::io::fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
    // SAFETY: it was open and had no FD_CLOEXEC. Whatever Rust's standard library, rustix and
    // this crate open has that flag from the start, so it is not theirs but inherited, and has
    // no owner; and it has the flag now, so that it is not taken a second time.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Puts the process or thread `pid` under SCHED_FIFO with `priority`, 1 to 99. Threads and
/// processes that it starts later are ordinary ones.
///
/// # Errors
/// EPERM without CAP_SYS_NICE or a sufficient RLIMIT_RTPRIO, EINVAL for another priority.
pub fn set_fifo(pid: Pid, priority: i32) -> io::Result<()> {
    // SAFETY: zero is a valid value of every field of this structure.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = priority;
    let pid = pid.as_raw_nonzero().get();
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `parameters` is initialised and outlives the call; the rest are numbers.
    if unsafe { libc::sched_setscheduler(pid, policy, &raw const parameters) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
