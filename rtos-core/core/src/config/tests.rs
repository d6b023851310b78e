//! Every error, with its line and column.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use uniddrv::address::ModelAddress;

use super::*;

const PASSWD: &str = "root:x:0:0:::\nann:x:1000:100:::\nbob:x:1001:101:::\n";
const GROUP: &str = "root:x:0:\nusers:x:100:\ndisk:x:6:bob\n";

/// Eight CPUs, of which 0 to 5 may be used; run by the user 500.
fn machine() -> Machine {
    Machine {
        online: "0-7".parse().unwrap(),
        allowed: "0-5".parse().unwrap(),
        accounts: Accounts::parse(PASSWD, GROUP),
        uid: 500,
        runtime_folder: Some("/run/user/500".into()),
        config_folder: None,
        program_folder: "/opt/uniddrv/bin".into(),
        check_model: |model: &ModelAddress| match model.parameters.iter().find(|p| p.0 == "bad") {
            Some(_) => Err("the model has no parameter `bad`".into()),
            None => Ok(()),
        },
    }
}

fn parse(text: &str) -> Result<Config, Vec<ConfigError>> {
    Config::parse(text, Path::new("core.toml"), &machine())
}

fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{}", LoadError::Wrong(errors)))
}

/// The places and messages of all errors.
fn errors(text: &str) -> Vec<String> {
    parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

/// The only error: its place with the text there, and its message.
#[track_caller]
fn error(text: &str) -> (String, String) {
    let mut errors = parse(text).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    let ConfigError { place, text, problem, .. } = errors.remove(0);
    (format!("{place} {text}"), problem.to_string())
}

/// A device with `line` as its third line.
#[track_caller]
fn device_error(line: &str) -> (String, String) {
    error(&format!("[[device]]\naddress = \"0000:03:00.0\"\n{line}\n"))
}

/// An entry with `line` as its fourth line.
#[track_caller]
fn allow_error(line: &str) -> (String, String) {
    error(&format!("[[allow]]\nname = \"nvme:*\"\nrights = \"read\"\n{line}\n"))
}

const FULL: &str = r#"
[core]
socket = "/run/x/core.sock"
cpu = 0
huge_pages = false
require_sandbox = false
drivers = "/opt/drivers"

[[device]]
address = "03:00.0"
driver = "nvme"
name = "nvme:0"
cpu = 2
memory = "128M"
idle = "sleep"
spin = "2ms"
hang = "200ms"
timeout = "5s"
reconnect = "1m"
realtime = 10
depth = 1023
restart = { deaths = 7, backoff = "1ms..1s" }

[[device]]
match = { vendor = 0x1b36, device = 0x0010 }
driver = "/opt/my-nvme"
name = "my:a_b"
idle = "poll"
realtime = false

[[device]]
match = { class = 0x010802 }

[[device]]
address = "vfio-user:/run/nvme.sock"

[[device]]
address = "model:nvme?size=1G"

[[allow]]
name = "nvme:0/ns1"
user = "ann"
rights = "write"
in_flight = 64
iops = 1000
bytes_per_second = "100M"
queues = 2
memory = "16M"
weight = 200

[[allow]]
name = "nvme:*"
group = "disk"
rights = "read"

[[allow]]
name = "disk:7/*"
uid = 4000
rights = "write"

[[allow]]
name = "net:0"
gid = 6
rights = "write"

[[allow]]
name = "nvme:9/*"
user = "*"
rights = "read"
"#;

#[test]
fn every_key_is_read() {
    let config = good(FULL);
    let core = CoreConfig {
        socket: "/run/x/core.sock".into(),
        cpu: Cpu::new(0),
        huge_pages: false,
        require_sandbox: false,
        drivers: "/opt/drivers".into(),
    };
    assert_eq!(config.core, core);
    assert_eq!(config.warnings, []);
    let [first, second, third, fourth, fifth] = config.devices.as_slice() else {
        panic!("{:?}", config.devices)
    };
    let expected = DeviceConfig {
        place: Place { line: 9, column: 1 },
        which: Which::Address("0000:03:00.0".parse().unwrap()),
        driver: DriverChoice::parse("nvme").unwrap(),
        name: Some("nvme:0".parse().unwrap()),
        cpu: Cpu::new(2),
        memory: ByteSize::new(128 << 20),
        idle: Idle::Sleep { spin: Duration::from_millis(2) },
        hang: Duration::from_millis(200),
        timeout: Duration::from_secs(5),
        reconnect: Duration::from_mins(1),
        realtime: Priority::new(10),
        depth: Depth::new(1023).unwrap(),
        restart: Restart {
            deaths: 7,
            backoff: Duration::from_millis(1),
            longest: Duration::from_secs(1),
        },
    };
    assert_eq!(first, &expected);
    assert_eq!(second.which, Which::Match(uniddrv::Match::device(0x1b36, 0x0010)));
    assert_eq!(second.driver, DriverChoice::Program("/opt/my-nvme".into()));
    assert_eq!((second.idle, second.realtime), (Idle::Poll, None));
    let nvme = DriverChoice::Named(DriverName::for_class(0x01_0802).unwrap());
    assert_eq!(third.driver, nvme, "known from the class");
    assert_eq!(fourth.driver, DriverChoice::ByClass, "known once it is open");
    assert_eq!(fifth.driver, nvme, "known from the model's kind");
    assert_eq!(fourth.memory, ByteSize::new(4 << 20));
    let program = nvme.program(Path::new("/opt/drivers"));
    assert_eq!(program.as_deref(), Some(Path::new("/opt/drivers/uniddrv-nvme")));
    assert_eq!(config.driver_cpus(), "2".parse().unwrap());
    let limits = Limits {
        in_flight: Some(64),
        iops: Some(1000),
        bytes_per_second: Some(ByteSize::new(100 << 20)),
        queues: Some(2),
        memory: Some(ByteSize::new(16 << 20)),
        weight: 200,
    };
    assert_eq!(config.allow[0].grant, Grant { rights: Rights::Write, limits });
    let told = uniddrv_abi::message::Limits {
        in_flight: 64,
        iops: 1000,
        bytes_per_second: 100 << 20,
        weight: 12,
    };
    assert_eq!(limits.for_driver(), told);
    assert_eq!(Limits::NONE.for_driver().in_flight, 0, "no limit");
    let settings = first.settings();
    assert_eq!((settings.depth, settings.timeout_ms), (1023, 5000));
    assert!(settings.sleep && settings.spin_us == 2000);
    assert!(!second.settings().sleep);
    assert_eq!(config.allow[1].grant, Grant { rights: Rights::Read, limits: Limits::NONE });
}

#[test]
fn the_first_entry_that_fits_decides() {
    let config = good(FULL);
    let rights = |name: &str, uid, gid| {
        config.grant(&name.parse().unwrap(), &peer(uid, gid, &[])).map(|grant| grant.rights)
    };
    let (read, write) = (Some(Rights::Read), Some(Rights::Write));
    assert_eq!(rights("nvme:0/ns1", 1000, 100), write, "ann");
    assert_eq!(rights("nvme:0/ns2", 1000, 100), None, "another namespace");
    assert_eq!(rights("nvme:0/ns2", 3000, 6), read, "it is this process's group");
    let bob = config.grant(&"nvme:0/ns2".parse().unwrap(), &peer(1001, 101, &[4, 6]));
    assert_eq!(bob.map(|grant| grant.rights), read, "bob is in the group");
    assert_eq!(rights("nvme:7/ns2", 4000, 1), write, "disk: covers nvme:");
    assert_eq!(rights("net:0", 1001, 6), write, "by the number of a group that has a name");
    assert_eq!(rights("nvme:9/ns1", 7777, 7777), read, "everyone");
    assert_eq!(rights("nvme:5/ns1", 7777, 7777), None);
    assert_eq!(rights("nvme:5/ns1", 500, 500), write, "who runs the core");
    assert_eq!(rights("nvme:5/ns1", 0, 0), write, "root");
    assert_eq!(rights("nvme:9/ns1", 0, 0), read, "an entry fits root, too");
}

fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
    Peer { process: None, uid, gid, groups: groups.to_vec() }
}

