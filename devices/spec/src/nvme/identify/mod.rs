//! What Identify returns: 4096 bytes each time. NVMe Base 2.0 §5.17, NVM Command
//! Set 1.0 §4.1.5.
//!
//! * [`controller`]: Identify Controller, power states
//! * [`namespace`]: Identify Namespace, LBA formats
//! * [`list`]: lists of namespaces and controllers, namespace identification descriptors
//! * [`text`]: the fixed-size text fields
//!
//! Fields are public and hold the raw little-endian value; a method of the same name
//! gives the typed view where a field has an inner structure:
//! `identify.oncs().write_zeroes()`, and `identify.oncs = oncs.bits().into()` the
//! other way.

pub mod controller;
pub mod list;
pub mod namespace;
pub mod text;

pub use controller::{IdentifyController, PowerState};
pub use list::{
    ControllerList, DescriptorError, NamespaceDescriptor, NamespaceDescriptors, NamespaceIdType,
    NamespaceList,
};
pub use namespace::{IdentifyNamespace, LbaFormat};
pub use text::Text;

/// Size in bytes of each of these data structures.
pub const SIZE: usize = 4096;
