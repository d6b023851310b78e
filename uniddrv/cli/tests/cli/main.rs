//! The `uniddrv` command as its users run it: arguments in; exit status, text
//! and JSON out.

mod devices;
mod measure;
mod support;
mod usage;
