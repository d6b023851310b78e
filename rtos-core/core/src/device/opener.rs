//! How a device is opened, and opened again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use uniddrv::transport::TransportError;
use uniddrv::vfio_user::{Client, Timeouts};
use uniddrv::{Address, PciAddress, Transport, vfio};

use super::model::ModelProcess;
use super::{DeviceId, Settings};

/// How long a model may take until it can be reached.
const MODEL_START: Duration = Duration::from_secs(5);
/// How long a model that accepts a connection may take to answer before it is killed.
const MODEL_ANSWER: Duration = Duration::from_secs(2);

/// What opens a device.
pub(super) trait Open: Send {
    /// Tries once, for `limit` at most where that can be limited. Trying again has no point after
    /// [`TransportError::Unsupported`].
    fn open(&mut self, limit: Duration) -> Result<Arc<dyn Transport>, TransportError>;

    /// How long it is tried again for the first time.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    /// What serves the device is of no use any more, although it did not hang up.
    fn give_up(&mut self) {}

    /// Whether it makes sense to open the device again after it was lost.
    fn comes_back(&self) -> bool;
}

/// What opens the devices that have an address.
pub(super) enum Opener {
    Pci(PciAddress),
    VfioUser(PathBuf, Timeouts),
    Model(ModelProcess, Timeouts),
    None(&'static str),
}

impl Opener {
    pub(super) fn new(id: DeviceId, address: &Address, settings: &Settings) -> Self {
        match address {
            Address::Pci(pci) => Self::Pci(*pci),
            Address::VfioUser(path) => Self::VfioUser(path.clone(), settings.timeouts),
            Address::Model(model) => {
                Self::Model(ModelProcess::new(id, model, settings), settings.timeouts)
            }
            Address::VhostUser(_) => {
                Self::None("vhost-user offers virtio queues only, not a PCI device")
            }
        }
    }
}

/// Connects to the server at `path`, each of whose answers meanwhile may take `limit` at most.
fn connect(path: &Path, timeouts: Timeouts, limit: Duration) -> Result<Client, TransportError> {
    let exchange = timeouts.exchange.min(limit);
    let client = Client::connect(path, Timeouts { exchange, ..timeouts })?;
    Ok(client.with_timeouts(timeouts))
}

impl Open for Opener {
    fn open(&mut self, limit: Duration) -> Result<Arc<dyn Transport>, TransportError> {
        match self {
            Self::Pci(address) => vfio::open(*address),
            Self::VfioUser(path, timeouts) => Ok(Arc::new(connect(path, *timeouts, limit)?)),
            Self::Model(process, timeouts) => {
                process.run()?;
                match connect(process.socket(), *timeouts, limit.min(MODEL_ANSWER)) {
                    Ok(client) => {
                        process.is_served();
                        Ok(Arc::new(client))
                    }
                    Err(error) => Err(process.explain(error)),
                }
            }
            Self::None(reason) => Err(TransportError::Unsupported((*reason).to_owned())),
        }
    }

    fn patience(&self) -> Duration {
        match self {
            Self::Model(..) => MODEL_START,
            Self::Pci(_) | Self::VfioUser(..) | Self::None(_) => Duration::ZERO,
        }
    }

    fn give_up(&mut self) {
        if let Self::Model(process, _) = self {
            process.kill();
        }
    }

    fn comes_back(&self) -> bool {
        matches!(self, Self::VfioUser(..) | Self::Model(..))
    }
}
