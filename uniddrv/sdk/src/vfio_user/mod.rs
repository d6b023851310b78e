//! Devices through a vfio-user server.

use std::path::Path;
use std::sync::Arc;

use crate::transport::{Transport, TransportError};

/// Connects to the server behind the socket `path`.
pub fn connect(path: &Path) -> Result<Arc<dyn Transport>, TransportError> {
    Err(TransportError::Unsupported(format!("{}: vfio-user is not built in", path.display())))
}
