//! Devices that are given to the core, and taken from it.

use uniddrv::Address;
use uniddrv::peer::Peer;
use uniddrv_abi::message::Refusal;

use super::{Refused, Reply, no};
use crate::config::{DeviceConfig, DriverChoice, Which};
use crate::event_loop::EventLoop;
use crate::ids::ClientId;

impl EventLoop {
    pub(super) fn add(
        &mut self,
        client: ClientId,
        peer: &Peer,
        address: &str,
        driver: Option<String>,
    ) -> Result<Reply, Refused> {
        self.may_order(peer, "give the core a device")?;
        let address: Address =
            address.parse().map_err(|error| no(Refusal::NotFound, format!("{error}")))?;
        let driver = driver.map(|driver| {
            DriverChoice::parse(&driver).map_err(|problem| no(Refusal::Failed, problem.to_string()))
        });
        let driver = driver.transpose()?;
        let mut config = self.device_config(&address);
        if let Some(driver) = driver {
            config.driver = driver;
        }
        let device = self.take(&address, config).map_err(|text| no(Refusal::Failed, text))?;
        self.with(device, |supervisor, cx| supervisor.await_running(client, cx));
        Ok(Reply::Later)
    }

    /// How the device at `address` is to be driven: by its own entry in the configuration, by one
    /// that it matches, or as without any.
    pub(crate) fn device_config(&self, address: &Address) -> DeviceConfig {
        let own = self.shared.config.device(address);
        let matching = || {
            let Address::Pci(pci) = address else { return None };
            let function = self.sysfs.function(*pci).ok()?;
            self.shared.config.devices.iter().find(|one| match &one.which {
                Which::Match(wanted) => wanted.includes(&crate::event_loop::identity(&function)),
                Which::Address(_) => false,
            })
        };
        match own.or_else(matching) {
            Some(config) => {
                let mut config = config.clone();
                // A name is for one device.
                let taken =
                    config.name.as_ref().is_some_and(|name| self.names.resolve(name).is_some());
                config.name.take_if(|_| taken);
                config
            }
            None => DeviceConfig::unwritten(address.clone()),
        }
    }

    pub(super) fn remove(
        &mut self,
        client: ClientId,
        peer: &Peer,
        address: &str,
    ) -> Result<Reply, Refused> {
        self.may_order(peer, "take a device from the core")?;
        let parsed: Address =
            address.parse().map_err(|error| no(Refusal::NotFound, format!("{error}")))?;
        let supervisor = self.supervisors.values().find(|one| one.address == parsed);
        let device = supervisor.map(|one| one.id).ok_or_else(|| {
            no(Refusal::NotFound, format!("the core does not have the device {address}"))
        })?;
        self.with(device, |one, cx| one.remove(Some(client), "it was taken from the core", cx));
        Ok(Reply::Later)
    }
}
