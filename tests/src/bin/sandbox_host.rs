//! A process that has sandboxed processes, for tests. Their program is `hostile_driver`.
//!
//! `sandbox_host try|free PROGRAM ATTEMPT...` runs it once for each attempt, in a sandbox or
//! outside of any, and prints on a line each what came of it; `partly` is content with what there
//! is of a sandbox. `missing` prints the layers of the
//! sandbox that cannot be had. `hold PROGRAM` prints the number of a sandboxed process and waits
//! for ever. `time PROGRAM COUNT` prints how long spawning takes, in microseconds.
#![forbid(unsafe_code)]

use std::error::Error;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use uniddrv::control;
use uniddrv::process::{Birth, Ended, Namespaces};
use uniddrv_core::program::Program;
use uniddrv_core::sandbox::{Confinement, Spawner, Window, launch_if_asked};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a driver has: a socket, a device of four pages with a window on the second one, and
/// memory that is shared with it.
const SOCKET: i32 = 3;
const DEVICE: i32 = 5;
const MEMORY: i32 = 6;
const PAGE: u64 = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    launch_if_asked();
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [how @ ("try" | "partly"), program, attempts @ ..] => {
            let spawner = Spawner::new()?;
            let program = Program::load(Path::new(program))?;
            let confinement = Confinement { partial: *how == "partly", ..confinement() };
            for attempt in attempts {
                println!("{attempt} {}", confined(&spawner, &program, &confinement, attempt)?);
            }
        }
        ["free", program, attempts @ ..] => {
            let program = File::open(program)?;
            for attempt in attempts {
                println!("{attempt} {}", free(&program, attempt)?);
            }
        }
        ["missing"] => {
            for missing in Spawner::new()?.missing(&confinement())? {
                println!("{missing}");
            }
        }
        ["hold", program] => {
            let spawner = Spawner::new()?;
            let program = Program::load(Path::new(program))?;
            let (mine, its) = pipe()?;
            let inherited = [(its.as_fd(), 1)];
            let child = spawner.spawn(&program, &["wait"], &Confinement::default(), &inherited)?;
            let mut mine = mine;
            // It says something once it runs.
            mine.read_exact(&mut [0])?;
            println!("{}", child.pid().as_raw_nonzero());
            loop {
                std::thread::park();
            }
        }
        ["time", program, count] => time(program, count.parse()?)?,
        _ => return Err("usage: sandbox_host try|partly|free|missing|hold|time ...".into()),
    }
    Ok(())
}

fn confinement() -> Confinement {
    let window = Window { number: DEVICE, offset: PAGE, len: PAGE };
    Confinement { windows: vec![window], ..Confinement::default() }
}

/// What a driver process inherits besides its output.
struct Belongings {
    /// The other end of its socket.
    _ours: OwnedFd,
    socket: OwnedFd,
    device: OwnedFd,
    memory: OwnedFd,
}

impl Belongings {
    fn new() -> Result<Self, Box<dyn Error>> {
        let (ours, socket) = control::pair()?;
        rustix::net::send(&ours, b"hello", rustix::net::SendFlags::empty())?;
        let device = memfd_create("device", MemfdFlags::CLOEXEC)?;
        ftruncate(&device, 4 * PAGE)?;
        let memory = memfd_create("memory", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, 4 * PAGE)?;
        Ok(Self { _ours: ours, socket, device, memory })
    }

    fn with_output<'a>(&'a self, output: BorrowedFd<'a>) -> [(BorrowedFd<'a>, i32); 5] {
        let Self { socket, device, memory, .. } = self;
        [
            (output, 1),
            (output, 2),
            (socket.as_fd(), SOCKET),
            (device.as_fd(), DEVICE),
            (memory.as_fd(), MEMORY),
        ]
    }
}

/// What the process printed, and how it ended.
fn outcome(mut output: impl Read, ended: Option<Ended>) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    if ended.is_some() {
        output.read_to_string(&mut text)?;
    }
    let ended = ended.map_or("did not end".to_owned(), |ended| ended.to_string());
    Ok(format!("{}; {ended}", text.trim().replace('\n', " ")))
}

fn confined(
    spawner: &Spawner,
    program: &Program,
    confinement: &Confinement,
    attempt: &str,
) -> Result<String, Box<dyn Error>> {
    let belongings = Belongings::new()?;
    let (reader, writer) = pipe()?;
    let inherited = belongings.with_output(writer.as_fd());
    let mut child = spawner.spawn(program, &[attempt], confinement, &inherited)?;
    let ended = child.wait(PATIENCE)?;
    drop(writer);
    outcome(reader, ended)
}

fn free(program: &File, attempt: &str) -> Result<String, Box<dyn Error>> {
    let belongings = Belongings::new()?;
    let (reader, writer) = pipe()?;
    let inherited = belongings.with_output(writer.as_fd());
    let attempt = CString::new(attempt)?;
    let birth = Birth {
        program: program.as_fd(),
        arguments: &[c"hostile_driver", &attempt],
        environment: &[],
        inherited: &inherited,
        namespaces: Namespaces::empty(),
    };
    let mut child = birth.spawn()?;
    let ended = child.wait(PATIENCE)?;
    drop(writer);
    outcome(reader, ended)
}

fn time(program: &str, count: usize) -> Result<(), Box<dyn Error>> {
    let spawner = Spawner::new()?;
    let program = Program::load(Path::new(program))?;
    let mut times = Vec::new();
    for _ in 0..count {
        let (mut reader, writer) = pipe()?;
        let start = Instant::now();
        let child =
            spawner.spawn(&program, &["wait"], &Confinement::default(), &[(writer.as_fd(), 1)])?;
        let spawned = start.elapsed();
        reader.read_exact(&mut [0])?;
        times.push((start.elapsed().as_micros(), spawned.as_micros()));
        drop(child);
    }
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    println!("until its main runs, and until spawn returns: median {:?}, p95 {:?}", at(50), at(95));
    Ok(())
}
