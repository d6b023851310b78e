//! What Identify returns: 4096 bytes each time. NVMe Base 2.0 §5.17, NVM Command
//! Set 1.0 §4.1.5.
//!
//! * [`controller`]: Identify Controller, with [`attributes`] and [`power`] states
//! * [`namespace`]: Identify Namespace, LBA formats
//! * [`list`]: lists of namespaces and controllers, namespace identification descriptors
//! * [`text`]: the fixed-size text fields
//!
//! Fields are public and hold the raw little-endian value; a method of the same name
//! gives the typed view where a field has an inner structure:
//! `identify.oncs().write_zeroes()`, and `identify.oncs = oncs.bits().into()` the
//! other way.

pub mod attributes;
pub mod controller;
pub mod list;
pub mod namespace;
pub mod power;
pub mod text;

pub use attributes::{Ctratt, EntrySize, Fna, Frmw, Lpa, Oacs, Oncs, Sanicap, Sgls, Vwc};
pub use controller::IdentifyController;
pub use list::{
    ControllerList, DescriptorError, NamespaceDescriptor, NamespaceDescriptors, NamespaceIdType,
    NamespaceList,
};
pub use namespace::{Dlfeat, Dps, Flbas, IdentifyNamespace, LbaFormat, Nsfeat};
pub use power::PowerState;
pub use text::Text;

/// Size in bytes of each of these data structures.
pub const SIZE: usize = 4096;