#[test]
fn without_a_configuration_only_its_user_and_root_may_open() {
    let config = Config::unwritten(&machine());
    assert_eq!(good(""), config);
    let name: Name = "nvme:0/ns1".parse().unwrap();
    let all = Grant { rights: Rights::Write, limits: Limits::NONE };
    assert_eq!(config.grant(&name, &peer(500, 500, &[])), Some(all));
    assert_eq!(config.grant(&name, &peer(0, 0, &[])), Some(all));
    assert_eq!(config.grant(&name, &peer(1000, 0, &[0])), None, "root's group is not root");
    assert!(config.rules(&peer(500, 1, &[])) && config.rules(&peer(0, 0, &[])));
    assert!(!config.rules(&peer(1000, 0, &[0])));
    assert_eq!(config.core.socket, Path::new("/run/user/500/uniddrv/core.sock"));
    assert_eq!(config.core.drivers, Path::new("/opt/uniddrv/bin"));
    assert!(config.core.require_sandbox && config.core.huge_pages);
}

#[test]
fn text_that_is_no_toml_is_an_error() {
    let (place, message) = error("[core]\ncpu = \n");
    assert_eq!(place, "2:7 ");
    assert!(message.starts_with("not TOML: "), "{message}");
    let (place, message) = error("[core]\ncpu = 1\ncpu = 2\n");
    assert_eq!(place, "3:1 cpu");
    assert!(message.contains("duplicate"), "{message}");
    assert!(error("[core\n").0.starts_with("1:6 "));
    assert_eq!(errors("a b\nc d\n").len(), 2, "both lines");
}

