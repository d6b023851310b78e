//! How a device is opened, and opened again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use uniddrv::transport::TransportError;
use uniddrv::vfio_user::{Client, Timeouts};
use uniddrv::{Address, PciAddress, Transport, vfio};

use super::model::ModelProcess;
use super::{DeviceId, Settings};

/// How long a model may take until it can be reached.
const MODEL_START: Duration = Duration::from_secs(5);

/// What opens a device.
pub(super) trait Open: Send {
    /// Tries once, for `limit` at most where that can be limited. Trying again has no point after
    /// [`TransportError::Unsupported`].
    fn open(&mut self, limit: Duration) -> Result<Arc<dyn Transport>, TransportError>;

    /// How long it is tried again for the first time.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

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

/// `timeouts`, none of them longer than `limit`.
fn within(timeouts: Timeouts, limit: Duration) -> Timeouts {
    Timeouts { exchange: timeouts.exchange.min(limit), ..timeouts }
}

impl Open for Opener {
    fn open(&mut self, limit: Duration) -> Result<Arc<dyn Transport>, TransportError> {
        match self {
            Self::Pci(address) => vfio::open(*address),
            Self::VfioUser(path, timeouts) => {
                Ok(Arc::new(Client::connect(path, within(*timeouts, limit))?))
            }
            Self::Model(process, timeouts) => {
                process.run()?;
                match Client::connect(process.socket(), within(*timeouts, limit)) {
                    Ok(client) => Ok(Arc::new(client)),
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

    fn comes_back(&self) -> bool {
        matches!(self, Self::VfioUser(..) | Self::Model(..))
    }
}
