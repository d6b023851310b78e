//! Software devices: what a driver cannot tell from real ones.
//!
//! | module | what it holds |
//! |---|---|
//! | [`model`] | the trait of a software device |
//! | [`host`] | what a model sees of its client: memory through a software IOMMU, interrupts |
//! | [`config_space`] | PCI configuration space with write masks and capabilities |
//! | [`inline`] | a model as a transport of this process |
//! | [`vfio_user`] | a model served to other processes |
//! | [`nvme`] | an NVMe 2.0 controller |
//! | [`e1000e`] | an Intel 82574L |
//! | [`net`] | what network controllers are connected to |
//! | [`edu`] | QEMU's `edu` device |
//! | [`mod@open`] | any device by its address, models included |
//!
//! A model believes nothing that its client says: rings, registers and memory are copied once
//! and checked, an access outside of what the client mapped is an error that the model
//! reports as its standard says, and no client can make it panic, hang or grow without bound.

#![forbid(unsafe_code)]

pub mod config_space;
pub mod e1000e;
pub mod edu;
pub mod host;
pub mod inline;
pub mod model;
pub mod net;
pub mod nvme;
pub mod open;
pub mod vfio_user;

pub use config_space::ConfigSpace;
pub use e1000e::E1000e;
pub use edu::Edu;
pub use host::{ClientMemory, DmaFault, Host, Interrupts};
pub use inline::Inline;
pub use model::{Model, ModelBar, SharedPart};
pub use nvme::NvmeModel;
pub use open::{OpenError, open};
