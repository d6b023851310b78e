//! The launcher: this program, executed anew as the first process of its namespaces. It takes
//! everything away from itself, and then executes the driver's program.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid, getpid, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit, setsid,
};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, CpuSet, capabilities,
    clear_ambient_capability_set, gettid, remove_capability_from_bounding_set, sched_setaffinity,
    set_capabilities, set_capabilities_secure_bits, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use uniddrv::control::Control;
use uniddrv::process::{Namespaces, enter, execute, take_inherited};

use super::orders::{FromLauncher, Orders, ToLauncher};
use super::{LAUNCHER, Layer, Missing, filter, root};

/// The namespaces that the launcher enters itself, each by a call of its own, so that it can be
/// told which one is refused.
const NAMESPACES: [(Layer, Namespaces); 5] = [
    (Layer::Mounts, Namespaces::MOUNT),
    (Layer::Network, Namespaces::NETWORK),
    (Layer::Ipc, Namespaces::IPC),
    (Layer::HostName, Namespaces::UTS),
    (Layer::Cgroups, Namespaces::CGROUP),
];

/// How long the launcher waits for its spawner.
const PATIENCE: Duration = Duration::from_secs(10);

/// A step that nothing works without has failed.
struct Failure {
    step: &'static str,
    reason: String,
}

fn failure<E: ToString>(step: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure { step, reason: error.to_string() }
}

/// Becomes a launcher, and then a driver, if this program was executed under the name
/// [`LAUNCHER`]; else does nothing. To be called first in `main`.
pub fn launch_if_asked() {
    let mut arguments = std::env::args();
    if arguments.next().as_deref() != Some(LAUNCHER) {
        return;
    }
    let mut number = || arguments.next()?.parse::<RawFd>().ok();
    let (Some(gate), Some(program)) = (number(), number()) else {
        eprintln!("{LAUNCHER} is only for `uniddrv core` to run");
        std::process::exit(2);
    };
    let Ok(gate) = take_inherited(gate) else {
        eprintln!("{LAUNCHER}: it was not given a connection to its spawner");
        std::process::exit(2);
    };
    let mut gate = Control::new(gate);
    let Err(Failure { step, reason }) = launch(&mut gate, program);
    // If nobody listens any more, nobody wants to know.
    let _ = gate.send(&FromLauncher::Failed { step: step.to_owned(), reason }, &[]);
    std::process::exit(1);
}

/// Returns only when it fails.
fn launch(gate: &mut Control, number: RawFd) -> Result<std::convert::Infallible, Failure> {
    let program = take_inherited(number).map_err(failure("taking the program"))?;
    let ToLauncher::Orders(orders) = receive(gate)? else {
        return Err(Failure { step: "reading its orders", reason: "there are none".to_owned() });
    };
    let mut arguments = Vec::new();
    for argument in &orders.arguments {
        arguments.push(CString::new(argument.as_str()).map_err(failure("reading its orders"))?);
    }
    let arguments: Vec<_> = arguments.iter().map(CString::as_c_str).collect();
    let missing = confine(&orders, &program)?;
    gate.send(&FromLauncher::Standing(missing), &[]).map_err(failure("reporting"))?;
    // From here on, the spawner's end is ours: it was there after PDEATHSIG had been set.
    receive(gate)?;
    let error = execute(program.as_fd(), &arguments, &[]);
    Err(Failure { step: "executing the program", reason: error.to_string() })
}

fn receive(gate: &mut Control) -> Result<ToLauncher, Failure> {
    match gate.receive_within(PATIENCE) {
        Ok((message, _)) => Ok(message),
        Err(error) => Err(failure("waiting for the spawner")(error)),
    }
}

