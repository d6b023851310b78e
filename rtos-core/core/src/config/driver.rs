//! Which driver a device gets.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::Problem;
use super::name::is_scheme;

/// A driver that is part of this project.
struct BuiltIn {
    name: &'static str,
    /// The class code of its devices.
    class: u32,
    /// The scheme of the names that it serves.
    scheme: &'static str,
}

/// NVMe: mass storage, non-volatile memory, NVM Express I/O controller. PCI Code and ID
/// Assignment 1.x §1.
const DRIVERS: &[BuiltIn] = &[BuiltIn { name: "nvme", class: 0x01_0802, scheme: "nvme" }];

/// The driver of a device, by its name: `nvme` is the program `uniddrv-nvme`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DriverName(String);

impl DriverName {
    /// The driver of this project for a class of devices, `0x010802`.
    pub fn for_class(class: u32) -> Option<Self> {
        let driver = DRIVERS.iter().find(|driver| driver.class == class)?;
        Some(Self(driver.name.to_owned()))
    }

    /// The driver for a kind of model.
    pub(super) fn for_model(kind: &str) -> Option<Self> {
        let driver = DRIVERS.iter().find(|driver| driver.name == kind)?;
        Some(Self(driver.name.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The scheme of the names that it serves: its own name, unless it is known to be another.
    pub fn scheme(&self) -> &str {
        let known = DRIVERS.iter().find(|driver| driver.name == self.0);
        known.map_or(&self.0, |driver| driver.scheme)
    }

    /// Its program in the folder of drivers.
    pub fn program(&self, drivers: &Path) -> PathBuf {
        drivers.join(format!("uniddrv-{}", self.0))
    }
}

impl fmt::Display for DriverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the configuration says on a device's driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverChoice {
    /// The one for the device's class ([`DriverName::for_class`]), known once it is open.
    ByClass,
    /// A driver in the folder of drivers.
    Named(DriverName),
    /// A driver program.
    Program(PathBuf),
}

impl DriverChoice {
    /// A name, or an absolute path.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        if text.starts_with('/') && !text.ends_with('/') && !text.contains('\0') {
            Ok(Self::Program(text.into()))
        } else if is_scheme(text) && text.len() <= 32 {
            Ok(Self::Named(DriverName(text.to_owned())))
        } else {
            Err(Problem::Driver)
        }
    }

    /// Its program, where that is known before the device is open.
    pub fn program(&self, drivers: &Path) -> Option<PathBuf> {
        match self {
            Self::ByClass => None,
            Self::Named(name) => Some(name.program(drivers)),
            Self::Program(path) => Some(path.clone()),
        }
    }
}

impl fmt::Display for DriverChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByClass => f.write_str("by class"),
            Self::Named(name) => name.fmt(f),
            Self::Program(path) => path.display().fmt(f),
        }
    }
}
