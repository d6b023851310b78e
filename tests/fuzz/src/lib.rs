//! What the fuzz targets share.

pub mod input;
pub mod nvme;
pub mod wire;

pub use input::Input;
