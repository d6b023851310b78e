//! Any device by its address, models included.

use std::sync::Arc;

use uniddrv::address::ModelAddress;
use uniddrv::{Address, Device};

use crate::edu::{self, Edu};
use crate::inline::Inline;
use crate::nvme::{NewError, NvmeModel, ParamError, Params};

/// The kinds of models.
pub const KINDS: &[&str] = &["nvme", "edu"];

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
    /// A parameter of the NVMe model that cannot be.
    #[error("cannot open {address}: {error}")]
    NvmeParameter {
        /// The address.
        address: Address,
        /// What is wrong with it.
        #[source]
        error: ParamError,
    },
    /// What an NVMe model needs cannot be had.
    #[error("cannot open {address}: {error}")]
    Nvme {
        /// The address.
        address: Address,
        /// What is missing.
        #[source]
        error: NewError,
    },
    /// A parameter of the edu model that cannot be.
    #[error("cannot open {address}: {error}")]
    Edu {
        /// The address.
        address: Address,
        /// What is wrong with it.
        #[source]
        error: edu::ParameterError,
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
    match model.kind.as_str() {
        "nvme" => {
            let pairs = model.parameters.iter().map(|(key, value)| (&**key, &**value));
            let params = Params::from_pairs(pairs)
                .map_err(|error| OpenError::NvmeParameter { address: address.clone(), error })?;
            let model = NvmeModel::new(params)
                .map_err(|error| OpenError::Nvme { address: address.clone(), error })?;
            Ok(Device::new(Arc::new(Inline::new(model)), address.clone()))
        }
        "edu" => {
            let model = Edu::with_parameters(&model.parameters)
                .map_err(|error| OpenError::Edu { address: address.clone(), error })?;
            Ok(Device::new(Arc::new(Inline::new(model)), address.clone()))
        }
        kind => Err(OpenError::Kind { address: address.clone(), kind: kind.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_opened_by_its_address() {
        let device = open(&"model:edu?fault=dma".parse().unwrap()).unwrap();
        assert_eq!(device.identity().unwrap().device, uniddrv_spec::edu::DEVICE);
        let device = open(&"model:nvme?size=1M&backing=null".parse().unwrap()).unwrap();
        assert_eq!(device.identity().unwrap().class, 0x01_08_02);
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        for (address, says) in [
            ("model:cpu", "there are: "),
            ("model:nvme?sizes=1G", "no parameter `sizes`"),
            ("model:nvme?size=1X", "`size=1X`"),
            ("model:nvme?fault=x", "there is no `x`"),
            ("model:nvme?size=1", "namespace 1 of 1 bytes"),
            ("model:nvme?backing=file:/nowhere/x", "/nowhere/x"),
            ("model:edu?size=1G", "no parameter `size`"),
            ("model:edu?fault=all", "no fault `all`"),
            ("vhost-user:/nowhere", "virtio"),
        ] {
            let text = open(&address.parse().unwrap()).err().unwrap().to_string();
            assert!(text.contains(address) && text.contains(says), "{text}");
        }
    }
}
