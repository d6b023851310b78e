//! Firmware slots and images. NVMe Base 2.0 §3.11, §5.12, §5.13.
//!
//! An image for this controller is whatever starts with `UDFW` and a revision of 8 printable
//! characters.

use uniddrv_spec::nvme::admin::firmware::CommitAction;
use uniddrv_spec::nvme::admin::{FirmwareCommit, FirmwareDownload};
use uniddrv_spec::nvme::log::{ActiveFirmware, FirmwareSlots};
use uniddrv_spec::nvme::status::Status;

/// How many slots there are.
pub(super) const SLOTS: u8 = 2;

const MAGIC: &[u8] = b"UDFW";
const MAX_IMAGE: u64 = 1 << 20;

/// The slots, and the image that is being downloaded.
#[derive(Debug)]
pub(super) struct Firmware {
    slots: [Option<[u8; 8]>; SLOTS as usize],
    active: u8,
    next: u8,
    image: Vec<u8>,
}

impl Firmware {
    pub(super) fn new() -> Self {
        Self { slots: [Some(*b"1.0     "), None], active: 1, next: 0, image: Vec::new() }
    }

    /// The revision that runs.
    pub(super) fn revision(&self) -> [u8; 8] {
        self.slot(self.active).unwrap_or(*b"1.0     ")
    }

    /// Takes a part of an image: they have to come in order.
    pub(super) fn download(&mut self, part: FirmwareDownload, data: &[u8]) -> Result<(), Status> {
        if part.offset() == 0 {
            self.image.clear();
        }
        let len = self.image.len() as u64;
        if part.offset() < len {
            return Err(Status::OVERLAPPING_RANGE);
        }
        if part.offset() > len || len + data.len() as u64 > MAX_IMAGE {
            return Err(Status::INVALID_FIELD);
        }
        self.image.extend_from_slice(data);
        Ok(())
    }

    /// Puts the image into a slot, activates a slot, or both.
    pub(super) fn commit(&mut self, commit: FirmwareCommit) -> Result<(), Status> {
        let slot = if commit.slot == 0 { 3 - self.active } else { commit.slot };
        if !(1..=SLOTS).contains(&slot) {
            return Err(Status::INVALID_FIRMWARE_SLOT);
        }
        match commit.action {
            CommitAction::REPLACE | CommitAction::REPLACE_ACTIVATE_AT_RESET => {
                let revision = parse(&self.image).ok_or(Status::INVALID_FIRMWARE_IMAGE)?;
                self.image.clear();
                if let Some(place) = self.slots.get_mut(usize::from(slot) - 1) {
                    *place = Some(revision);
                }
                if commit.action == CommitAction::REPLACE_ACTIVATE_AT_RESET {
                    self.next = slot;
                }
            }
            CommitAction::ACTIVATE_AT_RESET | CommitAction::ACTIVATE_NOW => {
                self.slot(slot).ok_or(Status::INVALID_FIRMWARE_SLOT)?;
                self.next = slot;
                if commit.action == CommitAction::ACTIVATE_NOW {
                    self.reset();
                }
            }
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(())
    }

    /// A controller reset activates what waits for one.
    pub(super) fn reset(&mut self) {
        if self.next != 0 {
            self.active = self.next;
            self.next = 0;
        }
    }

    /// Firmware Slot Information.
    pub(super) fn log(&self) -> FirmwareSlots {
        let mut log = FirmwareSlots::default();
        log.afi = ActiveFirmware::default().with_active(self.active).with_next(self.next);
        for (place, slot) in log.revisions.iter_mut().zip(self.slots) {
            *place = slot.unwrap_or_default();
        }
        log
    }

    fn slot(&self, slot: u8) -> Option<[u8; 8]> {
        *self.slots.get(usize::from(slot).checked_sub(1)?)?
    }
}

fn parse(image: &[u8]) -> Option<[u8; 8]> {
    let revision: [u8; 8] = image.strip_prefix(MAGIC)?.get(..8)?.try_into().ok()?;
    revision.iter().all(|byte| (b' '..=b'~').contains(byte)).then_some(revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(slot: u8, action: CommitAction) -> FirmwareCommit {
        FirmwareCommit { slot, action, boot_partition: false }
    }

    fn download(firmware: &mut Firmware, offset: usize, data: &[u8]) -> Result<(), Status> {
        firmware.download(FirmwareDownload::new(offset, data.len()).unwrap(), data)
    }

    #[test]
    fn an_image_is_downloaded_and_activated() {
        let mut firmware = Firmware::new();
        download(&mut firmware, 0, b"UDFW2.0 ").unwrap();
        assert_eq!(download(&mut firmware, 4, b"    "), Err(Status::OVERLAPPING_RANGE));
        assert_eq!(download(&mut firmware, 12, b"    "), Err(Status::INVALID_FIELD));
        download(&mut firmware, 8, b"    ").unwrap();
        firmware.commit(commit(0, CommitAction::REPLACE_ACTIVATE_AT_RESET)).unwrap();
        assert_eq!(firmware.revision(), *b"1.0     ");
        assert_eq!((firmware.log().afi.active(), firmware.log().afi.next()), (1, 2));
        firmware.reset();
        assert_eq!(firmware.revision(), *b"2.0     ");
        firmware.commit(commit(1, CommitAction::ACTIVATE_NOW)).unwrap();
        assert_eq!(firmware.revision(), *b"1.0     ");
    }

    #[test]
    fn what_is_no_image_or_slot_is_refused() {
        let mut firmware = Firmware::new();
        let invalid = Err(Status::INVALID_FIRMWARE_IMAGE);
        assert_eq!(firmware.commit(commit(2, CommitAction::REPLACE)), invalid);
        download(&mut firmware, 0, b"XXXX2.0     ").unwrap();
        assert_eq!(firmware.commit(commit(2, CommitAction::REPLACE)), invalid);
        let slot = Err(Status::INVALID_FIRMWARE_SLOT);
        assert_eq!(firmware.commit(commit(3, CommitAction::REPLACE)), slot);
        assert_eq!(firmware.commit(commit(2, CommitAction::ACTIVATE_NOW)), slot);
        let boot = commit(1, CommitAction::REPLACE_BOOT_PARTITION);
        assert_eq!(firmware.commit(boot), Err(Status::INVALID_FIELD));
        let big = vec![0; 1 << 19];
        for offset in [0, 1 << 19] {
            download(&mut firmware, offset, &big).unwrap();
        }
        assert_eq!(download(&mut firmware, 1 << 20, b"1234"), Err(Status::INVALID_FIELD));
    }
}
