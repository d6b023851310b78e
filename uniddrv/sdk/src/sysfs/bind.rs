//! From Linux's driver to vfio-pci: all checks first, then a record, then the
//! changes; whatever fails, everything is as it was before.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::machine::{Linux, Machine};
use super::record::Record;
use super::restore::{Change, check_writable};
use super::{Error, PciFunction, Sysfs, Use, VFIO_PCI, persist, tree};
use crate::address::PciAddress;

/// How to bind.
#[derive(Clone, Debug, Default)]
pub struct BindOptions {
    /// Take a device that is in use.
    pub force: bool,
    /// Take it again after each reboot, with this program (an absolute path of
    /// the `uniddrv` command).
    pub persist: Option<PathBuf>,
    /// Let this user (a name of `/etc/passwd` or a number) open the device.
    pub user: Option<String>,
}

/// A device that is bound to vfio-pci now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The device.
    pub address: PciAddress,
    /// The driver that had it.
    pub from: Option<String>,
    /// Its IOMMU group: `/dev/vfio/GROUP`.
    pub group: u32,
    /// It was with vfio-pci before.
    pub already: bool,
}

/// A device that passed the checks.
struct Target {
    function: PciFunction,
    group: u32,
    record: Record,
    already: bool,
}

impl Sysfs {
    /// Gives PCI functions to vfio-pci, all of them or none.
    ///
    /// A device that is there already stays there. `stop` is looked at between
    /// the steps: set it from a signal handler, and everything is put back.
    ///
    /// # Errors
    /// What the checks found; nothing was changed then. Or a step that failed;
    /// the devices are back with their drivers then, unless it is
    /// [`Error::NotRolledBack`].
    pub fn bind(
        &self,
        addresses: &[PciAddress],
        options: &BindOptions,
        stop: &AtomicBool,
    ) -> Result<Vec<Bound>, Error> {
        let mut linux = Linux { modules: self.root == std::path::Path::new("/") };
        self.bind_with(&mut linux, addresses, options, stop)
    }

    /// What [`bind`](Self::bind) would do, as shell commands.
    ///
    /// # Errors
    /// What the checks found.
    pub fn plan_bind(
        &self,
        addresses: &[PciAddress],
        options: &BindOptions,
    ) -> Result<Vec<String>, Error> {
        let mut steps = Vec::new();
        let targets = self.check_all(addresses, options)?;
        if !self.driver_folder(VFIO_PCI).exists() {
            steps.push(format!("modprobe {VFIO_PCI}"));
        }
        for target in &targets {
            let address = target.function.address;
            let device = format!("/sys/bus/pci/devices/{address}");
            if !target.already {
                steps.push(format!("echo {VFIO_PCI} > {device}/driver_override"));
                if target.function.driver.is_some() {
                    steps.push(format!("echo {address} > {device}/driver/unbind"));
                }
                steps.push(format!("echo {address} > /sys/bus/pci/drivers/{VFIO_PCI}/bind"));
            }
            if let Some(program) = &options.persist {
                let rule = persist::rule(&target.function, program, options.user.as_deref())?;
                let rule = rule.lines().last().unwrap_or_default();
                let path = Self::new("/").rule_path(address);
                steps.push(format!("echo '{rule}' > {}", path.display()));
            }
            if let Some(user) = &options.user {
                steps.push(format!("chown {user} /dev/vfio/{}", target.group));
            }
        }
        Ok(steps)
    }

    pub(super) fn bind_with(
        &self,
        machine: &mut dyn Machine,
        addresses: &[PciAddress],
        options: &BindOptions,
        stop: &AtomicBool,
    ) -> Result<Vec<Bound>, Error> {
        // Before the lock, so that the errors need no permissions.
        let targets = self.check_all(addresses, options)?;
        for target in &targets {
            self.check_permissions(target)?;
        }
        let user = options.user.as_deref().map(|user| self.user(user)).transpose()?;
        let _lock = self.lock()?;
        // And again: another bind may have come first.
        let targets = self.check_all(addresses, options)?;
        self.load_vfio_pci(machine)?;
        let mut binding = Binding {
            change: Change { sysfs: self, machine },
            stop,
            taken: Vec::new(),
            rules: Vec::new(),
        };
        match binding.run(&targets, options, user) {
            Ok(()) => Ok(targets.into_iter().map(Bound::from).collect()),
            Err(error) => Err(binding.roll_back(error)),
        }
    }

    fn check_all(
        &self,
        addresses: &[PciAddress],
        options: &BindOptions,
    ) -> Result<Vec<Target>, Error> {
        let mut targets = Vec::new();
        for (number, &address) in addresses.iter().enumerate() {
            if !addresses[..number].contains(&address) {
                targets.push(self.check(address, addresses, options.force)?);
            }
        }
        Ok(targets)
    }

    fn check(
        &self,
        address: PciAddress,
        together: &[PciAddress],
        force: bool,
    ) -> Result<Target, Error> {
        let function = self.function(address)?;
        if function.class.is_bridge() {
            return Err(Error::OtherKind { address, class: function.class });
        }
        let already = function.driver.as_deref() == Some(VFIO_PCI);
        if !already && !force {
            self.check_unused(&function)?;
        }
        let group = function.iommu_group.ok_or(Error::NoIommuGroup { address })?;
        let others = self.obstacles(&function, together);
        if !others.is_empty() {
            return Err(Error::GroupShared { address, group, others });
        }
        let record = self.new_record(&function);
        Ok(Target { function, group, record, already })
    }

