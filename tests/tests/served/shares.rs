//! Several clients with several queues each, their limits, and their shares.

use std::time::{Duration, Instant};

use uniddrv::client::Core;

use crate::ground::{Ground, Plan, connect, options};
use crate::user::{BLOCK, User};

fn open(ground: &Ground, name: &str, queues: u8, depth: u32) -> (Core, Vec<User>) {
    let core = connect(&ground.plan.socket());
    let client = core.open(name, &options(queues, depth)).unwrap();
    let part = 4000 / usize::from(queues);
    let users = (0..queues).map(|number| {
        let first = u64::from(number) * part as u64;
        User::over(client.take_queue().unwrap(), depth as usize, first, part)
    });
    let users = users.collect();
    (core, users)
}

/// Keeps all queues full for a while. How many requests of each ended.
fn run(users: &mut [User], time: Duration) -> Vec<u64> {
    let before: Vec<u64> = users.iter().map(User::ended).collect();
    let end = Instant::now() + time;
    while Instant::now() < end {
        for user in users.iter_mut() {
            user.submit(u64::MAX);
            user.reap();
        }
    }
    users.iter().zip(before).map(|(user, before)| user.ended() - before).collect()
}

#[test]
fn many_queues_of_many_clients_are_served_and_survive() {
    let ground =
        Plan::new("namespaces=512:2M,512:2M,512:2M&fault=delay=0.2:500us,reorder=0.1").start();
    assert_eq!(ground.ready(), "nvme:0 nvme:0/ns1 nvme:0/ns2 nvme:0/ns3");
    let mut cores = Vec::new();
    let mut users = Vec::new();
    for (name, queues) in [("nvme:0/ns1", 4), ("nvme:0/ns2", 3), ("nvme:0/ns3", 1)] {
        let (core, more) = open(&ground, name, queues, 16);
        cores.push(core);
        users.extend(more);
    }
    for round in 1..=6 {
        run(&mut users, Duration::from_millis(150));
        ground.core.kill("nvme:0", uniddrv::client::Harm::Kill).unwrap();
        while ground.status().restarts < round || !ground.status().warm {
            run(&mut users, Duration::from_millis(10));
        }
    }
    users.iter_mut().for_each(User::verify);
    let status = ground.status();
    assert_eq!((status.adoptions, status.resets, status.errors), (6, 0, 0));
    assert_eq!(status.ios, users.iter().map(User::ended).sum::<u64>());
    assert_eq!(status.holders.len(), 3);
}

#[test]
fn limits_hold_for_each_client_over_all_its_queues() {
    let plan = Plan::new("namespaces=512:2M,512:2M,512:2M,512:2M&fault=delay=1:2ms");
    let mut plan = plan.device("depth = 64");
    for (name, limit) in [
        ("nvme:0/ns1", "iops = 400"),
        ("nvme:0/ns2", "bytes_per_second = \"1M\""),
        ("nvme:0/ns3", "in_flight = 4"),
    ] {
        plan = plan.rest(&format!(
            "[[allow]]\nname = \"{name}\"\nuser = \"*\"\nrights = \"write\"\n{limit}"
        ));
    }
    let ground = plan.start();
    ground.ready();
    let (_first, mut iops) = open(&ground, "nvme:0/ns1", 2, 32);
    let (_second, mut bytes) = open(&ground, "nvme:0/ns2", 2, 32);
    let (_third, mut few) = open(&ground, "nvme:0/ns3", 4, 32);
    let (_fourth, mut free) = open(&ground, "nvme:0/ns4", 1, 32);
    let mut all: Vec<User> = Vec::new();
    all.append(&mut iops);
    all.append(&mut bytes);
    all.append(&mut few);
    all.append(&mut free);
    run(&mut all, Duration::from_millis(300));
    let before = ground.status();
    let start = Instant::now();
    let counts = run(&mut all, Duration::from_millis(1500));
    let seconds = start.elapsed().as_secs_f64();
    let per_second = |users: &[u64]| users.iter().sum::<u64>() as f64 / seconds;
    let (limited, throughput) = (per_second(&counts[..2]), per_second(&counts[2..4]));
    let (four, unlimited) = (per_second(&counts[4..8]), per_second(&counts[8..]));
    eprintln!(
        "{limited:.0} of 400 IOPS, {throughput:.0}/s by bytes, {four:.0}/s by 4, {unlimited:.0}/s"
    );
    assert!((200.0..=500.0).contains(&limited), "{limited} of 400");
    // About six blocks a request, of those that have data.
    let most = (1 << 20) as f64 / (2 * BLOCK) as f64;
    assert!(throughput < most, "{throughput} requests with 1 MiB/s");
    // Each takes 2 ms, so four at once make 2,000.
    assert!(four <= 2200.0, "{four} with 4 at once");
    // One without limits is held up by none of them.
    assert!(unlimited > 2.0 * limited && unlimited > four, "{unlimited}");
    assert!(ground.status().ios > before.ios);
    all.iter_mut().for_each(User::drain);
}

#[test]
fn shares_are_by_weight() {
    // The device takes 16 at a time: more wait, and it matters who comes first.
    let mut plan = Plan::new("namespaces=512:2M,512:2M,512:2M&entries=33&fault=delay=1:1ms");
    for (name, weight) in [("nvme:0/ns1", 64), ("nvme:0/ns2", 192), ("nvme:0/ns3", 64)] {
        plan = plan.rest(&format!(
            "[[allow]]\nname = \"{name}\"\nuser = \"*\"\nrights = \"write\"\nweight = {weight}"
        ));
    }
    let ground = plan.start();
    ground.ready();
    // However many queues a client has.
    let (_first, mut light) = open(&ground, "nvme:0/ns1", 1, 32);
    let (_second, mut heavy) = open(&ground, "nvme:0/ns2", 1, 32);
    let (_third, mut many) = open(&ground, "nvme:0/ns3", 4, 32);
    let mut all = Vec::new();
    all.append(&mut light);
    all.append(&mut heavy);
    all.append(&mut many);
    run(&mut all, Duration::from_millis(200));
    let counts = run(&mut all, Duration::from_secs(1));
    let (light, heavy) = (counts[0] as f64, counts[1] as f64);
    let many = counts[2..].iter().sum::<u64>() as f64;
    eprintln!("{light} with weight 64, {heavy} with 192, {many} with 64 over four queues");
    assert!((1.6..4.5).contains(&(heavy / light)), "{heavy} against {light}");
    assert!((0.6..1.6).contains(&(many / light)), "{many} against {light}");
    all.iter_mut().for_each(User::drain);
}
