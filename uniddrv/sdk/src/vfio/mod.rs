//! Devices through Linux's VFIO.

use std::sync::Arc;

use crate::address::PciAddress;
use crate::transport::{Transport, TransportError};

/// Opens a PCI function that is bound to vfio-pci.
pub fn open(address: PciAddress) -> Result<Arc<dyn Transport>, TransportError> {
    Err(TransportError::Unsupported(format!("{address}: VFIO is not built in")))
}