#[test]
fn an_unknown_key_is_an_error() {
    let (place, message) = error("[core]\n  sokcet = 1\n");
    assert_eq!(place, "2:3 sokcet");
    assert_eq!(
        message,
        "[core] has no such key; did you mean `socket`?; its keys: socket, cpu, huge_pages, require_sandbox, drivers"
    );
    assert_eq!(error("[cores]\n").0, "1:2 cores");
    assert_eq!(device_error("colour = 1").0, "3:1 colour");
    assert_eq!(allow_error("uid = 1\ncolour = 1").0, "5:1 colour");
    assert_eq!(device_error("restart = { times = 1 }").0, "3:13 times");
    assert_eq!(error("[[device]]\nmatch = { class = 1, clas = 2 }").0, "2:22 clas");
}

#[test]
fn a_value_of_another_type_is_an_error() {
    let (place, message) = error("[core]\ncpu = \"2\"\n");
    assert_eq!(place, "2:7 \"2\"");
    assert_eq!(message, "a string here; expected a whole number");
    assert_eq!(error("core = 1").0, "1:8 1");
    assert_eq!(error("device = { }").0, "1:10 { }");
    assert_eq!(error("device = [1]").0, "1:11 1");
    assert_eq!(error("[core]\nhuge_pages = 1").0, "2:14 1");
    assert_eq!(error("[core]\nsocket = 1").0, "2:10 1");
    assert_eq!(device_error("name = 1").0, "3:8 1");
    assert_eq!(device_error("memory = 1.5").0, "3:10 1.5");
    assert_eq!(device_error("hang = true").0, "3:8 true");
    assert_eq!(device_error("restart = 5").0, "3:11 5");
    assert_eq!(error("[[device]]\nmatch = 5").0, "2:9 5");
    assert_eq!(allow_error("uid = \"1\"").0, "4:7 \"1\"");
}

#[test]
fn a_path_that_cannot_be_used_is_an_error() {
    for path in ["core.sock", "", "/", &format!("/{}", "x".repeat(107))] {
        let (place, _) = error(&format!("[core]\nsocket = \"{path}\"\n"));
        assert!(place.starts_with("2:10 \""), "{place}");
    }
    assert_eq!(error("[core]\ndrivers = \"bin\"").0, "2:11 \"bin\"");
    assert_eq!(error("[core]\ndrivers = \"/a\\u0000\"").0, "2:11 \"/a\\u0000\"");
}

#[test]
fn a_device_needs_an_address_or_a_match() {
    let (place, message) = error("\n[[device]]\ncpu = 1\n");
    assert_eq!(place, "2:1 [[device]]");
    assert!(message.starts_with("[[device]] needs an address, such as "), "{message}");
    let (place, message) = error("[[device]]\naddress = \"3:0.0\"\nmatch = { class = 1 }");
    assert_eq!(place, "3:9 { class = 1 }");
    assert_eq!(message, "only one of address and match can stand in an entry");
    for entry in ["{}", "{ vendor = 1 }", "{ device = 1 }", "{ vendor = 1, device = 1, class = 1 }"]
    {
        let (place, message) = error(&format!("[[device]]\nmatch = {entry}"));
        assert_eq!(place, format!("2:9 {entry}"));
        assert_eq!(
            message,
            "expected { vendor = 0x1b36, device = 0x0010 } or { class = 0x010802 }"
        );
    }
    let (place, message) = error("[[device]]\nmatch = { class = 0x1000000 }");
    assert_eq!(place, "2:19 0x1000000");
    assert_eq!(message, "expected a whole number from 0 to 16777215");
    assert_eq!(error("[[device]]\nmatch = { vendor = -1, device = 1 }").0, "2:20 -1");
}

