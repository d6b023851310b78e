//! Clients that die, leave and come back, with requests on their way.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use uniddrv::block::{BlockQueue, Operation, Request};

use crate::ground::{Ground, NAME, PATIENCE, Plan, connect, options, signal, until};
use crate::user::User;

const DEPTH: u32 = 32;
/// The blocks of those that die: others do not look at them.
const THEIRS: u64 = 9000;
const COUNT: u64 = 4000;

/// A client in a process of its own.
pub(crate) struct Guest(Child);

impl Guest {
    /// One with requests on their way, for ever where there are no `rounds`.
    pub(crate) fn new(ground: &Ground, rounds: u64) -> Self {
        Self::start(ground, rounds, &mut Command::new(env!("CARGO_BIN_EXE_served_client")))
    }

    pub(crate) fn start(ground: &Ground, rounds: u64, command: &mut Command) -> Self {
        command.arg(ground.plan.socket()).arg(NAME);
        command.args([THEIRS, COUNT, rounds].map(|number| number.to_string()));
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "busy");
        Self(process)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Waits until it has ended, which it has to do well.
    pub(crate) fn finish(mut self) {
        let status = until(|| self.0.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn begin(parameters: &str) -> (Ground, User, uniddrv::client::Core) {
    let ground = Plan::new(parameters).start();
    ground.ready();
    let (core, client) = ground.open(1, DEPTH);
    let mut user = User::new(client, DEPTH as usize, 0, 8000);
    user.work(100);
    ground.warm();
    (ground, user, core)
}

/// Works until only the user is left, and nothing more is held than `before`.
fn until_forgotten(ground: &Ground, user: &mut User, before: &[usize]) {
    user.work_until(|_| {
        let status = ground.status();
        (status.warm && status.holders.len() == 1 && ground.footprint() == before).then_some(())
    });
}

#[test]
fn a_hundred_clients_that_are_killed_leave_nothing_behind() {
    // Their requests take a while: they are on their way when they die.
    let (ground, mut user, _core) = begin("size=8M&fault=delay=0.5:3ms");
    let before = ground.footprint();
    for round in 0..100 {
        let guest = Guest::new(&ground, 0);
        user.work(5 + round % 7);
        guest.kill();
        if round % 10 == 0 {
            until_forgotten(&ground, &mut user, &before);
        }
    }
    until_forgotten(&ground, &mut user, &before);
    user.verify();
    // No request of theirs failed either: what they were to read had memory to go to.
    let status = ground.status();
    assert_eq!((status.errors, status.restarts, status.resets), (0, 0, 0));
    assert!(status.ios > user.ended());
}

#[test]
fn a_name_is_opened_two_hundred_times_and_nothing_leaks() {
    let (ground, mut user, _core) = begin("size=8M");
    let before = ground.footprint();
    let other = connect(&ground.plan.socket());
    for round in 0..200 {
        // Over a connection that stays, and over new ones.
        let new = (round % 2 == 1).then(|| connect(&ground.plan.socket()));
        let core = new.as_ref().unwrap_or(&other);
        let client = core.open(NAME, &options(1 + round % 3, DEPTH)).unwrap();
        let mut queue = client.take_queue().unwrap();
        let buffer = Some(client.buffer(4096).unwrap());
        let operation = Operation::Read { lba: THEIRS };
        queue.submit(Request { operation, buffer, tag: 1 }).map_err(|(error, _)| error).unwrap();
        let mut ended = 0;
        while ended == 0 {
            ended = queue.poll(|completion| completion.result.unwrap());
        }
        user.work(3);
    }
    drop(other);
    until_forgotten(&ground, &mut user, &before);
    user.verify();
    assert_eq!(ground.status().errors, 0);
}

#[test]
fn a_client_that_leaves_with_requests_on_their_way_disturbs_nobody() {
    let (ground, mut user, _core) = begin("size=8M&fault=delay=0.5:3ms");
    let before = ground.footprint();
    let other = connect(&ground.plan.socket());
    for round in 0..50 {
        let client = other.open(NAME, &options(2, DEPTH)).unwrap();
        let mut queues = [client.take_queue().unwrap(), client.take_queue().unwrap()];
        for number in 0..u64::from(DEPTH) {
            let queue = &mut queues[(number % 2) as usize];
            let lba = THEIRS + 8 * number;
            let mut buffer = client.buffer(4096).unwrap();
            buffer.as_mut_slice().fill(round);
            let operation = match number % 3 {
                0 => Operation::Write { lba, fua: false },
                _ => Operation::Read { lba },
            };
            let request = Request { operation, buffer: Some(buffer), tag: number };
            queue.submit(request).map_err(|(error, _)| error).unwrap();
        }
        for queue in &mut queues {
            queue.poll(|_| {});
        }
        user.work(3);
        if round % 2 == 0 {
            drop(queues);
            drop(client);
        } else {
            drop(client);
            drop(queues);
        }
    }
    // The arena of that connection is whole again: what was left was given back.
    let client = other.open(NAME, &options(1, DEPTH)).unwrap();
    let mut theirs = User::new(client, DEPTH as usize, 14_000, 2000);
    theirs.work(300);
    theirs.verify();
    drop(theirs);
    drop(other);
    until_forgotten(&ground, &mut user, &before);
    user.verify();
    let status = ground.status();
    assert_eq!((status.errors, status.restarts), (0, 0));
}

#[test]
fn a_client_that_dies_while_a_successor_takes_over_is_drained() {
    let (ground, mut user, _core) = begin("size=8M&fault=delay=0.5:3ms");
    let before = ground.footprint();
    for round in 0..20_u64 {
        let guest = Guest::new(&ground, 0);
        user.work(5);
        let pid = ground.warm().pid;
        // Before, with and after the driver's death.
        match round % 3 {
            0 => {
                guest.kill();
                signal(pid, Signal::KILL);
            }
            1 => {
                signal(pid, Signal::KILL);
                guest.kill();
            }
            _ => {
                signal(pid, Signal::KILL);
                std::thread::sleep(Duration::from_micros(300 * round));
                guest.kill();
            }
        }
        user.work_until(|_| (ground.status().restarts > round).then_some(()));
    }
    until_forgotten(&ground, &mut user, &before);
    user.verify();
    let status = ground.status();
    assert_eq!((status.errors, status.resets, status.adoptions), (0, 0, 20));
}

#[test]
fn a_client_that_sleeps_is_woken_by_the_successor() {
    let (ground, mut user, _core) = begin("size=4M&fault=delay=1:20ms");
    for round in 1..=10 {
        user.submit(u64::MAX);
        user.queue.poll(|_| panic!("it takes 20 ms"));
        let pid = ground.warm().pid;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(5));
                signal(pid, Signal::KILL);
            });
            assert!(user.queue.wait(PATIENCE).unwrap());
        });
        user.drain();
        until(|| (ground.status().restarts == round).then_some(()));
    }
    user.verify();
    assert_eq!(ground.status().errors, 0);
}
