//! Any device by its address, models included.

use uniddrv::address::ModelAddress;
use uniddrv::{Address, Device};

/// The kinds of models.
pub const KINDS: &[&str] = &[];

/// A device that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its transport says no.
    #[error(transparent)]
    Device(#[from] uniddrv::OpenError),
    /// There is no model of this kind.
    #[error("there is no model `{kind}` ({address}); there are: {}", KINDS.join(", "))]
    Kind {
        /// The address.
        address: Address,
        /// The kind that it names.
        kind: String,
    },
}

/// Opens the device at `address`: a model inside this process, or anything that
/// [`Device::open`] opens.
///
/// # Errors
/// When there is no such model, a parameter of it is unknown or malformed, or the device's
/// transport says no.
pub fn open(address: &Address) -> Result<Device, OpenError> {
    let Address::Model(model) = address else { return Ok(Device::open(address)?) };
    open_model(address, model)
}

fn open_model(address: &Address, model: &ModelAddress) -> Result<Device, OpenError> {
    Err(OpenError::Kind { address: address.clone(), kind: model.kind.clone() })
}