#[test]
fn an_address_that_is_none_is_an_error() {
    let address = |text: &str| error(&format!("[[device]]\naddress = \"{text}\"\n"));
    let (place, message) = address("nvme0");
    assert_eq!(place, "2:11 \"nvme0\"");
    assert!(message.starts_with("`nvme0` is no device address"), "{message}");
    assert!(address("").1.starts_with("the address is empty"));
    assert!(address("vfio-user:x.sock").1.contains("the absolute path of a socket"));
    assert!(address("vhost-user:/run/net.sock").1.contains("cannot be served by the core"));
    assert_eq!(address("model:nvme?bad=1").1, "the model has no parameter `bad`");
    let (place, message) = address("model:edu");
    assert_eq!(place, "1:1 [[device]]");
    assert_eq!(message, "[[device]] needs a driver, as none is known for this model");
    good("[[device]]\naddress = \"model:edu\"\ndriver = \"edu\"\nname = \"edu:0\"");
}

#[test]
fn a_driver_is_a_name_or_an_absolute_path() {
    for driver in ["", "NVMe", "./nvme", "/opt/", "a b"] {
        let (place, message) = device_error(&format!("driver = \"{driver}\""));
        assert_eq!(place, format!("3:10 \"{driver}\""));
        assert!(message.starts_with("expected a driver's name"), "{message}");
    }
}

#[test]
fn a_device_name_that_is_none_is_an_error() {
    assert_eq!(device_error("name = \"nvme\"").0, "3:8 \"nvme\"");
    let (place, message) = device_error("name = \"nvme:0/ns1\"");
    assert_eq!(place, "3:8 \"nvme:0/ns1\"");
    assert_eq!(message, "a device's name has no path; write \"nvme:0\"");
    let (place, message) = device_error("driver = \"nvme\"\nname = \"net:0\"");
    assert_eq!(place, "4:8 \"net:0\"");
    assert_eq!(message, "the driver nvme serves names of the scheme `nvme`, such as \"nvme:0\"");
}

#[test]
fn a_cpu_must_exist_and_be_allowed() {
    let (place, message) = device_error("cpu = 8");
    assert_eq!(place, "3:7 8");
    assert_eq!(message, "there is no such CPU; this machine has 0-7");
    let (_, message) = device_error("cpu = 6");
    assert!(message.contains("CPUs 0-5 may"), "{message}");
    assert_eq!(error("[core]\ncpu = 99999").0, "2:7 99999");
    assert_eq!(device_error("cpu = -1").1, "expected a whole number from 0 to 4294967295");
    assert_eq!(device_error("cpu = 9999999999999999999999").0, "3:7 9999999999999999999999");
}

#[test]
fn sizes_and_durations_have_units_and_limits() {
    for memory in ["\"64X\"", "\"\"", "\"1k\"", "\"2T\"", "64"] {
        let (place, message) = device_error(&format!("memory = {memory}"));
        assert_eq!(place, format!("3:10 {memory}"));
        assert!(message.starts_with("expected a size from 1M to 1T"), "{message}");
    }
    for (key, value, limits) in [
        ("spin", "\"2h\"", "from 0ns to 1m"),
        ("hang", "\"1ms\"", "from 10ms to 1m"),
        ("timeout", "5", "from 100ms to 1h"),
        ("reconnect", "\"10 s\"", "from 0ns to 24h"),
    ] {
        let (place, message) = device_error(&format!("{key} = {value}"));
        assert_eq!(place, format!("3:{} {value}", key.len() + 4));
        assert!(message.contains(limits), "{message}");
    }
    assert_eq!(good("[[device]]\naddress = \"3:0.0\"\nmemory = 1048576").devices.len(), 1);
}

#[test]
fn words_and_numbers_of_a_device_are_checked() {
    assert_eq!(device_error("idle = \"spin\"").1, "expected one of \"sleep\", \"poll\"");
    let (place, message) = device_error("idle = \"poll\"\nspin = \"1ms\"");
    assert_eq!(place, "4:8 \"1ms\"");
    assert!(message.contains("idle = \"poll\""), "{message}");
    assert_eq!(device_error("depth = 0").1, "expected a whole number from 1 to 1023");
    assert_eq!(device_error("depth = 1024").0, "3:9 1024");
    assert_eq!(
        device_error("realtime = true").1,
        "expected one of false, or a priority from 1 to 99"
    );
    assert_eq!(device_error("realtime = 100").0, "3:12 100");
    assert_eq!(device_error("restart = { deaths = 0 }").0, "3:22 0");
    for backoff in ["100ms", "1s..1ms"] {
        let (place, message) = device_error(&format!("restart = {{ backoff = \"{backoff}\" }}"));
        assert_eq!(place, format!("3:23 \"{backoff}\""));
        assert!(message.starts_with("expected the first and the longest back-off"), "{message}");
    }
    assert!(device_error("restart = { backoff = \"1ms..x\" }").1.contains("a duration"));
}

