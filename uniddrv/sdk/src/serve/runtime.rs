//! The life of a driver process: it maps what it is handed, waits for its turn, takes the device,
//! serves, and ends so that a successor can go on.

mod core;
mod serving;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};
use uniddrv_abi::ledger::{self, Phase};
use uniddrv_abi::message::{self, BarWindow, Beginning, FromDriver, Settings, ToDriver, VERSION};
use uniddrv_abi::queue;

use self::core::Core;
use self::serving::Serving;
use super::transport::Held;
use super::{BlockDriver, CONTROL, DEVICE, DriverLedger, FIRST_WINDOW, Steps, Table, crash, log};
use crate::address::Address;
use crate::arena::Arena;
use crate::clock;
use crate::device::Device;
use crate::dma::DmaSpace;
use crate::process::take_inherited;
use crate::shared::SharedWords;
use crate::transport::Transport;

/// The most bytes of a device's own structures in a message.
const MOST_IDENTITY: usize = 96 << 10;
/// Deaths in a row at the same request after which no further driver is given it.
const DEATHS: u64 = 3;

/// Runs a driver as a process that the core has spawned: the whole of its `main`.
///
/// It inherits the file descriptors [`CONTROL`], [`DEVICE`] and, where windows are not handed over
/// in [`ToDriver::Prepare`], [`FIRST_WINDOW`] and those that follow. From [`ToDriver::Begin`] to
/// [`FromDriver::Up`] and from [`ToDriver::Stop`] to its end, its heart may not beat.
///
/// It ends with 0 when it was told to, and when the core is gone.
pub fn main<D: BlockDriver>() -> ExitCode {
    let sockets =
        take_inherited(CONTROL).and_then(|control| Ok((control, take_inherited(DEVICE)?)));
    let (control, device) = match sockets {
        Ok(sockets) => sockets,
        Err(error) => {
            eprintln!(
                "This is a driver that `uniddrv core` runs; on its own it has no device \
                 (file descriptors {CONTROL} and {DEVICE}: {error})."
            );
            return ExitCode::from(2);
        }
    };
    let recorder = crash::install();
    log::install();
    let mut core = Core::new(control);
    if let Err(error) = recorder {
        core.log(2, format!("a fault of this process will leave no word: {error}"));
    }
    match run::<D>(&mut core, device, inherited_windows, crash::record_into) {
        End::Ordered | End::Orphaned => ExitCode::SUCCESS,
        End::Failed => ExitCode::FAILURE,
    }
}

/// Why a driver process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It was told to, and did what belongs to it.
    Ordered,
    /// The core is gone.
    Orphaned,
    /// The core was told why, as far as it listens.
    Failed,
}

/// A client and its queues, mapped: for each its memory and its wake-up socket.
struct Attached {
    client: message::Client,
    queues: Vec<(SharedWords, OwnedFd)>,
}

impl Attached {
    /// Maps what came with [`ToDriver::Attach`].
    fn map(client: message::Client, fds: Vec<OwnedFd>) -> Result<Self, (u32, String)> {
        let error = |text: String| (client.client, text);
        if fds.len() != 2 * client.queues.len() {
            let text = format!("{} file descriptors for {} queues", fds.len(), client.queues.len());
            return Err(error(text));
        }
        if !client.depth.is_power_of_two() || client.depth > queue::MAX_DEPTH {
            return Err(error(format!("rings of {} entries", client.depth)));
        }
        let bytes = queue::words_for(client.depth) * 8;
        let mut queues = Vec::with_capacity(client.queues.len());
        let mut fds = fds.into_iter();
        while let (Some(memory), Some(wake)) = (fds.next(), fds.next()) {
            let words = SharedWords::map(memory.as_fd(), bytes)
                .map_err(|e| error(format!("cannot map a queue of {bytes} bytes: {e}")))?;
            queues.push((words, wake));
        }
        Ok(Self { client, queues })
    }
}

/// What a process that waits for its turn has.
struct Prepared<S: Steps> {
    ledger: DriverLedger,
    table: Table<S>,
    held: Arc<Held>,
    /// What makes a [`Device`] of it. There is none before this process has its turn: dropping one
    /// stops the device, which is another process's until then.
    arena: Arc<Arena>,
    iova: u64,
    address: Address,
    settings: Settings,
    attached: Vec<Attached>,
}

type Windows = fn(&[BarWindow]) -> std::io::Result<Vec<OwnedFd>>;

/// The files of windows that are not handed over: the sandbox lets only those be mapped as
/// windows that are inherited under certain numbers.
fn inherited_windows(windows: &[BarWindow]) -> std::io::Result<Vec<OwnedFd>> {
    (FIRST_WINDOW..).zip(windows).map(|(number, _)| take_inherited(number)).collect()
}

