//! A core, its driver, and somebody who must not notice anything.

use uniddrv::client::DriverStatus;

use crate::host::{Host, Setup};
use uniddrv_tests::bystander::Bystander;
use uniddrv_tests::wire::Wire;

/// Requests of the bystander's between two looks.
const SOME: u64 = 100;

/// A core and a client of it that behaves.
pub(crate) struct Scene {
    pub(crate) host: Host,
    bystander: Bystander,
    files: usize,
    driver: DriverStatus,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let host = Setup::nvme().run();
        let bystander = Bystander::new(&host.socket(), "nvme:0/ns1");
        bystander.goes_on(SOME);
        let driver = host.driver();
        Self { files: host.files(), host, bystander, driver }
    }

    /// A connection that has said nothing.
    pub(crate) fn wire(&self) -> Wire {
        Wire::new(&self.host.socket())
    }

    /// A connection that has said hello.
    pub(crate) fn greeted(&self) -> Wire {
        Wire::greeted(&self.host.socket())
    }

    /// The bystander goes on meanwhile.
    pub(crate) fn goes_on(&self) {
        self.bystander.goes_on(SOME);
    }

    /// The process of the driver.
    pub(crate) fn driver(&self) -> i32 {
        self.driver.pid
    }

    /// Nothing has come of it all.
    pub(crate) fn unharmed(self) {
        self.goes_on();
        // Once all who have left are gone, there is room for whoever asks how it is.
        self.host.has_files(self.files);
        self.host.same_driver(&self.driver);
        self.bystander.end();
    }
}