#[test]
fn two_entries_for_one_device_are_an_error() {
    let two = |first: &str, second: &str| format!("[[device]]\n{first}\n[[device]]\n{second}\n");
    for (first, second) in [
        ("address = \"03:00.0\"", "address = \"0000:03:00.0\""),
        ("address = \"vfio-user:/run/x.sock\"", "address = \"vfio-user:/run//x.sock\""),
        ("match = { class = 0x10802 }", "match = { class = 67586 }"),
    ] {
        let (place, message) = error(&two(first, second));
        assert!(place.starts_with("4:"), "{place}");
        assert_eq!(message, "the entry at line 1 has this device already; remove one of the two");
    }
    let models = two("address = \"model:nvme\"", "address = \"model:nvme\"");
    assert_eq!(good(&models).devices.len(), 2, "each is a device of its own");
}

#[test]
fn two_devices_with_one_name_are_an_error() {
    let (place, message) = error(
        "[[device]]\naddress = \"3:0.0\"\nname = \"nvme:0\"\n[[device]]\naddress = \"4:0.0\"\nname = \"nvme:0\"\n",
    );
    assert_eq!(place, "6:8 \"nvme:0\"");
    assert_eq!(message, "the device at line 1 is named nvme:0 already; give this one another name");
}

#[test]
fn two_drivers_that_spin_on_one_cpu_are_a_warning() {
    let two = |first: &str, second: &str| {
        format!(
            "[core]\ncpu = 1\n[[device]]\naddress = \"3:0.0\"\ncpu = 2\n{first}\n[[device]]\naddress = \"4:0.0\"\ncpu = 2\n{second}\n"
        )
    };
    let config = good(&two("idle = \"poll\"", ""));
    assert_eq!(
        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "core.toml:9:7: `2`: the driver at line 3 runs on CPU 2 too, and they would take turns; give each a CPU of its own, or both idle = \"sleep\""
        ]
    );
    assert_eq!(good(&two("", "idle = \"poll\"")).warnings.len(), 1);
    assert_eq!(good(&two("", "")).warnings, [], "both sleep");
    let beside = |idle| {
        good(&format!(
            "[core]\ncpu = 1\n[[device]]\naddress = \"3:0.0\"\ncpu = 1\nidle = \"{idle}\""
        ))
    };
    assert_eq!(beside("poll").warnings[0].place, Place { line: 5, column: 7 });
    assert_eq!(beside("sleep").warnings, []);
}

#[test]
fn an_entry_without_name_user_or_rights_is_an_error() {
    let missing = errors("[[allow]]\n");
    assert_eq!(missing.len(), 3, "{missing:?}");
    assert!(
        missing
            .iter()
            .all(|error| error.starts_with("core.toml:1:1: `[[allow]]`: [[allow]] needs "))
    );
    assert!(missing[0].contains("a name") && missing[1].contains("user"), "{missing:?}");
    let (place, message) = allow_error("user = \"ann\"\ngid = 6");
    assert_eq!(place, "5:7 6");
    assert_eq!(message, "only one of user, group, uid and gid can stand in an entry");
}

#[test]
fn unknown_users_and_groups_are_errors() {
    let (place, message) = allow_error("user = \"eve\"");
    assert_eq!(place, "4:8 \"eve\"");
    assert!(message.contains("/etc/passwd"), "{message}");
    let (place, message) = allow_error("group = \"staff\"");
    assert_eq!(place, "4:9 \"staff\"");
    assert!(message.contains("/etc/group"), "{message}");
    assert_eq!(allow_error("uid = 4294967295").0, "4:7 4294967295");
}

