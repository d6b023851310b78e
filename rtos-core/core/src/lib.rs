//! The core of uniddrv: the one privileged process. It owns devices, memory,
//! CPU cores and names, and spawns and supervises the drivers.

#![forbid(unsafe_code)]
