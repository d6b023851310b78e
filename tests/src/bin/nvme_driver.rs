//! The NVMe driver as a program for a core: the same as `uniddrv-nvme`, which is another crate's.
#![forbid(unsafe_code)]

uniddrv::driver_program!(storage_poll::served::Nvme);