    fn check_unused(&self, function: &PciFunction) -> Result<(), Error> {
        let address = function.address;
        let mut uses: Vec<Use> =
            function.uses.iter().filter(|used| used.hinders()).cloned().collect();
        if uses.is_empty() {
            let names = self.names();
            uses = self.claims(names.get(&address).map_or(&[][..], Vec::as_slice));
        }
        if uses.is_empty() { Ok(()) } else { Err(Error::InUse { address, uses }) }
    }

    /// Devices of the group that Linux drives and that are not taken together
    /// with this one: no program could use the group beside them. One that has
    /// a rule is about to be taken: at boot, the rules run one after the other.
    fn obstacles(
        &self,
        function: &PciFunction,
        together: &[PciAddress],
    ) -> Vec<(PciAddress, String)> {
        let mut driven = self.driven_members(function.address);
        driven
            .retain(|(member, _)| !together.contains(member) && !self.rule_path(*member).exists());
        driven
    }

    /// Whether this process may make the changes, found out without making one.
    fn check_permissions(&self, target: &Target) -> Result<(), Error> {
        let folder = self.device_folder(target.function.address);
        check_writable(&folder.join("driver_override"))?;
        if target.function.driver.is_some() {
            check_writable(&folder.join("driver/unbind"))?;
        }
        Ok(())
    }

    fn load_vfio_pci(&self, machine: &mut dyn Machine) -> Result<(), Error> {
        let missing = |reason: String| Error::NoVfioPci { reason };
        let folder = self.driver_folder(VFIO_PCI);
        if !folder.exists() {
            machine.load_module(VFIO_PCI).map_err(|error| missing(error.to_string()))?;
        }
        if folder.exists() {
            Ok(())
        } else {
            Err(missing("the kernel does not list it after modprobe".into()))
        }
    }

    /// The number of a user given by name or number.
    fn user(&self, user: &str) -> Result<u32, Error> {
        if let Ok(number) = user.parse() {
            return Ok(number);
        }
        let passwd = tree::text(&self.path("etc/passwd")).unwrap_or_default();
        let number = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(user)).then(|| fields.nth(1)?.parse().ok()).flatten()
        });
        number.ok_or_else(|| Error::NoSuchUser { name: user.to_owned() })
    }
}

impl From<Target> for Bound {
    fn from(target: Target) -> Self {
        Self {
            address: target.function.address,
            from: target.record.driver,
            group: target.group,
            already: target.already,
        }
    }
}

/// A bind on its way.
struct Binding<'a> {
    change: Change<'a>,
    stop: &'a AtomicBool,
    /// Devices that may have been changed.
    taken: Vec<Record>,
    /// Devices that may have got a rule.
    rules: Vec<PciAddress>,
}

impl Binding<'_> {
    fn run(
        &mut self,
        targets: &[Target],
        options: &BindOptions,
        user: Option<u32>,
    ) -> Result<(), Error> {
        for target in targets.iter().filter(|target| !target.already) {
            self.take(target)?;
        }
        for target in targets {
            let address = target.function.address;
            if let Some(program) = &options.persist {
                self.pause(address)?;
                let rule = persist::rule(&target.function, program, options.user.as_deref())?;
                self.write_rule(address, &rule)?;
            }
            if let Some(user) = user {
                self.pause(address)?;
                let node = self.change.sysfs.path(format!("dev/vfio/{}", target.group));
                self.change
                    .machine
                    .change_owner(&node, user)
                    .map_err(|error| Error::io("change the owner of", &node, error))?;
            }
        }
        Ok(())
    }

    fn take(&mut self, target: &Target) -> Result<(), Error> {
        let address = target.function.address;
        self.pause(address)?;
        self.taken.push(target.record.clone());
        let path = self.change.sysfs.record_path(address);
        self.change
            .machine
            .write_file(&path, &Sysfs::render_record(&target.record))
            .map_err(|error| Error::io("write", &path, error))?;
        self.pause(address)?;
        self.change.set_override(address, Some(VFIO_PCI))?;
        self.pause(address)?;
        self.change.release(address)?;
        self.pause(address)?;
        self.change.attach(address, VFIO_PCI)
    }

    fn write_rule(&mut self, address: PciAddress, rule: &str) -> Result<(), Error> {
        let path = self.change.sysfs.rule_path(address);
        let modules = self.change.sysfs.modules_path();
        if !path.exists() {
            self.rules.push(address);
        }
        for (path, text) in [(&path, rule), (&modules, &persist::modules())] {
            self.change
                .machine
                .write_file(path, text)
                .map_err(|error| Error::io("write", path, error))?;
        }
        Ok(())
    }

    /// Between two steps: whether the user wants to stop.
    fn pause(&self, address: PciAddress) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted { address });
        }
        Ok(())
    }

    /// Puts back all that was changed, the last change first. Every device is
    /// tried, whatever becomes of the others.
    fn roll_back(&mut self, error: Error) -> Error {
        let mut failed = None;
        for address in std::mem::take(&mut self.rules).into_iter().rev() {
            if let Err(error) = self.change.remove_rule(address) {
                failed.get_or_insert((address, error));
            }
        }
        for record in std::mem::take(&mut self.taken).into_iter().rev() {
            let address = record.address;
            let result = self.change.give_back(&record).and_then(|()| self.change.forget(address));
            if let Err(error) = result {
                self.change.last_resort(address, Some(&record));
                failed.get_or_insert((address, error));
            }
        }
        let Some((address, source)) = failed else {
            return error;
        };
        let mut cause = error.to_string();
        if let Some(inner) = std::error::Error::source(&error) {
            cause = format!("{cause}: {inner}");
        }
        Error::NotRolledBack { address, cause, source: Box::new(source) }
    }
}

#[cfg(test)]
#[path = "bind/tests.rs"]
mod tests;
