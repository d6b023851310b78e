//! Devices that the core serves, by the names that users give them.

use std::path::Path;
use std::time::Duration;

use uniddrv::Address;
use uniddrv::block::BlockInfo;
use uniddrv::client::{Core, CoreError, DriverStatus, Holder, Name, Rights, Target};
use uniddrv::dma::PAGE;
use uniddrv_core::config::{self, Accounts};

use crate::bench::cpu;
use crate::error::Failure;

/// How long the core may take to answer what it knows.
const QUESTION: Duration = Duration::from_secs(10);
/// How long it may take to bring a device up: a controller may have itself waited for for 127 s.
const WORK: Duration = Duration::from_mins(3);

/// Whether `text` is a name such as `nvme:0/ns1`, rather than an address.
pub(crate) fn is_name(text: &str) -> bool {
    text.parse::<Address>().is_err() && text.parse::<config::Name>().is_ok()
}

/// A connection to the core.
pub(crate) fn connect() -> Result<Core, CoreError> {
    let mut core = Core::connect()?;
    core.set_deadlines(QUESTION, WORK);
    Ok(core)
}

/// A connection to the core, for what the user may have meant as a name.
pub(crate) fn connect_for(name: &str) -> Result<Core, Failure> {
    connect().map_err(|error| match error {
        CoreError::NotRunning { .. } => {
            let help = format!(
                "`{name}` is taken for a name, which only a core gives a meaning; an address is \
                 such as 0000:03:00.0, vfio-user:/path/to/socket or model:nvme"
            );
            Failure::from(error).with_help(help)
        }
        error => error.into(),
    })
}

