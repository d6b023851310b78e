//! The NVMe driver as a program for `uniddrv core`.
#![forbid(unsafe_code)]

uniddrv::driver_program!(storage_poll::served::Nvme);
