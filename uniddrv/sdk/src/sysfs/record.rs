//! What `unbind` needs to know: where a device came from. Written below
//! `/run/uniddrv` before anything is changed, so that a bind that was killed
//! can be mended; gone after a reboot, as is what it describes.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::{PciFunction, Sysfs, VFIO_PCI, tree};
use crate::address::PciAddress;

/// Where a device was before it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) address: PciAddress,
    /// Vendor and device ID: another device may have the address by now.
    pub(super) vendor: u16,
    pub(super) device: u16,
    /// The driver that had it.
    pub(super) driver: Option<String>,
    /// The module that the driver is part of, where it is one.
    pub(super) module: Option<String>,
    /// Its `driver_override`, set by someone else.
    pub(super) driver_override: Option<String>,
}

impl Record {
    fn render(&self) -> String {
        let mut text = format!(
            "# Where {} was before `uniddrv bind`, for `uniddrv unbind`.\n\
             vendor = \"{:#06x}\"\ndevice = \"{:#06x}\"\n",
            self.address, self.vendor, self.device
        );
        let optional = [
            ("driver", &self.driver),
            ("module", &self.module),
            ("driver_override", &self.driver_override),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{key} = \"{value}\"");
            }
        }
        text
    }

    /// `None` where the text is not one of ours: names become parts of paths,
    /// so they are checked.
    fn parse(address: PciAddress, text: &str) -> Option<Self> {
        let (mut vendor, mut device) = (None, None);
        let (mut driver, mut module, mut driver_override) = (None, None, None);
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = line.split_once('=')?;
            let value = value.trim().strip_prefix('"')?.strip_suffix('"')?;
            let number = || u16::from_str_radix(value.strip_prefix("0x")?, 16).ok();
            let name = || tree::is_plain_name(value).then(|| value.to_owned());
            match key.trim() {
                "vendor" => vendor = Some(number()?),
                "device" => device = Some(number()?),
                "driver" => driver = Some(name()?),
                "module" => module = Some(name()?),
                "driver_override" => driver_override = Some(name()?),
                _ => return None,
            }
        }
        Some(Self { address, vendor: vendor?, device: device?, driver, module, driver_override })
    }
}

impl Sysfs {
    /// The file that says where a device came from.
    pub(super) fn record_path(&self, address: PciAddress) -> PathBuf {
        self.path(format!("run/uniddrv/{address}.toml"))
    }

    /// The record of this device, unless it is damaged or of another device.
    pub(super) fn record(&self, function: &PciFunction) -> Option<Record> {
        let text = tree::text(&self.record_path(function.address))?;
        Record::parse(function.address, &text)
            .filter(|record| (record.vendor, record.device) == (function.vendor, function.device))
    }

    /// What to write down before taking `function`.
    ///
    /// An earlier bind may have been killed half way; the device is then with
    /// no driver or with vfio-pci, and the record of that bind holds. Where
    /// Linux has got it back by other means, the record is out of date.
    pub(super) fn new_record(&self, function: &PciFunction) -> Record {
        let driver = function.driver.clone().filter(|driver| driver != VFIO_PCI);
        if driver.is_none()
            && let Some(record) = self.record(function)
        {
            return record;
        }
        let module = driver
            .as_deref()
            .and_then(|driver| tree::link_name(&self.driver_folder(driver).join("module")));
        Record {
            address: function.address,
            vendor: function.vendor,
            device: function.device,
            driver,
            module,
            // Ours, from a udev rule or a bind that was killed, is not
            // somebody else's.
            driver_override: function.driver_override.clone().filter(|name| name != VFIO_PCI),
        }
    }

    /// The text of a record's file.
    pub(super) fn render_record(record: &Record) -> String {
        record.render()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NVME, Tree};
    use super::*;

    fn sample() -> Record {
        Record {
            address: NVME,
            vendor: 0x1b36,
            device: 0x0010,
            driver: Some("nvme".into()),
            module: Some("nvme".into()),
            driver_override: None,
        }
    }

    #[test]
    fn a_record_is_read_back() {
        let without = Record { driver: None, module: None, ..sample() };
        let with = Record { driver_override: Some("mine".into()), ..sample() };
        for record in [sample(), without, with] {
            assert_eq!(Record::parse(NVME, &record.render()), Some(record));
        }
    }

    #[test]
    fn a_damaged_record_is_none() {
        let good = sample().render();
        for bad in [
            String::new(),
            good.replace("nvme\"", "../../etc\""),
            good.replace("nvme\"", "nvme"),
            good.replace("0x1b36", "0x11b36"),
            good.replace("vendor", "wendor"),
            good.replace("vendor = ", "vendor "),
        ] {
            assert_eq!(Record::parse(NVME, &bad), None, "{bad}");
        }
    }

    #[test]
    fn a_record_of_another_device_at_the_address_does_not_count() {
        let tree = Tree::new();
        let function = tree.sysfs().function(NVME).unwrap();
        let path = format!("run/uniddrv/{NVME}.toml");
        tree.write(&path, &sample().render());
        assert_eq!(tree.sysfs().record(&function), Some(sample()));
        tree.write(&path, &Record { device: 0x11, ..sample() }.render());
        assert_eq!(tree.sysfs().record(&function), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".*") {
            for line in ["vendor = ", "driver = \"", ""] {
                if let Some(record) = Record::parse(NVME, &format!("{}{line}{text}", sample().render())) {
                    proptest::prop_assert!(record.driver.is_none_or(|name| tree::is_plain_name(&name)));
                }
            }
        }
    }
}