/// The core, where one runs that lets this user in; what else hinders is an error.
pub(crate) fn connect_if_running() -> Result<Option<Core>, CoreError> {
    match connect() {
        Ok(core) => Ok(Some(core)),
        Err(CoreError::NotRunning { .. } | CoreError::Forbidden { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether `name` is `wanted` or lies below it.
pub(crate) fn is_below(name: &str, wanted: &str) -> bool {
    name.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The names that the user means: one with all below it, or all that begin so.
pub(crate) fn names(core: &Core, given: Option<&str>) -> Result<Vec<Name>, Failure> {
    let Some(given) = given else { return Ok(core.names("")?) };
    let mut names = core.names(given)?;
    if is_name(given) {
        names.retain(|name| is_below(&name.name, given));
    }
    if names.is_empty() {
        return Err(unknown(given));
    }
    Ok(names)
}

fn unknown(given: &str) -> Failure {
    Failure::new(format!("the core has no name `{given}` that this user may see"))
        .with_help("to see what it has: uniddrv ls")
}

/// The drivers behind the names that the user means.
pub(crate) fn drivers(core: &Core, given: Option<&str>) -> Result<Vec<DriverStatus>, Failure> {
    let Some(given) = given else { return Ok(core.status("")?) };
    let behind = names(core, Some(given))?;
    let mut drivers = core.status("")?;
    drivers.retain(|driver| behind.iter().any(|name| name.address == driver.address));
    if drivers.is_empty() {
        return Err(unknown(given));
    }
    Ok(drivers)
}

/// The driver behind one name.
pub(crate) fn driver(core: &Core, given: &str) -> Result<DriverStatus, Failure> {
    drivers(core, Some(given))?.into_iter().next().ok_or_else(|| unknown(given))
}

/// Something that can be opened.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Its whole name.
    pub(crate) name: String,
    /// The device's address, as far as it is one that this program knows.
    pub(crate) address: Option<Address>,
    /// What it is like.
    pub(crate) target: Target,
}

/// What the user wants to open: the name itself, or the only one below it, or the one with this
/// namespace identifier.
pub(crate) fn service(
    core: &Core,
    given: &str,
    namespace: Option<u32>,
) -> Result<Service, Failure> {
    let mut found: Vec<Service> = names(core, Some(given))?
        .into_iter()
        .filter_map(|name| {
            let target = name.target?;
            Some(Service { name: name.name, address: name.address.parse().ok(), target })
        })
        .collect();
    if let Some(namespace) = namespace {
        found.retain(|service| service.target.id == namespace);
    }
    let exact = found.iter().position(|service| service.name == given);
    let names: Vec<&str> = found.iter().map(|service| service.name.as_str()).collect();
    match (exact, found.len(), namespace) {
        (Some(at), ..) => Ok(found.swap_remove(at)),
        (None, 1, _) => Ok(found.swap_remove(0)),
        (None, 0, Some(namespace)) => {
            Err(Failure::new(format!("{given} has no namespace {namespace}"))
                .with_help(format!("to see what it has: uniddrv ls {given}")))
        }
        (None, 0, None) => Err(Failure::new(format!("{given} has nothing that can be opened"))
            .with_help(format!("to see how it is: uniddrv status {given}"))),
        (None, count, _) => {
            let text =
                format!("{given} has {count} names that can be opened: {}", names.join(", "));
            Err(Failure::new(text).with_help("give one of these"))
        }
    }
}

impl Service {
    /// As the block service describes it.
    pub(crate) fn info(&self) -> BlockInfo {
        info(&self.target)
    }
}

/// A target as the block service describes it.
pub(crate) fn info(target: &Target) -> BlockInfo {
    let Target { block_size, blocks, max_transfer, volatile_write_cache, .. } = *target;
    BlockInfo { block_size, blocks, max_transfer, volatile_write_cache }
}

/// Who else is busy on this machine while a client works.
#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    /// CPUs of this process that no driver has for itself; all, where there would be none.
    pub(crate) left: Vec<u32>,
    /// How many others poll on these: a driver that may run anywhere, a software device.
    pub(crate) others: usize,
}

impl Crowd {
    /// Those who poll while a client of the device at `address` works.
    pub(crate) fn of(core: &Core, address: Option<&Address>) -> Result<Self, Failure> {
        let drivers = core.status("")?;
        let allowed = cpu::allowed();
        let taken: Vec<u32> = drivers.iter().filter_map(|driver| driver.cpu).collect();
        let left: Vec<u32> = allowed.iter().copied().filter(|cpu| !taken.contains(cpu)).collect();
        let roams = drivers
            .iter()
            .any(|driver| driver.address.parse().ok().as_ref() == address && driver.cpu.is_none());
        // The core serves a model by a process of its own.
        let software = matches!(
            address,
            Some(Address::Model(_) | Address::VfioUser(_) | Address::VhostUser(_))
        );
        let others = usize::from(roams) + usize::from(software);
        Ok(Self { left: if left.is_empty() { allowed } else { left }, others })
    }
}

/// Entries of a ring for `depth` requests at once.
pub(crate) fn ring(depth: usize) -> Result<u32, Failure> {
    let most = uniddrv_abi::queue::MAX_DEPTH;
    let ring = u32::try_from(depth).ok().and_then(u32::checked_next_power_of_two);
    ring.filter(|&ring| ring <= most).ok_or_else(|| {
        let message = format!("--qd {depth}: a client's queue holds {most} requests at most");
        Failure::usage(anyhow::Error::msg(message))
    })
}

/// Bytes of an arena for `count` buffers of `len` bytes.
pub(crate) fn arena(count: usize, len: u64) -> u64 {
    (count as u64).saturating_mul(len.next_multiple_of(PAGE as u64)).max(PAGE as u64)
}

/// How a device of the core is reached.
pub(crate) fn transport(address: Option<&Address>) -> &'static str {
    match address {
        Some(Address::Pci(_)) => "vfio",
        Some(Address::VfioUser(_) | Address::Model(_)) => "vfio-user",
        Some(Address::VhostUser(_)) => "vhost-user",
        None => "unknown",
    }
}

/// The users of this machine.
pub(crate) fn accounts(root: &Path) -> Accounts {
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap_or_default();
    Accounts::parse(&read("etc/passwd"), "")
}

/// A user's name, or number where there is none.
pub(crate) fn user(accounts: &Accounts, uid: u32) -> String {
    accounts.user_name(uid).map_or_else(|| uid.to_string(), str::to_owned)
}

/// Rights in words.
pub(crate) const fn rights(rights: Rights) -> &'static str {
    match rights {
        Rights::Read => "read",
        Rights::Write => "write",
    }
}

/// A holder of a name in the JSON output.
#[derive(serde::Serialize)]
pub(crate) struct HolderRow {
    client: u32,
    pid: i32,
    uid: u32,
    user: String,
    program: String,
    rights: &'static str,
    queues: u8,
    ios: u64,
}

impl HolderRow {
    pub(crate) fn new(holder: &Holder, accounts: &Accounts) -> Self {
        let Holder { client, pid, uid, queues, ios, .. } = *holder;
        Self {
            client,
            pid,
            uid,
            user: user(accounts, uid),
            program: holder.program.clone(),
            rights: rights(holder.rights),
            queues,
            ios,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_addresses() {
        for name in ["nvme:0", "nvme:0/ns1", "disk:7", "net:uplink_2"] {
            assert!(is_name(name), "{name}");
        }
        for other in
            ["", "nvme", "0000:03:00.0", "vfio-user:/run/x", "model:nvme", "nvme0n1", "a/b"]
        {
            assert!(!is_name(other), "{other}");
        }
    }

    #[test]
    fn a_name_is_below_itself_and_not_below_a_part_of_it() {
        assert!(is_below("nvme:0", "nvme:0") && is_below("nvme:0/ns1", "nvme:0"));
        assert!(!is_below("nvme:01", "nvme:0") && !is_below("nvme:0", "nvme:0/ns1"));
    }
}
