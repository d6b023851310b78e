//! Spawning sandboxed processes.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, getegid, geteuid, prlimit};
use uniddrv::control::{self, Control, ControlError};
use uniddrv::process::{Birth, BirthError, Ended, Namespaces, Pidfd, set_fifo};

use super::child::{BURIAL, Child, Grave};
use super::orders::{FromLauncher, Orders, ToLauncher};
use super::{Confinement, Identity, LAUNCHER, Layer, Missing, Scheduling};
use crate::program::Program;

/// How long a launcher may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a dead process's namespaces stay: taking them down would keep its successor from the
/// CPU.
const MOURNING: Duration = Duration::from_millis(50);

/// Why there is no sandboxed process.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The launcher could not be started.
    #[error(transparent)]
    Birth(#[from] BirthError),
    /// A step of the spawner's failed.
    #[error("cannot spawn a sandboxed process: {step}: {source}")]
    Spawner {
        /// Which.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A step of the launcher's failed.
    #[error("the sandbox's launcher failed {step}: {reason}")]
    Launcher {
        /// Which.
        step: String,
        /// Why.
        reason: String,
    },
    /// The launcher ended.
    #[error("the sandbox's launcher {0}; is its program one that calls launch_if_asked?")]
    Ended(Ended),
    /// The launcher does not answer.
    #[error("the sandbox's launcher gave no answer: {0}")]
    NoAnswer(#[from] ControlError),
    /// Layers of the sandbox cannot be had, and the confinement wants them all.
    #[error("the sandbox would be incomplete: {}", list(.0))]
    Incomplete(Vec<Missing>),
    /// A file descriptor under a number that cannot be, or a window on none.
    #[error(
        "a sandboxed process cannot have its file descriptor {0}: it is not below the limit, \
         given twice, or a window on something that is not inherited"
    )]
    Number(RawFd),
    /// There is no thread any more that spawns.
    #[error("the thread that spawns processes has ended")]
    Gone,
}

fn list(missing: &[Missing]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn failed<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> SpawnError {
    move |source| SpawnError::Spawner { step, source: source.into() }
}

type Job = Box<dyn FnOnce(&Origin) + Send>;

/// Spawns sandboxed processes, on a thread of its own: Linux ends them (PR_SET_PDEATHSIG) when
/// the thread that spawned them ends, so when this is dropped or its process ends.
#[derive(Debug)]
pub struct Spawner {
    jobs: Option<Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What every launcher is started from.
struct Origin {
    launcher: File,
    null: File,
    undertaker: Sender<Grave>,
}

impl Spawner {
    /// Spawns with this very program as the launcher: its `main` has to begin with
    /// [`launch_if_asked`](super::launch_if_asked).
    ///
    /// # Errors
    /// Where /proc or /dev/null is not there, or no thread.
    pub fn new() -> Result<Self, SpawnError> {
        Self::with_launcher(Path::new("/proc/self/exe"))
    }

    /// Spawns with the program at `launcher` as the launcher.
    ///
    /// # Errors
    /// Where it or /dev/null cannot be opened, or there is no thread.
    pub fn with_launcher(launcher: &Path) -> Result<Self, SpawnError> {
        let launcher = File::open(launcher).map_err(failed("opening the launcher's program"))?;
        let mut options = fs::OpenOptions::new();
        let null = options.read(true).write(true).open("/dev/null");
        let null = null.map_err(failed("opening /dev/null"))?;
        let (undertaker, graves) = channel::<Grave>();
        thread::Builder::new()
            .name("undertaker".to_owned())
            .spawn(move || {
                for grave in graves {
                    thread::sleep(MOURNING.saturating_sub(grave.since.elapsed()));
                    drop(grave);
                }
            })
            .map_err(failed("starting a thread"))?;
        let origin = Origin { launcher, null, undertaker };
        let (jobs, work) = channel::<Job>();
        let thread = thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for job in work {
                    job(&origin);
                }
            })
            .map_err(failed("starting a thread"))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Starts `program` with `arguments` (its name comes before them) in a sandbox. It inherits
    /// the file descriptors `inherited`, each under the number beside it. 0, 1 and 2 are
    /// /dev/null where they are not among them; a regular file there could not be written, since
    /// the limit on files' size is 0, but a pipe can.
    ///
    /// Takes a few milliseconds, and waits for the launcher for 10 s at most.
    ///
    /// # Errors
    /// Where a step fails, or a layer is missing and the confinement is not
    /// [`partial`](Confinement::partial). No process is left then.
    pub fn spawn(
        &self,
        program: &Program,
        arguments: &[&str],
        confinement: &Confinement,
        inherited: &[(BorrowedFd<'_>, RawFd)],
    ) -> Result<Child, SpawnError> {
        let mut names = vec![program.name()];
        names.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let program = owned(program.as_fd())?;
        let mut fds = Vec::new();
        for &(fd, number) in inherited {
            fds.push((owned(fd)?, number));
        }
        let confinement = confinement.clone();
        self.run(move |origin| {
            let mut launcher = origin.prepare(program.as_fd(), names, &confinement, &fds)?;
            launcher.go()?;
            Ok(launcher.child)
        })
    }

    /// Which layers of the sandbox `confinement` cannot have here, by trying it out.
    ///
    /// # Errors
    /// Where a step fails that nothing works without.
    pub fn missing(&self, confinement: &Confinement) -> Result<Vec<Missing>, SpawnError> {
        let confinement = Confinement { partial: true, windows: Vec::new(), ..confinement.clone() };
        self.run(move |origin| {
            let program = origin.null.as_fd();
            let launcher = origin.prepare(program, Vec::new(), &confinement, &[])?;
            Ok(launcher.child.missing().to_vec())
        })
    }

    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Origin) -> Result<T, SpawnError> + Send + 'static,
    ) -> Result<T, SpawnError> {
        let (answer, answered) = channel();
        let job: Job = Box::new(move |origin| {
            // Whoever asked may have gone.
            let _ = answer.send(job(origin));
        });
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or(SpawnError::Gone)?;
        answered.recv().map_err(|_| SpawnError::Gone)?
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It ends as soon as it has nothing to do.
            let _ = thread.join();
        }
    }
}