/// The process from its first message to its end. `recorder` is given the ledger as soon as there
/// is one.
fn run<D: BlockDriver>(
    core: &mut Core,
    device: OwnedFd,
    inherited: Windows,
    recorder: impl FnOnce(&DriverLedger),
) -> End {
    let ended = (|| {
        let mut prepared = prepare::<D::Steps>(core, device, inherited)?;
        recorder(&prepared.ledger);
        core.tell(FromDriver::Ready);
        let beginning = wait_for_turn(core, &mut prepared)?;
        let serving = begin::<D>(core, prepared, beginning)?;
        Err::<std::convert::Infallible, End>(serving.run())
    })();
    match ended {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

/// Maps what comes with the first message.
fn prepare<S: Steps>(
    core: &mut Core,
    device: OwnedFd,
    inherited: Windows,
) -> Result<Prepared<S>, End> {
    let (message, fds) = core.wait()?;
    let ToDriver::Prepare { version, address, arena_iova, arena_len, windows, settings } = message
    else {
        return Err(core.fail(format!("the first message is {message:?}")));
    };
    if version != VERSION {
        let text = format!("version {version} of the core's messages; this driver has {VERSION}");
        return Err(core.fail(text));
    }
    let mapped = map(device, fds, inherited, &address, (arena_iova, arena_len), &windows);
    let (ledger, held, arena, address) = mapped.map_err(|text| core.fail(text))?;
    // Takes 5 ms, so not when it is urgent; nor is there time for a question then.
    clock::ticks_per_second();
    for window in &windows {
        if let Err(error) = held.bar(window.bar) {
            core.log(2, error.to_string());
        }
    }
    if let Err(error) = lock_memory() {
        core.log(2, format!("memory is not locked, and may be swapped out: mlockall: {error}"));
    }
    let table = Table::new(ledger.clone());
    let (iova, attached) = (arena_iova, Vec::new());
    Ok(Prepared { ledger, table, held, arena, iova, address, settings, attached })
}

fn map(
    device: OwnedFd,
    fds: Vec<OwnedFd>,
    inherited: Windows,
    address: &str,
    (iova, len): (u64, u64),
    windows: &[BarWindow],
) -> Result<(DriverLedger, Arc<Held>, Arc<Arena>, Address), String> {
    let address: Address = address.parse().map_err(|e| format!("address {address}: {e}"))?;
    let mut fds = fds.into_iter();
    let (Some(ledger), Some(arena)) = (fds.next(), fds.next()) else {
        return Err("file descriptors of ledger and arena are missing".into());
    };
    let words = SharedWords::map(ledger.as_fd(), ledger::BYTES)
        .map_err(|e| format!("cannot map the ledger: {e}"))?;
    let ledger = DriverLedger::new(words).map_err(|e| e.to_string())?;
    let arena = Arena::received_on_touch(arena).map_err(|e| e.to_string())?;
    if arena.len() as u64 != len || iova.checked_add(len).is_none() {
        return Err(format!("an arena of {} bytes, not {len}, at {iova:#x}", arena.len()));
    }
    let received: Vec<OwnedFd> = fds.collect();
    let held = if received.len() == windows.len() {
        // They are closed here: what is mapped stays so.
        held(device, windows, &received, iova..iova + len)?
    } else if received.is_empty() {
        let files = inherited(windows).map_err(|e| format!("the windows' files: {e}"))?;
        let held = held(device, windows, &files, iova..iova + len)?;
        // They stay open: the sandbox goes by their numbers, which no other file is to get.
        std::mem::forget(files);
        held
    } else {
        return Err(format!("{} files for {} windows", received.len(), windows.len()));
    };
    Ok((ledger, Arc::new(held), Arc::new(arena), address))
}

fn held(
    device: OwnedFd,
    windows: &[BarWindow],
    files: &[OwnedFd],
    arena: std::ops::Range<u64>,
) -> Result<Held, String> {
    let pairs: Vec<(BarWindow, BorrowedFd<'_>)> =
        windows.iter().copied().zip(files.iter().map(OwnedFd::as_fd)).collect();
    Held::new(device, &pairs, arena).map_err(|e| e.to_string())
}

/// Locks what is mapped, and what will be where there is no limit on it that a later mapping could
/// fail at. Pages that are never touched stay away: Linux takes each one down, 200 ns or more,
/// before it tells anybody that a process has ended.
fn lock_memory() -> rustix::io::Result<()> {
    let unlimited = getrlimit(Resource::Memlock).current.is_none();
    let later = if unlimited { MlockAllFlags::FUTURE } else { MlockAllFlags::empty() };
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT | later)
}

/// Waits for the word to begin. Clients that come and go meanwhile are remembered; their queues
/// are another process's until then.
fn wait_for_turn<S: Steps>(core: &mut Core, prepared: &mut Prepared<S>) -> Result<Beginning, End> {
    loop {
        let (message, fds) = core.wait()?;
        match message {
            ToDriver::Begin(beginning) => return Ok(beginning),
            ToDriver::Attach(client) => match Attached::map(client, fds) {
                Ok(attached) => prepared.attached.push(attached),
                Err((client, text)) => core.tell(FromDriver::Hostile { client, text }),
            },
            ToDriver::Detach { client } => {
                prepared.attached.retain(|attached| attached.client.client != client);
                core.tell(FromDriver::Detached { client });
            }
            ToDriver::Wake => {}
            ToDriver::Quiesce => {
                core.tell_last(FromDriver::Quiesced);
                return Err(End::Ordered);
            }
            ToDriver::Stop => return Err(End::Ordered),
            ToDriver::Prepare { .. } => return Err(core.fail("it was prepared already")),
        }
    }
}

/// Takes the device.
fn begin<D: BlockDriver>(
    core: &mut Core,
    prepared: Prepared<D::Steps>,
    beginning: Beginning,
) -> Result<Serving<'_, D>, End> {
    let Prepared { ledger, mut table, held, arena, iova, address, settings, attached } = prepared;
    ledger.adoption_began(clock::monotonic_nanoseconds());
    let phase = match ledger.check().and_then(|()| ledger.phase()) {
        Ok(phase) => phase,
        Err(error) => return Err(unreadable(core, &error)),
    };
    let (suspect, deaths) = ledger.suspect();
    // It was counted; a death before the first request of this process is none of its.
    ledger.set_breadcrumb(None);
    ledger.set_asleep(false);
    ledger.set_asking(false);
    held.tell_in(ledger.clone());
    let mut clients = Vec::with_capacity(attached.len());
    for Attached { client, queues } in attached {
        match table.attach(&client, queues) {
            Ok(()) => clients.push(client.client),
            Err(error) => {
                core.tell(FromDriver::Hostile { client: client.client, text: error.to_string() });
            }
        }
    }
    // A ledger that nobody has begun with says nothing: its rings have to be started over.
    let beginning = match beginning {
        Beginning::Adopt | Beginning::Reset if phase == Phase::Fresh => Beginning::Renew,
        other => other,
    };
    match beginning {
        Beginning::Fresh => {}
        Beginning::Adopt | Beginning::Reset => {
            if let Err(error) = table.take_over(suspect.filter(|_| deaths >= DEATHS)) {
                return Err(unreadable(core, &error));
            }
        }
        Beginning::Renew => table.renew(),
    }
    let space = DmaSpace::of_arena(held.clone(), arena, iova);
    let device = Device::held(held.clone(), space, address);
    let outcome = match beginning {
        Beginning::Fresh => {
            ledger.set_phase(Phase::BringingUp);
            D::attach(device, &ledger, &settings).map(|driver| (driver, false, None))
        }
        Beginning::Adopt if matches!(phase, Phase::Running | Phase::Quiesced) => {
            ledger.set_phase(Phase::Running);
            match D::adopt(device, &ledger, &settings, &mut table) {
                Ok(driver) => Ok((driver, true, None)),
                Err((error, device)) => {
                    let reason = error.to_string();
                    ledger.set_phase(Phase::BringingUp);
                    D::recover(device, &ledger, &settings, &mut table)
                        .map(|driver| (driver, false, Some(reason)))
                }
            }
        }
        Beginning::Adopt | Beginning::Reset | Beginning::Renew => {
            let asked = beginning == Beginning::Adopt;
            let reason =
                asked.then(|| "the predecessor died while it brought the device up".to_owned());
            ledger.set_phase(Phase::BringingUp);
            D::recover(device, &ledger, &settings, &mut table).map(|driver| (driver, false, reason))
        }
    };
    let (driver, adopted, reason) = match outcome {
        Ok(up) => up,
        Err(error) => {
            let text = error.to_string();
            let gone = held.lost().is_some();
            core.tell_last(FromDriver::Failed { gone, text });
            return Err(End::Failed);
        }
    };
    table.set_targets(driver.targets());
    ledger.set_phase(Phase::Running);
    ledger.adoption_ended(clock::monotonic_nanoseconds());
    // After an adoption the core has them.
    let (kind, mut identity) = if adopted { ("", Vec::new()) } else { driver.identity() };
    identity.truncate(MOST_IDENTITY);
    let targets = driver.targets();
    core.tell(FromDriver::Up { adopted, reason, targets, kind: kind.into(), identity });
    for client in clients {
        core.tell(FromDriver::Attached { client });
    }
    Ok(Serving::new(core, ledger, table, driver, settings))
}

fn unreadable(core: &mut Core, error: &ledger::LedgerError) -> End {
    core.tell_last(FromDriver::Unreadable { text: error.to_string() });
    End::Failed
}

#[cfg(test)]
mod tests;