#[test]
fn names_rights_and_limits_of_an_entry_are_checked() {
    let entry = |name: &str, rights: &str| {
        error(&format!("[[allow]]\nname = \"{name}\"\nuid = 1\nrights = \"{rights}\"\n"))
    };
    assert_eq!(entry("nvme:*/ns1", "read").0, "2:8 \"nvme:*/ns1\"");
    assert_eq!(entry("nvme:0", "rw").0, "4:10 \"rw\"");
    for (line, place) in [
        ("in_flight = 0", "5:13 0"),
        ("in_flight = 65536", "5:13 65536"),
        ("iops = 0", "5:8 0"),
        ("bytes_per_second = \"1k\"", "5:20 \"1k\""),
        ("queues = 17", "5:10 17"),
        ("memory = \"4k\"", "5:10 \"4k\""),
        ("weight = 1001", "5:10 1001"),
    ] {
        assert_eq!(allow_error(&format!("uid = 1\n{line}")).0, place);
    }
}

#[test]
fn an_entry_that_never_applies_is_a_warning() {
    let two = |first: &str, second: &str| {
        good(&format!(
            "[[allow]]\n{first}\nrights = \"read\"\n[[allow]]\n{second}\nrights = \"write\"\n"
        ))
        .warnings
    };
    let ann = "user = \"ann\"";
    let warnings =
        two(&format!("name = \"nvme:*\"\n{ann}"), &format!("name = \"nvme:0/ns1\"\n{ann}"));
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].place, Place { line: 5, column: 1 });
    let ns1 = format!("name = \"nvme:0/ns1\"\n{ann}");
    assert_eq!(two("name = \"*\"\nuser = \"*\"", &ns1).len(), 1);
    assert_eq!(two(&ns1, &format!("name = \"nvme:*\"\n{ann}")), []);
    assert_eq!(two(&ns1, "name = \"nvme:0/ns1\"\nuser = \"bob\""), []);
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_lines() {
    let text = "[[allow]]\nname = \"x\"\nuser = \"eve\"\nrights = \"all\"\n\
                [core]\ncpu = 70\n[[device]]\naddress = \"x\"\nmemory = \"x\"\ncpu = 70\nnoise = 1\n";
    let lines: Vec<u32> = parse(text).unwrap_err().iter().map(|error| error.place.line).collect();
    assert_eq!(lines, [2, 3, 4, 6, 8, 9, 10, 11]);
}

#[test]
fn a_message_has_file_line_column_text_and_mend() {
    assert_eq!(
        errors("[core]\ncpu = 70\n"),
        ["core.toml:2:7: `70`: there is no such CPU; this machine has 0-7"]
    );
    let long = format!("[core]\nsocket = \"{}\"\n", "x".repeat(100));
    assert!(errors(&long)[0].contains("xxx…`: expected the absolute path"), "{:?}", errors(&long));
}

#[test]
fn a_flood_of_entries_or_errors_is_bounded() {
    let devices = errors(&"[[device]]\naddress = \"model:nvme\"\n".repeat(device::MOST + 1));
    assert_eq!(devices.len(), 1);
    assert!(devices[0].contains("more than 256 entries [[device]]"), "{devices:?}");
    let keys: Vec<String> = (0..5000).map(|number| format!("key{number} = 1")).collect();
    assert_eq!(errors(&keys.join("\n")).len(), 1000);
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("core.toml");
    let load = |path: &Path| Config::load(path, &machine()).unwrap_err().to_string();
    assert!(load(&path).starts_with("cannot read the configuration "), "{}", load(&path));
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(load(&path).ends_with("core.toml:1:1: not UTF-8"), "{}", load(&path));
    std::fs::write(&path, vec![b'#'; MAX_FILE as usize + 1]).unwrap();
    assert!(load(&path).contains("larger than 1M"), "{}", load(&path));
    std::fs::write(&path, "[core]\ncpu = 70\n").unwrap();
    assert!(load(&path).contains("core.toml:2:7: `70`"), "{}", load(&path));
    std::fs::write(&path, FULL).unwrap();
    assert_eq!(Config::load(&path, &machine()).unwrap(), good(FULL));
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in ".*") {
        let _ = parse(&text);
    }

    /// Parts of a good file in any order: deeper than random text gets.
    #[test]
    fn any_mixture_of_lines_is_read_without_a_panic(order in proptest::collection::vec(0usize..80, 0..60)) {
        let lines: Vec<_> = FULL.lines().collect();
        let text: String = order.iter().filter_map(|&at| lines.get(at)).flat_map(|line| [line, "\n"]).collect();
        if let Err(errors) = parse(&text) {
            prop_assert!(!errors.is_empty());
            prop_assert!(errors.is_sorted_by_key(|error| error.place));
        }
    }
}
