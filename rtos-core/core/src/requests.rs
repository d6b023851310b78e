//! What clients ask for: who may have it, and what becomes of it.

mod devices;

use std::path::PathBuf;

use uniddrv::peer::Peer;
use uniddrv_abi::message::{FromCore, Harm, MAX_MESSAGE, Refusal, Rights, ToCore, VERSION, encode};
use uniddrv_abi::queue::MAX_DEPTH;

use crate::attachment::Request;
use crate::config::{Grant, Name};
use crate::device::DeviceId;
use crate::event_loop::EventLoop;
use crate::ids::ClientId;
use crate::names::Resolved;

/// The most queues of an open name.
const QUEUES: u8 = 16;
/// The most bytes of an arena, where the configuration says nothing else.
const ARENA: u64 = 16 << 30;

/// What becomes of a request.
pub(crate) enum Reply {
    /// It is answered.
    Now(FromCore),
    /// It will be answered.
    Later,
    /// It is refused, and the connection closed.
    End(Refusal, String),
}

type Refused = (Refusal, String);

fn no(code: Refusal, text: impl Into<String>) -> Refused {
    (code, text.into())
}

impl EventLoop {
    /// Does what a client asks for.
    pub(crate) fn request(&mut self, client: ClientId, message: ToCore) -> Reply {
        let greeted = self.clients.get(client).is_some_and(|one| one.greeted);
        match (message, greeted) {
            (ToCore::Hello { version, program }, false) => self.hello(client, version, &program),
            (ToCore::Hello { .. }, true) => {
                Reply::End(Refusal::Protocol, "a second hello on a connection".into())
            }
            (_, false) => Reply::End(Refusal::Protocol, "no hello before anything else".into()),
            (message, true) => match self.carry_out(client, message) {
                Ok(reply) => reply,
                Err((code, text)) => Reply::Now(FromCore::Refused { code, text }),
            },
        }
    }

    fn hello(&mut self, client: ClientId, version: u16, program: &str) -> Reply {
        if version != VERSION {
            let text = format!("version {version} of the messages; this core speaks {VERSION}");
            return Reply::End(Refusal::Version, text);
        }
        if let Some(connection) = self.clients.get_mut(client) {
            connection.greet(program);
        }
        Reply::Now(FromCore::Welcome { version: VERSION, client: client.0 })
    }

    fn carry_out(&mut self, client: ClientId, message: ToCore) -> Result<Reply, Refused> {
        let Some(peer) = self.clients.get(client).map(|one| one.peer.clone()) else {
            return Ok(Reply::Later);
        };
        match message {
            ToCore::Open { name, rights, queues, depth, arena } => {
                self.open(client, &peer, &name, rights, (queues, depth, arena))
            }
            ToCore::Close { handle } => self.close(client, handle),
            ToCore::List { prefix } => Ok(Reply::Now(self.list(&peer, &prefix))),
            ToCore::Status { prefix } => Ok(Reply::Now(self.status(client, &peer, &prefix))),
            ToCore::Identify { name } => self.identify(&peer, &name),
            ToCore::Restart { name } => {
                let device = self.order(&peer, &name, "restart a driver")?;
                self.with(device, |supervisor, cx| supervisor.restart(client, cx));
                Ok(Reply::Later)
            }
            ToCore::Upgrade { name, program } => {
                let device = self.order(&peer, &name, "upgrade a driver")?;
                let program = program.map(PathBuf::from);
                if program.as_ref().is_some_and(|path| !path.is_absolute()) {
                    return Err(no(Refusal::Failed, "the path of a program has to be absolute"));
                }
                self.with(device, |supervisor, cx| supervisor.upgrade(program, client, cx));
                Ok(Reply::Later)
            }
            ToCore::Revoke { name, client: whose } => self.revoke(&peer, &name, whose),
            ToCore::Add { address, driver } => self.add(client, &peer, &address, driver),
            ToCore::Remove { address } => self.remove(client, &peer, &address),
            ToCore::Kill { name, how } => self.kill(&peer, &name, how),
            // Seen to before.
            ToCore::Hello { .. } => Ok(Reply::Later),
            ToCore::Stop => {
                self.may_order(&peer, "stop the core")?;
                self.stop("a client asked for it");
                Ok(Reply::Now(FromCore::Done))
            }
        }
    }

    fn may_order(&self, peer: &Peer, what: &str) -> Result<(), Refused> {
        if self.shared.config.rules(peer) {
            return Ok(());
        }
        let owner = self.shared.config.owner;
        let text = format!("only root and the user that runs the core ({owner}) may {what}");
        Err(no(Refusal::Denied, text))
    }

    /// The device that an order is for.
    fn order(&self, peer: &Peer, name: &str, what: &str) -> Result<DeviceId, Refused> {
        self.may_order(peer, what)?;
        Ok(self.resolve(name)?.device)
    }

    fn resolve(&self, name: &str) -> Result<Resolved, Refused> {
        let parsed =
            name.parse::<Name>().map_err(|error| no(Refusal::NotFound, format!("{error}")))?;
        let unknown = || {
            no(Refusal::NotFound, format!("there is no `{name}`; `uniddrv ls` lists what there is"))
        };
        self.names.resolve(&parsed).ok_or_else(unknown)
    }

