//! The driver processes that are connected to a device: the one that drives, and the one that
//! waits to.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use uniddrv::control::{Control, ControlError};
use uniddrv_abi::message::{FromDevice, ToDevice};

use super::DriverId;
use super::attached::Attached;
use super::trapped::{Refusal, is_harmless};

/// How many can be connected: one that drives, and a successor that waits.
const SEATS: usize = 2;
/// How often a driver process may be refused something before it is disconnected. A driver of
/// ours never is.
const PATIENCE: u32 = 100;

/// The driver processes that are connected.
#[derive(Default)]
pub(super) struct Seats {
    seats: Vec<Seat>,
    active: Option<DriverId>,
}

struct Seat {
    driver: DriverId,
    control: Control,
    refused: u32,
}

/// What came of a driver process's message.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It was answered.
    Answered,
    /// It was refused: no driver asks this.
    Refused(String),
    /// The device failed.
    Failed,
    /// The process is connected no longer; why, if it did not leave by itself.
    Left(Option<String>),
}

impl Seats {
    /// Connects a driver process.
    pub(super) fn add(&mut self, driver: DriverId, socket: OwnedFd) -> Result<(), String> {
        if self.seats.iter().any(|seat| seat.driver == driver) {
            return Err("it is connected already".into());
        }
        if self.seats.len() >= SEATS {
            return Err(format!("{SEATS} driver processes are connected already"));
        }
        self.seats.push(Seat { driver, control: Control::new(socket), refused: 0 });
        Ok(())
    }

    /// Lets `driver` drive, and nobody else.
    pub(super) fn activate(&mut self, driver: DriverId) {
        self.active = Some(driver);
    }

    /// Lets nobody drive.
    pub(super) fn disarm(&mut self) {
        self.active = None;
    }

    /// Disconnects a driver process.
    pub(super) fn remove(&mut self, driver: DriverId) {
        self.seats.retain(|seat| seat.driver != driver);
        if self.active == Some(driver) {
            self.active = None;
        }
    }

    /// Disconnects all. Who they were.
    pub(super) fn remove_all(&mut self) -> Vec<DriverId> {
        self.active = None;
        self.seats.drain(..).map(|seat| seat.driver).collect()
    }

    /// The connected processes and their sockets.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (DriverId, BorrowedFd<'_>)> {
        self.seats.iter().map(|seat| (seat.driver, seat.control.as_fd()))
    }

    /// Answers one message of a driver process, if there is one.
    pub(super) fn serve(&mut self, driver: DriverId, device: Result<&Attached, &str>) -> Outcome {
        let active = self.active == Some(driver);
        let Some(seat) = self.seats.iter_mut().find(|seat| seat.driver == driver) else {
            return Outcome::Answered;
        };
        let outcome = seat.serve(active, device);
        if matches!(outcome, Outcome::Left(_)) {
            self.remove(driver);
        }
        outcome
    }
}

impl Seat {
    fn serve(&mut self, active: bool, device: Result<&Attached, &str>) -> Outcome {
        let message = match self.control.receive::<ToDevice>() {
            Ok(None) => return Outcome::Answered,
            Ok(Some((message, fds))) if fds.is_empty() => Ok(message),
            Ok(Some((_, fds))) => {
                Err(format!("{} file descriptors with a message that has none", fds.len()))
            }
            Err(ControlError::Message(error)) => Err(error.to_string()),
            Err(ControlError::Closed) => return Outcome::Left(None),
            Err(error) => return Outcome::Left(Some(error.to_string())),
        };
        let (answer, outcome) = match message.map_err(Refusal::Nonsense).and_then(|message| {
            if !active && !is_harmless(&message) {
                return Err(Refusal::Nonsense(
                    "this process does not drive the device: it has to wait until the core says \
                     so, or was replaced"
                        .into(),
                ));
            }
            match (device, message) {
                (Ok(device), message) => device.answer(&message),
                (Err(reason), ToDevice::Lost) => Ok(FromDevice::Lost(Some(reason.to_owned()))),
                (Err(reason), _) => Ok(FromDevice::Refused { gone: true, text: reason.to_owned() }),
            }
        }) {
            Ok(answer) => (answer, Outcome::Answered),
            Err(Refusal::Device(error)) => {
                let gone = device.map_or(true, |device| device.device.lost().is_some());
                (FromDevice::Refused { gone, text: error.to_string() }, Outcome::Failed)
            }
            Err(Refusal::Nonsense(text)) => {
                self.refused += 1;
                let answer = FromDevice::Refused { gone: false, text: text.clone() };
                (answer, Outcome::Refused(text))
            }
        };
        if self.refused >= PATIENCE {
            return Outcome::Left(Some(format!("it was refused something {PATIENCE} times")));
        }
        match self.control.send(&answer, &[]) {
            Ok(()) => outcome,
            // What it asked was done or refused all the same.
            Err(ControlError::Closed) => Outcome::Left(None),
            Err(error) => Outcome::Left(Some(error.to_string())),
        }
    }
}