fn owned(fd: BorrowedFd<'_>) -> Result<OwnedFd, SpawnError> {
    fd.try_clone_to_owned().map_err(failed("duplicating a file descriptor"))
}

/// A launcher that has built its sandbox and waits.
struct Launcher {
    child: Child,
    gate: Control,
}

impl Origin {
    fn prepare(
        &self,
        program: BorrowedFd<'_>,
        arguments: Vec<String>,
        confinement: &Confinement,
        inherited: &[(OwnedFd, RawFd)],
    ) -> Result<Launcher, SpawnError> {
        // Above the limit that the process will have, so that it cannot have them again.
        let limit = RawFd::try_from(confinement.files).unwrap_or(RawFd::MAX - 2);
        let (gate_number, program_number) = (limit, limit.saturating_add(1));
        check_numbers(confinement, inherited, limit)?;
        let (gate, launchers_gate) = control::pair().map_err(failed("socketpair"))?;
        let mut fds: Vec<_> = inherited.iter().map(|(fd, number)| (fd.as_fd(), *number)).collect();
        for number in 0..3 {
            if fds.iter().all(|&(_, taken)| taken != number) {
                fds.push((self.null.as_fd(), number));
            }
        }
        fds.push((launchers_gate.as_fd(), gate_number));
        fds.push((program, program_number));
        let numbers = [gate_number, program_number].map(|number| CString::new(number.to_string()));
        let [Ok(gate_argument), Ok(program_argument)] = numbers else {
            return Err(SpawnError::Number(limit));
        };
        let name = CString::new(LAUNCHER).map_err(failed("naming the launcher"))?;
        let birth = Birth {
            program: self.launcher.as_fd(),
            arguments: &[&name, &gate_argument, &program_argument],
            environment: &[],
            inherited: &fds,
            namespaces: Namespaces::empty(),
        };
        let (process, namespaces, mut missing) = bear(birth)?;
        drop(launchers_gate);
        let pid = process.pid();
        // Whatever goes wrong from here on, the process ends with this.
        let mut child = Child::new(process);
        let (user, clear_groups) = if namespaces.contains(Namespaces::USER) {
            map_user(pid, confinement.identity, &mut missing)?
        } else {
            match confinement.identity {
                Identity::Host { uid, gid } => (Some((uid, gid)), true),
                Identity::Own => (None, false),
            }
        };
        if let Err(error) = lock_memory(pid, confinement.locked) {
            missing.push(Missing::new(Layer::LockedMemory, error));
        }
        let orders = Orders {
            user,
            clear_groups,
            cpu: confinement.cpu,
            memory: confinement.memory,
            files: confinement.files,
            windows: confinement.windows.clone(),
            arguments,
        };
        let mut gate = Control::new(gate);
        let sent = gate.send(&ToLauncher::Orders(orders), &[]);
        match sent.and_then(|()| gate.receive_within(PATIENCE)) {
            Ok((FromLauncher::Standing(more), _)) => missing.extend(more),
            Ok((FromLauncher::Failed { step, reason }, _)) => {
                return Err(SpawnError::Launcher { step, reason });
            }
            Err(ControlError::Closed) => {
                let ended = child.wait(BURIAL).ok().flatten();
                return Err(ended.map_or(ControlError::Closed.into(), SpawnError::Ended));
            }
            Err(error) => return Err(error.into()),
        }
        // They exist now, and the program that it will execute cannot be looked at.
        let mut namespaces = Vec::new();
        for kind in ["mnt", "net"] {
            let path = format!("/proc/{}/ns/{kind}", pid.as_raw_nonzero());
            match File::open(&path) {
                Ok(namespace) => namespaces.push(namespace),
                Err(error) => tracing::debug!("its end will take longer: {path}: {error}"),
            }
        }
        child.keep(namespaces, self.undertaker.clone());
        if let Scheduling::Fifo(priority) = confinement.scheduling
            && let Err(error) = set_fifo(pid, priority.into())
        {
            missing.push(Missing::new(Layer::Fifo, error));
        }
        if !missing.is_empty() && !confinement.partial {
            return Err(SpawnError::Incomplete(missing));
        }
        child.lacks(missing);
        Ok(Launcher { child, gate })
    }
}