    /// The name by which the configuration knows what a name stands for.
    fn canonical(&self, resolved: &Resolved) -> Option<Name> {
        let name = self.supervisors.get(&resolved.device)?.name.as_ref()?;
        match &resolved.path {
            None => Some(name.clone()),
            Some(path) => format!("{name}/{path}").parse().ok(),
        }
    }

    fn grant(&self, peer: &Peer, name: &Name) -> Option<Grant> {
        self.shared.config.grant(name, peer)
    }

    /// Whether a client may see a name: its own, or one that it may open.
    fn sees(&self, peer: &Peer, name: &str) -> bool {
        self.shared.config.rules(peer)
            || name.parse().is_ok_and(|name| self.grant(peer, &name).is_some())
    }

    fn open(
        &mut self,
        client: ClientId,
        peer: &Peer,
        name: &str,
        rights: Rights,
        (queues, depth, arena): (u8, u32, u64),
    ) -> Result<Reply, Refused> {
        let resolved = self.resolve(name)?;
        let nothing = || no(Refusal::NotFound, format!("there is no `{name}`"));
        let canonical = self.canonical(&resolved).ok_or_else(nothing)?;
        let denied = |what: &str| {
            let text = format!(
                "user {} may not {what} {canonical}; an [[allow]] entry in the core's configuration would let them",
                peer.uid
            );
            no(Refusal::Denied, text)
        };
        let grant = self.grant(peer, &canonical).ok_or_else(|| denied("open"))?;
        if grant.rights < rights {
            return Err(denied("write to"));
        }
        let Some(path) = resolved.path else {
            let text = format!("{name} is a device; open one of its names, such as {name}/ns1");
            return Err(no(Refusal::NotFound, text));
        };
        let limits = grant.limits;
        let most = limits.queues.map_or(QUEUES, |most| most.min(QUEUES.into()) as u8);
        if queues == 0 || queues > most {
            return Err(no(Refusal::Limit, format!("{queues} queues; 1 to {most} are possible")));
        }
        if !depth.is_power_of_two() || depth > MAX_DEPTH {
            let text =
                format!("rings of {depth} entries; a power of two up to {MAX_DEPTH} is possible");
            return Err(no(Refusal::Limit, text));
        }
        let used = self.files_used();
        if !self.clients.may_take(used, 1 + 3 * usize::from(queues)) {
            let text = "the core has no file descriptors left; raise its limit (LimitNOFILE=)";
            return Err(no(Refusal::Limit, text));
        }
        self.may_have_queues(resolved.device, peer, queues)
            .map_err(|text| no(Refusal::Limit, text))?;
        let Some(connection) = self.clients.get(client) else { return Ok(Reply::Later) };
        let program = connection.program.clone();
        let present = connection.arena.clone();
        let most = limits.memory.map_or(ARENA, crate::config::ByteSize::bytes);
        if arena > most {
            return Err(no(
                Refusal::Limit,
                format!("an arena of {arena} bytes; {most} are allowed"),
            ));
        }
        match &present {
            Some(present) if arena > present.len() as u64 => {
                let text = format!(
                    "the connection has an arena of {} bytes, and {arena} are wanted; open the largest first",
                    present.len()
                );
                return Err(no(Refusal::Limit, text));
            }
            None => {
                let granted = limits.memory.map(crate::config::ByteSize::bytes);
                self.may_have_memory(peer, arena, granted)
                    .map_err(|text| no(Refusal::Limit, text))?;
            }
            Some(_) => {}
        }
        let arena_len = usize::try_from(arena).unwrap_or(usize::MAX);
        let request = Request {
            client,
            peer: peer.clone(),
            program,
            path,
            rights,
            queues,
            depth,
            limits: limits.for_driver(),
            arena_len,
            arena: present,
        };
        let handle = self.free_handle();
        self.with(resolved.device, |supervisor, cx| supervisor.open(handle, request, cx))
            .unwrap_or_else(|| Err(nothing()))?;
        Ok(Reply::Later)
    }

    fn close(&mut self, client: ClientId, handle: u32) -> Result<Reply, Refused> {
        let unknown = || no(Refusal::NotFound, format!("this connection has no handle {handle}"));
        let connection = self.clients.get_mut(client).ok_or_else(unknown)?;
        let device = connection.handles.remove(&handle).ok_or_else(unknown)?;
        match self.with(device, |supervisor, cx| supervisor.close(handle, client, cx)) {
            Some(true) => Ok(Reply::Later),
            // It was taken away in this moment.
            _ => Ok(Reply::Now(FromCore::Done)),
        }
    }

