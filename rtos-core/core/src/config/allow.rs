//! `[[allow]]`: who may open which name, with which rights and limits.

use super::error::{Place, Problem};
use super::machine::Machine;
use super::name::{Name, Pattern};
use super::source::{Section, Source};
use super::values::ByteSize;
use uniddrv::peer::Peer;
use uniddrv_abi::message::{self, Rights};

pub(super) const NAME: &str = "[[allow]]";
pub(super) const KEYS: &[&str] = &[
    "name",
    "user",
    "group",
    "uid",
    "gid",
    "rights",
    "in_flight",
    "iops",
    "bytes_per_second",
    "queues",
    "memory",
    "weight",
];

/// The most entries.
pub(super) const MOST: usize = 1024;

/// Lets somebody open names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// Where its entry stands.
    pub place: Place,
    /// Which names.
    pub pattern: Pattern,
    /// Who.
    pub who: Who,
    /// What they may do, and how much of it.
    pub grant: Grant,
}

/// Who may open a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Every user of the machine: `user = "*"`.
    Everyone,
    /// A user.
    User(u32),
    /// The processes that are in a group.
    Group(u32),
}

/// What somebody may do with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whether writing is part of it.
    pub rights: Rights,
    /// How much.
    pub limits: Limits,
}

/// How much one client may have or do. `None`: no limit but the driver's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight, over all its queues.
    pub in_flight: Option<u16>,
    /// Requests a second.
    pub iops: Option<u64>,
    /// Bytes a second, read and written together.
    pub bytes_per_second: Option<ByteSize>,
    /// Queues, 1 to 16.
    pub queues: Option<u16>,
    /// Memory of its arena.
    pub memory: Option<ByteSize>,
    /// Its share where clients compete: twice the weight, twice the requests. 1 to 1,000.
    pub weight: u32,
}

impl Limits {
    /// No limit, and the weight that everybody has.
    pub const NONE: Self = Self {
        in_flight: None,
        iops: None,
        bytes_per_second: None,
        queues: None,
        memory: None,
        weight: 100,
    };

    /// As the driver is told; what is not in it (queues, memory) is the core's to enforce.
    pub fn for_driver(&self) -> message::Limits {
        message::Limits {
            in_flight: self.in_flight.map_or(0, u32::from),
            iops: self.iops.unwrap_or(0),
            bytes_per_second: self.bytes_per_second.map_or(0, ByteSize::bytes),
            // A driver's shares go up to 64.
            weight: (self.weight / 16).clamp(1, 64),
        }
    }
}

impl Who {
    /// Whether `peer` is meant.
    pub fn includes(&self, peer: &Peer) -> bool {
        match *self {
            Self::Everyone => true,
            Self::User(uid) => uid == peer.uid,
            Self::Group(gid) => peer.is_in(gid),
        }
    }
}

impl Allow {
    /// Whether it is for `peer` and `name`.
    pub fn fits(&self, name: &Name, peer: &Peer) -> bool {
        self.who.includes(peer) && self.pattern.covers(name)
    }

    /// Whether whatever fits `other` fits this.
    pub(super) fn includes(&self, other: &Self) -> bool {
        (self.who == other.who || self.who == Who::Everyone)
            && self.pattern.includes(&other.pattern)
    }
}

/// Reads one entry. `None` where it is wrong, which is reported.
pub(super) fn read(
    section: &Section<'_, '_>,
    machine: &Machine,
    source: &mut Source<'_>,
) -> Option<Allow> {
    let pattern = section.get("name", source, |found| found.string()?.parse());
    if !section.has("name") {
        section.missing("a name, such as name = \"nvme:0/ns1\" or \"nvme:*\"", source);
    }
    let who = who(section, machine, source);
    let rights = section.get("rights", source, |found| match found.string()? {
        "read" => Ok(Rights::Read),
        "write" => Ok(Rights::Write),
        _ => Err(Problem::Word("\"read\", \"write\" (which includes reading)")),
    });
    if !section.has("rights") {
        section.missing("rights = \"read\" or rights = \"write\"", source);
    }
    let limits = limits(section, source);
    Some(Allow {
        place: source.place(section.span.start),
        pattern: pattern?,
        who: who?,
        grant: Grant { rights: rights?, limits },
    })
}

fn who(section: &Section<'_, '_>, machine: &Machine, source: &mut Source<'_>) -> Option<Who> {
    // All ones is "no change" to chown and its like, and nobody's number.
    let number = u64::from(u32::MAX - 1);
    let user = section.get("user", source, |found| match found.string()? {
        "*" => Ok(Who::Everyone),
        name => machine.accounts.uid(name).map(Who::User).ok_or(Problem::NoUser),
    });
    let named_group = section.get("group", source, |found| {
        machine.accounts.gid(found.string()?).map(Who::Group).ok_or(Problem::NoGroup)
    });
    let uid = section.get("uid", source, |found| Ok(Who::User(found.integer(0, number)? as u32)));
    let gid = section.get("gid", source, |found| Ok(Who::Group(found.integer(0, number)? as u32)));
    let given: Vec<_> =
        ["user", "group", "uid", "gid"].into_iter().filter(|key| section.has(key)).collect();
    match given.as_slice() {
        [] => {
            section.missing("one of user, group, uid, gid, such as user = \"ann\"", source);
            None
        }
        [_] => user.or(named_group).or(uid).or(gid),
        [_, second, ..] => {
            let problem = Problem::Excluded("user, group, uid and gid");
            source.error(&section.span_of(second), problem);
            None
        }
    }
}

fn limits(section: &Section<'_, '_>, source: &mut Source<'_>) -> Limits {
    let mut number = |key, most| section.get(key, source, |found| found.integer(1, most));
    let in_flight = number("in_flight", u64::from(u16::MAX)).map(|number| number as u16);
    let iops = number("iops", 1_000_000_000);
    let queues = number("queues", 16).map(|number| number as u16);
    let weight = number("weight", 1000).map_or(Limits::NONE.weight, |number| number as u32);
    let mut size = |key, least| {
        section.get(key, source, |found| {
            let text = found.quantity("a size such as \"64M\"")?;
            ByteSize::parse(text, ByteSize::new(least), ByteSize::new(1 << 40))
        })
    };
    let bytes_per_second = size("bytes_per_second", 4096);
    let memory = size("memory", 1 << 16);
    Limits { in_flight, iops, bytes_per_second, queues, memory, weight }
}
