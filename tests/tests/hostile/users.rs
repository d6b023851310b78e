//! Clients of different users: what one may have, see and do says nothing of what another has.

use std::io::{BufRead, BufReader, Read as _};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use uniddrv::client::Core;
use uniddrv_tests::bystander::Bystander;
use uniddrv_tests::wait::until;

use crate::host::{Host, Setup};

const ANN: u32 = 1000;
const BOB: u32 = 1001;
const EVE: u32 = 1002;

/// A client of another user's.
struct Client {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Client {
    fn new(host: &Host, user: u32, arguments: &[&str]) -> Self {
        let program = host.setup.program(env!("CARGO_BIN_EXE_hostile_client"));
        let mut process = Command::new(program)
            .arg(host.socket())
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .uid(user)
            .gid(user)
            .spawn()
            .unwrap();
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, input, output }
    }

    fn pid(&self) -> String {
        self.process.id().to_string()
    }

    /// What it says next.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Ends it: what else it says.
    fn end(mut self) -> String {
        self.input = None;
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        assert!(self.process.wait().unwrap().success(), "{text}");
        text.trim().to_owned()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A core at which Ann has the first namespace and Bob the second. Nothing without the right to
/// become other users.
fn host() -> Option<Host> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be other users");
        return None;
    }
    let allow =
        |name, uid| format!("[[allow]]\nname = \"{name}\"\nuid = {uid}\nrights = \"write\"");
    let setup = Setup::nvme().rest(&allow("nvme:0/ns1", ANN)).rest(&allow("nvme:0/ns2", BOB));
    Some(setup.run())
}

#[test]
fn neither_of_two_users_gets_at_what_the_other_holds() {
    let Some(host) = host() else { return };
    let driver = host.driver();
    let mut ann = Client::new(&host, ANN, &["hold", "nvme:0/ns1"]);
    let mut bob = Client::new(&host, BOB, &["hold", "nvme:0/ns2"]);
    assert_eq!((ann.line(), bob.line()), ("open".into(), "open".into()));
    let core = host.pid().to_string();
    let driver_pid = driver.pid.to_string();
    for (user, name, other) in [
        (ANN, "nvme:0/ns2", bob.pid()),
        (ANN, "disk:1", bob.pid()),
        (BOB, "nvme:0/ns1", ann.pid()),
        (EVE, "nvme:0/ns1", ann.pid()),
        (EVE, "nvme:0/ns2", bob.pid()),
        // Whom drivers run as in many systems.
        (65534, "nvme:0/ns1", ann.pid()),
    ] {
        let snoop = Client::new(&host, user, &["snoop", name, &other, &core, &driver_pid]);
        assert_eq!(snoop.end(), "nothing more", "user {user} at {name}");
    }
    host.same_driver(&driver);
    for client in [ann, bob] {
        let text = client.end();
        assert!(text.ends_with(" ended"), "{text}");
    }
}

#[test]
fn users_see_what_is_theirs() {
    let Some(host) = host() else { return };
    let core = Core::connect_to(host.socket()).unwrap();
    let roots = Bystander::new(&host.socket(), "nvme:0/ns1");
    let mut ann = Client::new(&host, ANN, &["hold", "nvme:0/ns1"]);
    assert_eq!(ann.line(), "open");
    // A death, with a request that was being worked on.
    roots.goes_on(10);
    core.kill("nvme:0", uniddrv::client::Harm::Kill).unwrap();
    roots.goes_on(10);
    let text = Client::new(&host, ANN, &["see"]).end();
    assert_eq!(
        text,
        "disk:0 held by [1000]\nnvme:0/ns1 held by [1000]\nstatus of nvme:0: [1000], 0 requests"
    );
    let text = Client::new(&host, BOB, &["see"]).end();
    assert_eq!(text, "disk:1 held by []\nnvme:0/ns2 held by []\nstatus of nvme:0: [], 0 requests");
    assert_eq!(Client::new(&host, EVE, &["see"]).end(), "");
    let text = Client::new(&host, 0, &["see"]).end();
    let all = text.contains("nvme:0/ns2 held by []") && text.contains("disk:0 held by [");
    assert!(all && text.contains(" 1000"), "{text}");
    roots.end();
}

#[test]
fn a_user_who_connects_without_end_shuts_nobody_out() {
    let Some(host) = host() else { return };
    let driver = host.driver();
    let mut ann = Client::new(&host, ANN, &["connect", "300"]);
    assert_eq!(ann.line(), "64 in, 236 refused");
    let mut bob = Client::new(&host, BOB, &["hold", "nvme:0/ns2"]);
    assert_eq!(bob.line(), "open");
    let mut roots: Vec<_> = (0..200).map(|_| host.connect()).collect();
    assert!(roots.iter_mut().all(|core| core.names("").is_ok()));
    drop(roots);
    ann.end();
    until("those that end make no room", || {
        let mut again = Client::new(&host, ANN, &["connect", "64"]);
        (again.line() == "64 in, 0 refused").then_some(())
    });
    host.same_driver(&driver);
    bob.end();
}

#[test]
fn a_user_who_takes_all_queues_leaves_some() {
    let Some(host) = host() else { return };
    let driver = host.driver();
    let mut ann = Client::new(&host, ANN, &["queues", "nvme:0/ns1"]);
    assert_eq!(ann.line(), "32 queues");
    let mut bob = Client::new(&host, BOB, &["queues", "nvme:0/ns2"]);
    assert_eq!(bob.line(), "16 queues");
    let mut root = Client::new(&host, 0, &["queues", "nvme:0/ns1"]);
    assert_eq!(root.line(), "16 queues");
    for client in [ann, bob, root] {
        client.end();
    }
    host.same_driver(&driver);
}

#[test]
fn a_user_who_asks_for_all_memory_at_once_gets_what_is_a_users() {
    let Some(host) = host() else { return };
    let driver = host.driver();
    let half = (1_u64 << 29).to_string();
    let mut ann = Client::new(&host, ANN, &["arenas", "20", &half, "nvme:0/ns1"]);
    assert_eq!(ann.line(), "2 opened, 18 refused");
    let mut bob = Client::new(&host, BOB, &["arenas", "1", &half, "nvme:0/ns2"]);
    assert_eq!(bob.line(), "1 opened, 0 refused");
    ann.end();
    until("what is given back cannot be had again", || {
        let mut again = Client::new(&host, ANN, &["arenas", "1", &half, "nvme:0/ns1"]);
        (again.line() == "1 opened, 0 refused").then_some(())
    });
    bob.end();
    host.same_driver(&driver);
}
