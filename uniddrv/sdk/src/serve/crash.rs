//! What a driver process says last: a panic's message, or the signal that ends it, kept in the
//! ledger for whoever reports its death.

use std::fmt::{self, Write};
use std::io;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use uniddrv_abi::ledger::LAST_WORDS;

use super::DriverLedger;

/// The signals by which a program that is at fault ends.
const SIGNALS: [(i32, &str); 5] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGABRT, "SIGABRT"),
];
/// Bytes of the stack that the handler runs on, since the ordinary one may be used up.
const STACK: usize = 32 << 10;

static LEDGER: OnceLock<DriverLedger> = OnceLock::new();
static SAID: AtomicBool = AtomicBool::new(false);

/// Has panics and faults of this process end it, from now on. Before anything is guarded by
/// [`sigbus`](crate::sigbus), whose handler comes first and passes on what it does not mend.
///
/// # Errors
/// What `sigaltstack` and `sigaction` return.
pub(super) fn install() -> io::Result<()> {
    std::panic::set_hook(Box::new(|info| {
        record_panic(info);
        std::process::abort();
    }));
    let stack = Box::leak(vec![0_u8; STACK].into_boxed_slice());
    let stack =
        libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
    // SAFETY: the stack is leaked, so it stays valid and nobody else's for ever; both structures
    // are initialised (zero is a valid `sigaction`) and outlive the calls. `handle` has the
    // signature that SA_SIGINFO asks for and is async-signal-safe: it uses atomics and system
    // calls only.
    unsafe {
        if libc::sigaltstack(&raw const stack, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        for (signal, _) in SIGNALS {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            // Not blocked while it is handled, so that it can end the process from there.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            if libc::sigaction(signal, &raw const action, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Says where last words are to be kept.
pub(super) fn record_into(ledger: &DriverLedger) {
    let _ = LEDGER.set(ledger.clone());
}

/// Text of limited length, put together without allocating.
struct Text {
    bytes: [u8; LAST_WORDS],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.len..];
        let taken = text.len().min(room.len());
        room[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.len += taken;
        Ok(())
    }
}

/// Keeps `text`, if these are the first last words.
fn say(text: fmt::Arguments<'_>) {
    if SAID.swap(true, Ordering::AcqRel) {
        return;
    }
    let Some(ledger) = LEDGER.get() else { return };
    let mut buffer = Text { bytes: [0; LAST_WORDS], len: 0 };
    let _ = buffer.write_fmt(text);
    ledger.set_last_words(&buffer.bytes[..buffer.len]);
}

fn record_panic(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("a panic without a message");
    match info.location() {
        Some(place) => say(format_args!("{message}, at {place}")),
        None => say(format_args!("{message}")),
    }
}

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler. The address is read as a
    // number whatever the signal; where it is none, it is other bytes of the same structure.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let name = SIGNALS.iter().find(|(number, _)| *number == signal).map_or("signal", |s| s.1);
    // What the CPU or the kernel raised, rather than some process.
    let fault = code > 0 && signal != libc::SIGABRT;
    let place = instruction(context);
    // Formatting numbers and static strings neither allocates nor takes a lock.
    if fault {
        say(format_args!("{name} at address {address:#x} (ip {place:#x})"));
    } else {
        say(format_args!("{name} (ip {place:#x})"));
    }
    // SAFETY: `signal` and `raise` are async-signal-safe; restoring the default action changes
    // nothing that Rust relies on.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        if fault {
            // The instruction is repeated, and ends the process as it would have.
            return;
        }
        libc::raise(signal);
    }
    // The first process of a PID namespace ignores what it sends itself; it cannot ignore the
    // forbidden instruction that this ends with.
    std::process::abort();
}

/// The instruction that was interrupted; 0 where that is not known.
fn instruction(context: *mut libc::c_void) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the kernel passes a valid ucontext to an SA_SIGINFO handler.
        let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        registers[libc::REG_RIP as usize] as usize
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = context;
        0
    }
}
