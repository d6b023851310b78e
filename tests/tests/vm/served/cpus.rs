//! Devices that a running core is given and has to give back, and a driver with a CPU of its own.

use std::fs;

use super::super::guest;
use super::load::Load;
use super::{Core, DATA, connect, eventually, status, uniddrv};

/// The controller that keeps nothing.
const NULL: &str = "0000:00:11.0";

/// The CPUs that a process may use.
fn allowed(process: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim().to_owned()
}

fn names(core: &uniddrv::client::Core) -> Vec<String> {
    core.names("nvme:").unwrap().into_iter().map(|name| name.name).collect()
}

#[test]
fn bind_gives_a_running_core_devices_and_unbind_takes_them() {
    let Some(guest) = guest() else { return };
    let core = Core::start(&[], "");
    let connection = connect();
    assert!(names(&connection).is_empty());
    for _ in 0..2 {
        uniddrv(&["bind", DATA, NULL]);
        let all = names(&connection);
        assert_eq!(all, ["nvme:0", "nvme:0/ns1", "nvme:0/ns2", "nvme:1", "nvme:1/ns1"]);
        let mut load = Load::new(&connection, "nvme:0/ns2", 64, 1);
        uniddrv(&["unbind", NULL]);
        assert_eq!(names(&connection), ["nvme:0", "nvme:0/ns1", "nvme:0/ns2"]);
        assert_eq!(guest.driver(NULL).as_deref(), Some("nvme"));
        load.verify();
        uniddrv(&["unbind", DATA]);
        assert!(names(&connection).is_empty());
        assert_eq!(guest.driver(DATA).as_deref(), Some("nvme"));
        // What it held is gone, and the connection is not.
        assert_eq!(load.end(), 1);
    }
    assert!(core.end().success());
}

#[test]
fn a_driver_polls_on_a_cpu_that_linux_uses_for_nothing_else() {
    let Some(_guest) = guest() else { return };
    let before = allowed("self");
    let config =
        format!("[[device]]\naddress = \"{DATA}\"\nname = \"nvme:0\"\ncpu = 1\nidle = \"poll\"\n");
    uniddrv(&["bind", DATA]);
    let core = Core::start(&[], &config);
    let connection = connect();
    let partition = format!("/sys/fs/cgroup/uniddrv-{}", core.process.id());
    assert_eq!(
        fs::read_to_string(format!("{partition}/cpuset.cpus.partition")).unwrap().trim(),
        "isolated",
        "{}",
        core.log()
    );
    let now = status(&connection, "nvme:0");
    assert_eq!((now.cpu, allowed(&now.pid.to_string())), (Some(1), "1".to_owned()));
    assert_eq!(allowed("self"), "0", "Linux keeps others away");
    let mut load = Load::new(&connection, "nvme:0/ns1", 64, 6);
    (0..300).for_each(|_| load.step());

    // The successor has the same CPU.
    connection.restart("nvme:0").unwrap();
    let next = status(&connection, "nvme:0");
    assert_ne!(next.pid, now.pid);
    assert_eq!((next.adoptions, allowed(&next.pid.to_string())), (1, "1".to_owned()));
    load.verify();
    // Polling means polling: it is never asleep.
    assert!(!next.asleep && !status(&connection, "nvme:0").asleep);
    drop((load, connection));
    uniddrv(&["unbind", DATA]);
    assert!(core.end().success());
    assert!(!fs::exists(&partition).unwrap());
    eventually("the CPU, back", || (allowed("self") == before).then_some(()));
}
