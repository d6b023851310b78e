//! The `uniddrv` command as its users run it: arguments in; exit status, text
//! and JSON out.

mod core;
mod devices;
mod fake;
mod measure;
mod names;
mod real;
mod support;
mod torture;
mod usage;
