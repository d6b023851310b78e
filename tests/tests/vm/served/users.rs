//! Two users, each of whom may open one namespace of the same controller.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use uniddrv::client::{CoreError, Harm, OpenOptions, Refusal, Rights};
use uniddrv_tests::programs;

use super::super::guest;
use super::load::Load;
use super::{Core, DATA, connect, status, uniddrv};

/// Tells the process that it is to be a user, and which namespaces are its own and the other's.
const OWN: &str = "UNIDDRV_OWN_NAME";
const OTHERS: &str = "UNIDDRV_OTHERS_NAME";
const USERS: [u32; 2] = [1000, 1001];
const NAMES: [&str; 2] = ["nvme:0/ns1", "nvme:0/ns2"];
const UNITS: usize = 128;
const REQUESTS: usize = 600;

/// A process of another user, which runs this same test.
struct User(Child);

impl User {
    fn start(program: &std::path::Path, uid: u32, own: &str, others: &str) -> Self {
        let process = Command::new(program)
            .args(["--exact", "served::users::neither_of_two_users_has_what_is_the_others"])
            .arg("--nocapture")
            .env(OWN, own)
            .env(OTHERS, others)
            .uid(uid)
            .gid(uid)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(process)
    }

    /// Waits until it says this.
    fn says(&mut self, word: &str) {
        let mut lines = BufReader::new(self.0.stdout.as_mut().unwrap());
        let mut line = String::new();
        while lines.read_line(&mut line).unwrap() > 0 {
            if line.ends_with(&format!("{word}\n")) {
                return;
            }
            line.clear();
        }
        panic!("a user did not come to {word:?}: {:?}", self.0.wait());
    }

    fn go_on(&mut self) {
        writeln!(self.0.stdin.as_mut().unwrap()).unwrap();
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Says how far it is, and waits until it is to go on.
fn pause(word: &str) {
    println!("{word}");
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
}

/// What a user does who has `own` and would like to have `others`.
fn be_a_user(own: &str, others: &str) {
    let core = connect();
    let denied = |what: &str, result: Result<(), CoreError>| {
        let code = result.as_ref().err().and_then(CoreError::code);
        assert_eq!(code, Some(Refusal::Denied), "{what}: {result:?}");
    };
    let mut load = Load::new(&core, own, UNITS, own.len() as u64 + u64::from(own.ends_with('2')));
    pause("open");

    // The other has its own open by now.
    for rights in [Rights::Read, Rights::Write] {
        let options = OpenOptions { rights, ..OpenOptions::default() };
        denied("open", core.open(others, &options).map(drop));
    }
    let names = core.names("nvme:0/").unwrap();
    assert!(names.iter().all(|name| name.name == own), "{names:?}");
    let held = status(&core, "nvme:0").holders;
    assert!(held.iter().all(|holder| holder.pid as u32 == std::process::id()), "{held:?}");
    for client in [None, Some(1), Some(2)] {
        denied("revoke", core.revoke(others, client));
    }
    for name in ["nvme:0", own] {
        denied("restart", core.restart(name));
        denied("upgrade", core.upgrade(name, None));
        denied("kill", core.kill(name, Harm::Kill));
    }
    denied("remove", core.remove(DATA));
    denied("add", core.add(super::super::EDU, None));
    denied("stop", core.stop());
    for _ in 0..REQUESTS {
        load.step();
    }
    pause("worked");

    // The other has written all it had to.
    load.verify();
    pause("verified");
}

#[test]
fn neither_of_two_users_has_what_is_the_others() {
    if let (Ok(own), Ok(others)) = (env::var(OWN), env::var(OTHERS)) {
        return be_a_user(&own, &others);
    }
    let Some(_guest) = guest() else { return };
    uniddrv(&["bind", DATA]);
    let allow = |index: usize| {
        format!(
            "[[allow]]\nname = \"{}\"\nuid = {}\nrights = \"write\"\n",
            NAMES[index], USERS[index]
        )
    };
    let config =
        format!("[[device]]\naddress = \"{DATA}\"\nname = \"nvme:0\"\n{}{}", allow(0), allow(1));
    let core = Core::start(&[], &config);
    // They may not go where this program is.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("user");
    programs::copy(env::current_exe().unwrap(), &program);
    let mut users =
        [0, 1].map(|index| User::start(&program, USERS[index], NAMES[index], NAMES[1 - index]));
    for word in ["open", "worked", "verified"] {
        for user in &mut users {
            user.says(word);
        }
        let now = status(&connect(), "nvme:0");
        let mut holders: Vec<_> = now.holders.iter().map(|holder| holder.uid).collect();
        holders.sort_unstable();
        assert_eq!(holders, USERS, "each still has its own");
        assert_eq!((now.restarts, now.errors), (0, 0));
        users.iter_mut().for_each(User::go_on);
    }
    for user in &mut users {
        assert!(user.0.wait().unwrap().success());
    }
    uniddrv(&["unbind", DATA]);
    assert!(core.end().success());
}