    fn list(&self, peer: &Peer, prefix: &str) -> FromCore {
        let mut names = Vec::new();
        let rules = self.shared.config.rules(peer);
        for supervisor in self.supervisors.values() {
            for mut name in supervisor.names() {
                if !self.sees(peer, &name.name) {
                    continue;
                }
                if !rules {
                    // Others are nobody's business.
                    name.holders.retain(|holder| holder.uid == peer.uid);
                }
                if let Some(target) = &name.target
                    && let Some(disk) = self.names.disk(supervisor.id, &target.path)
                {
                    names.push(uniddrv_abi::message::Name {
                        name: format!("disk:{disk}"),
                        ..name.clone()
                    });
                }
                names.push(name);
            }
        }
        names.retain(|name| name.name.starts_with(prefix));
        names.sort_by_key(|one| natural(&one.name));
        fitting(names, FromCore::Names)
    }

    fn status(&mut self, client: ClientId, peer: &Peer, prefix: &str) -> FromCore {
        let now = self.now;
        let rules = self.shared.config.rules(peer);
        let seen: Vec<DeviceId> = self
            .supervisors
            .values()
            .filter(|one| one.label().starts_with(prefix))
            .filter(|one| rules || one.names().iter().any(|name| self.sees(peer, &name.name)))
            .map(|one| one.id)
            .collect();
        let mut all = Vec::new();
        for device in seen {
            let Some(supervisor) = self.supervisors.get_mut(&device) else { continue };
            let Some(connection) = self.clients.get_mut(client) else { continue };
            let before = connection.snapshots.get(&device);
            let (mut status, snapshot) = supervisor.status(before, now);
            connection.snapshots.insert(device, snapshot);
            if !rules {
                // Others are nobody's business, nor is what they were doing.
                status.holders.retain(|holder| holder.uid == peer.uid);
                status.deaths.iter_mut().for_each(|death| death.request = None);
            }
            all.push(status);
        }
        fitting(all, FromCore::Status)
    }

    fn identify(&self, peer: &Peer, name: &str) -> Result<Reply, Refused> {
        let resolved = self.resolve(name)?;
        let supervisor = self.supervisors.get(&resolved.device);
        let nothing = || no(Refusal::NotFound, format!("there is no `{name}`"));
        let supervisor = supervisor.ok_or_else(nothing)?;
        if !supervisor.names().iter().any(|name| self.sees(peer, &name.name)) {
            return Err(no(Refusal::Denied, format!("user {} may not see {name}", peer.uid)));
        }
        let (kind, bytes) =
            supervisor.identity().ok_or_else(|| no(Refusal::NotReady, supervisor.why_not()))?;
        Ok(Reply::Now(FromCore::Identity { kind, bytes }))
    }

    fn revoke(&mut self, peer: &Peer, name: &str, whose: Option<u32>) -> Result<Reply, Refused> {
        self.may_order(peer, "revoke a name")?;
        let resolved = self.resolve(name)?;
        let path = resolved.path.unwrap_or_default();
        let client = whose.map(ClientId);
        let count =
            self.with(resolved.device, |supervisor, cx| supervisor.revoke(&path, client, cx));
        match (count, whose) {
            (Some(0), Some(client)) => {
                Err(no(Refusal::NotFound, format!("client {client} does not hold {name}")))
            }
            _ => Ok(Reply::Now(FromCore::Done)),
        }
    }

    fn kill(&mut self, peer: &Peer, name: &str, how: Harm) -> Result<Reply, Refused> {
        let device = self.order(peer, name, "kill a driver")?;
        match self.with(device, |supervisor, cx| supervisor.harm(how, cx)) {
            Some(Err(text)) => Err(no(Refusal::NotReady, text)),
            _ => Ok(Reply::Now(FromCore::Done)),
        }
    }
}

/// `name` so that `nvme:10` comes after `nvme:9`.
fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text = rest.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default();
        let behind = rest.get(text.len()..).unwrap_or_default();
        let digits = behind.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        parts.push((text.to_owned(), digits.parse().unwrap_or(u64::MAX)));
        rest = behind.get(digits.len()..).unwrap_or_default();
    }
    parts
}

/// As many of `items` as a message holds.
fn fitting<T: Clone>(mut items: Vec<T>, message: impl Fn(Vec<T>) -> FromCore) -> FromCore {
    loop {
        let whole = message(items.clone());
        if items.is_empty() || encode(&whole).is_ok_and(|bytes| bytes.len() <= MAX_MESSAGE) {
            return whole;
        }
        tracing::warn!(items = items.len(), "an answer is too long, and is cut short");
        items.truncate(items.len() / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_as_people_count() {
        let mut names = ["nvme:10/ns1", "nvme:9", "nvme:9/ns12", "nvme:9/ns2", "disk:1", "nvme:x"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(
            names,
            ["disk:1", "nvme:9", "nvme:9/ns2", "nvme:9/ns12", "nvme:10/ns1", "nvme:x"]
        );
    }

    #[test]
    fn an_answer_is_cut_to_what_a_message_holds() {
        let name = |number| uniddrv_abi::message::Name {
            name: format!("nvme:{number}{}", "x".repeat(1000)),
            address: String::new(),
            target: None,
            holders: Vec::new(),
        };
        let FromCore::Names(names) = fitting((0..300).map(name).collect(), FromCore::Names) else {
            panic!("no list");
        };
        assert_eq!(names.len(), 75);
    }
}