impl Launcher {
    fn go(&mut self) -> Result<(), SpawnError> {
        self.gate.send(&ToLauncher::Go, &[])?;
        match self.gate.receive_within(PATIENCE) {
            // Executing the program has closed it.
            Err(ControlError::Closed) => Ok(()),
            Ok((FromLauncher::Failed { step, reason }, _)) => {
                Err(SpawnError::Launcher { step, reason })
            }
            Ok((FromLauncher::Standing(missing), _)) => Err(SpawnError::Incomplete(missing)),
            Err(error) => Err(error.into()),
        }
    }
}

fn check_numbers(
    confinement: &Confinement,
    inherited: &[(OwnedFd, RawFd)],
    limit: RawFd,
) -> Result<(), SpawnError> {
    for (index, &(_, number)) in inherited.iter().enumerate() {
        let twice = inherited.iter().take(index).any(|&(_, earlier)| earlier == number);
        if twice || !(0..limit).contains(&number) {
            return Err(SpawnError::Number(number));
        }
    }
    for window in &confinement.windows {
        if inherited.iter().all(|&(_, number)| number != window.number) {
            return Err(SpawnError::Number(window.number));
        }
    }
    Ok(())
}

/// Starts the launcher in a user and a PID namespace, or in those of the two that can be had.
fn bear(mut birth: Birth<'_>) -> Result<(Pidfd, Namespaces, Vec<Missing>), SpawnError> {
    let both = Namespaces::USER | Namespaces::PID;
    let mut refusal = String::new();
    for namespaces in [both, Namespaces::USER, Namespaces::PID, Namespaces::empty()] {
        birth.namespaces = namespaces;
        match birth.spawn() {
            Ok(process) => {
                let lacks = both.difference(namespaces);
                let named = [(Namespaces::USER, Layer::Users), (Namespaces::PID, Layer::Processes)];
                let missing = named.into_iter().filter(|(namespace, _)| lacks.contains(*namespace));
                let missing = missing.map(|(_, layer)| Missing::new(layer, &refusal)).collect();
                return Ok((process, namespaces, missing));
            }
            Err(error) if error.step == "clone" && !namespaces.is_empty() => {
                // The first one says what is lacking; what follows is only more of it.
                if refusal.is_empty() {
                    refusal = error.source.to_string();
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(SpawnError::Gone)
}

/// Maps `nobody` of the launcher's user namespace to a user of this machine: whom the launcher
/// is to become, and whether it can give up its groups.
fn map_user(
    pid: Pid,
    identity: Identity,
    missing: &mut Vec<Missing>,
) -> Result<(Option<(u32, u32)>, bool), SpawnError> {
    let nobody = Identity::NOBODY;
    let user = Some((nobody, nobody));
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/{}/{file}", pid.as_raw_nonzero()), text)
    };
    if let Identity::Host { uid, gid } = identity {
        let written = write("gid_map", format!("{nobody} {gid} 1"))
            .and_then(|()| write("uid_map", format!("{nobody} {uid} 1")));
        match written {
            Ok(()) => return Ok((user, true)),
            Err(error) => missing.push(Missing::new(Layer::Identity, error)),
        }
    }
    write("setgroups", "deny".to_owned()).map_err(failed("writing setgroups"))?;
    write("gid_map", format!("{nobody} {} 1", getegid().as_raw()))
        .map_err(failed("writing gid_map"))?;
    write("uid_map", format!("{nobody} {} 1", geteuid().as_raw()))
        .map_err(failed("writing uid_map"))?;
    Ok((user, false))
}

/// Sets the limit on locked memory, which may be above our own.
fn lock_memory(pid: Pid, bytes: u64) -> Result<(), String> {
    let set = |value| {
        let limit = Rlimit { current: Some(value), maximum: Some(value) };
        prlimit(Some(pid), Resource::Memlock, limit).map(drop)
    };
    match set(bytes) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => {
            let most = rustix::process::getrlimit(Resource::Memlock).maximum.unwrap_or(u64::MAX);
            set(most.min(bytes)).map_err(|error| error.to_string())?;
            Err(format!("{bytes} bytes wanted, {most} possible"))
        }
        Err(error) => Err(error.to_string()),
    }
}