/// Takes everything away from this process that it can: what could not be taken.
fn confine(orders: &Orders, program: &OwnedFd) -> Result<Vec<Missing>, Failure> {
    let mut missing = Vec::new();
    let mut note = |layer, result: Result<(), String>| {
        if let Err(reason) = result {
            missing.push(Missing::new(layer, reason));
        }
    };
    // Out of the spawner's terminal.
    let _ = setsid();
    let mut entered = Namespaces::empty();
    for (layer, namespace) in NAMESPACES {
        match enter(namespace) {
            Ok(()) => entered |= namespace,
            Err(error) => note(layer, Err(error.to_string())),
        }
    }
    if entered.contains(Namespaces::UTS) {
        note(
            Layer::HostName,
            rustix::system::sethostname(b"driver").map_err(|error| error.to_string()),
        );
    }
    // Outside of a mount namespace of its own, it would be the machine's root that changes.
    let left = if entered.contains(Namespaces::MOUNT) {
        root::leave().map_err(|(step, error)| format!("{step}: {error}"))
    } else {
        Err("without a mount namespace".to_owned())
    };
    note(Layer::EmptyRoot, left);
    note(Layer::Limits, limit(orders));
    note(Layer::Identity, give_up_rights(orders));
    note(Layer::Capabilities, no_capabilities());
    // Linux counts a user's processes where it changes users, so only now.
    note(Layer::Limits, set_limit(Resource::Nproc, 0));
    if let Some(cpu) = orders.cpu {
        note(Layer::Cpu, pin(cpu));
    }
    set_no_new_privs(true).map_err(failure("setting no_new_privs"))?;
    note(Layer::Landlock, landlock());
    // A change of user clears it, so only now.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failure("PR_SET_PDEATHSIG"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failure("PR_SET_DUMPABLE"))?;
    note(Layer::SystemCalls, filter_system_calls(orders, program));
    Ok(missing)
}

/// What the program can use up.
fn limit(orders: &Orders) -> Result<(), String> {
    set_limit(Resource::Core, 0)?;
    // Nor can it write to a file or memory by way of `write`.
    set_limit(Resource::Fsize, 0)?;
    set_limit(Resource::Nofile, orders.files.into())?;
    set_limit(Resource::Data, orders.memory)?;
    set_limit(Resource::Msgqueue, 0)?;
    set_limit(Resource::Rtprio, 0)
}

fn set_limit(resource: Resource, value: u64) -> Result<(), String> {
    let limit = Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(resource, limit).map_err(|error| format!("{resource:?}: {error}"))
}

/// Becomes the user that it is to be, without a way back.
fn give_up_rights(orders: &Orders) -> Result<(), String> {
    // Both need a capability. Where there is none to begin with, there is nothing to lose.
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    let _ = set_capabilities_secure_bits(bits);
    for number in 0..64 {
        // Most of these numbers are no capabilities.
        let _ = remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number));
    }
    if orders.clear_groups {
        set_thread_groups(&[]).map_err(|error| format!("giving up groups: {error}"))?;
    }
    if let Some((uid, gid)) = orders.user {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_res_gid(gid, gid, gid)
            .map_err(|error| format!("changing the group: {error}"))?;
        set_thread_res_uid(uid, uid, uid).map_err(|error| format!("changing the user: {error}"))?;
    }
    Ok(())
}

fn no_capabilities() -> Result<(), String> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    // Linux before 4.3 has no ambient ones.
    let _ = clear_ambient_capability_set();
    set_capabilities(None, none).map_err(|error| error.to_string())?;
    let left = capabilities(None).map_err(|error| error.to_string())?;
    if left.permitted.is_empty() { Ok(()) } else { Err(format!("{:?}", left.permitted)) }
}

fn pin(cpu: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    if cpu >= CpuSet::MAX_CPU {
        return Err(format!("there is no CPU {cpu}"));
    }
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|error| format!("CPU {cpu}: {error}"))
}

/// Everything that this kernel's Landlock knows is forbidden. The program can be executed all
/// the same, since no path leads to it.
fn landlock() -> Result<(), String> {
    let restrict = || -> Result<RulesetStatus, RulesetError> {
        let ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V6))?
            .handle_access(AccessNet::from_all(ABI::V6))?
            .scope(Scope::from_all(ABI::V6))?;
        Ok(ruleset.create()?.restrict_self()?.ruleset)
    };
    match restrict() {
        Ok(RulesetStatus::NotEnforced) => Err("this kernel does not have it".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn filter_system_calls(orders: &Orders, program: &OwnedFd) -> Result<(), String> {
    let filters = filter::compile(&filter::Process {
        pid: getpid().as_raw_nonzero().get(),
        tid: gettid().as_raw_nonzero().get(),
        program: program.as_raw_fd(),
        windows: &orders.windows,
    })
    .map_err(|error| error.to_string())?;
    // The second forbids to install the first.
    seccompiler::apply_filter(&filters.refuse).map_err(|error| error.to_string())?;
    seccompiler::apply_filter(&filters.allow).map_err(|error| error.to_string())
}
