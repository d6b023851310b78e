//! Set Features and Get Features. NVMe Base 2.0 §5.15 and §5.27.

use uniddrv_spec::nvme::admin::{FeatureId, GetFeatures, SetFeatures};

use crate::controller::Controller;
use crate::error::ControllerError;

impl Controller {
    /// The value of a feature that is one double word; what its bits mean is in
    /// `uniddrv_spec::nvme::admin::features`.
    ///
    /// # Errors
    /// When the controller does not know the feature, or does not answer.
    pub fn feature(&self, id: FeatureId) -> Result<u32, ControllerError> {
        let entry = GetFeatures::new(id).to_entry();
        Ok(self.execute("Get Features", entry, None)?.dw0)
    }

    /// Sets a feature that is one double word, until the next reset.
    ///
    /// # Errors
    /// When the controller does not know the feature, refuses the value, or does not answer.
    pub fn set_feature(&self, id: FeatureId, value: u32) -> Result<(), ControllerError> {
        if id == FeatureId::NUMBER_OF_QUEUES {
            let reason = "the number of queues is chosen when the controller is brought up";
            return Err(self.unsupported(reason.into()));
        }
        let entry = SetFeatures::new(id, value).to_entry();
        self.execute("Set Features", entry, None).map(drop)
    }
}
