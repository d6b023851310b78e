//! The controller's registers and doorbells. NVMe Base 2.0 §3.1.3.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use uniddrv_spec::nvme::registers::{
    Acq, Aqa, Asq, Cap, Cc, Crto, Csts, DOORBELLS, Intmc, Intms, Nssr, Vs, completion_doorbell,
    submission_doorbell,
};

use super::params::Params;
use crate::host::{MapError, Pinned};

/// Registers stand in the first page of BAR 0, doorbells in the pages after it.
pub(super) const DOORBELL_START: u64 = DOORBELLS as u64;

/// The smallest page of memory, CAP.MPSMIN, in bytes.
pub(super) const MIN_PAGE: usize = 4096;

/// The version of the standard: 2.0.
pub(super) const VERSION: Vs = Vs::from_bits(0x0002_0000);

/// What a write to a register asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    None,
    /// CC was written; the value that it had.
    Configured(Cc),
    /// Reset the NVM subsystem.
    SubsystemReset,
    /// Interrupts were unmasked.
    Unmasked,
}

/// The registers.
#[derive(Debug)]
pub(super) struct Registers {
    cap: Cap,
    crto: Crto,
    /// Interrupt Mask.
    pub(super) masked: u32,
    /// Controller Configuration.
    pub(super) cc: Cc,
    /// Controller Status.
    pub(super) csts: Csts,
    /// Admin Queue Attributes.
    pub(super) aqa: Aqa,
    /// Admin Submission Queue Base Address.
    pub(super) asq: Asq,
    /// Admin Completion Queue Base Address.
    pub(super) acq: Acq,
}

impl Registers {
    pub(super) fn new(params: &Params) -> Self {
        let timeout = params.ready_timeout.div_ceil(500);
        let cap = Cap::default()
            .with_mqes((params.entries - 1) as u16)
            .with_cqr(true)
            .with_to(timeout as u8)
            .with_nssrs(true)
            .with_css_nvm(true)
            .with_css_iocs(true)
            .with_mpsmax(4)
            .with_crwms(true);
        Self {
            cap,
            crto: Crto::default().with_crwmt(timeout as u16),
            masked: 0,
            cc: Cc::default(),
            csts: Csts::default(),
            aqa: Aqa::default(),
            asq: Asq::default(),
            acq: Acq::default(),
        }
    }

    /// Controller Capabilities.
    pub(super) fn cap(&self) -> Cap {
        self.cap
    }

    /// Reads `data.len()` bytes at `offset`, any number anywhere.
    pub(super) fn read(&self, offset: usize, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            let place = offset + index;
            *byte = self.dword(place & !3).to_le_bytes()[place & 3];
        }
    }

    fn dword(&self, offset: usize) -> u32 {
        let low = |value: u64| value as u32;
        let high = |value: u64| (value >> 32) as u32;
        match offset {
            Cap::OFFSET => low(self.cap.bits()),
            0x04 => high(self.cap.bits()),
            Vs::OFFSET => VERSION.bits(),
            Intms::OFFSET | Intmc::OFFSET => self.masked,
            Cc::OFFSET => self.cc.bits(),
            Csts::OFFSET => self.csts.bits(),
            Aqa::OFFSET => self.aqa.bits(),
            Asq::OFFSET => low(self.asq.bits()),
            0x2c => high(self.asq.bits()),
            Acq::OFFSET => low(self.acq.bits()),
            0x34 => high(self.acq.bits()),
            Crto::OFFSET => self.crto.bits(),
            _ => 0,
        }
    }

    /// Writes the dword at `offset`, a multiple of 4.
    pub(super) fn write(&mut self, offset: usize, value: u32) -> Action {
        const ADDRESS: u64 = !0xfff;
        let low = |old: u64| (old & !0xffff_ffff | u64::from(value)) & ADDRESS;
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            Intms::OFFSET => self.masked |= value,
            Intmc::OFFSET => {
                self.masked &= !value;
                return Action::Unmasked;
            }
            Cc::OFFSET => {
                let old = self.cc;
                self.cc = Cc::from_bits(value);
                return Action::Configured(old);
            }
            // NSSRO alone can be written: a one clears it.
            Csts::OFFSET if Csts::from_bits(value).nssro() => {
                self.csts = self.csts.with_nssro(false);
            }
            Nssr::OFFSET if value == Nssr::RESET.bits() => return Action::SubsystemReset,
            Aqa::OFFSET => self.aqa = Aqa::from_bits(value & 0x0fff_0fff),
            Asq::OFFSET => self.asq = Asq::from_bits(low(self.asq.bits())),
            0x2c => self.asq = Asq::from_bits(high(self.asq.bits())),
            Acq::OFFSET => self.acq = Acq::from_bits(low(self.acq.bits())),
            0x34 => self.acq = Acq::from_bits(high(self.acq.bits())),
            _ => {}
        }
        Action::None
    }

    /// Whether `vector` may be signalled by a pin or MSI.
    pub(super) fn unmasked(&self, vector: u16) -> bool {
        self.masked.checked_shr(u32::from(vector)).is_none_or(|mask| mask & 1 == 0)
    }
}

/// The doorbells, in memory that the client may map.
#[derive(Debug)]
pub(super) struct Doorbells {
    fd: OwnedFd,
    memory: Pinned,
    bar: u64,
    end: u64,
}

impl Doorbells {
    /// Doorbells of the admin queue and `queues` I/O queue pairs.
    pub(super) fn new(queues: u16) -> Result<Self, MapError> {
        let used = completion_doorbell(queues, 0) as u64 + 4;
        let end = used.next_multiple_of(4096);
        let bar = end.next_power_of_two().max(16 << 10);
        let io = |error: rustix::io::Errno| MapError::Io { len: end, error: error.into() };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = memfd_create("uniddrv-doorbells", flags).map_err(io)?;
        ftruncate(&fd, end).map_err(io)?;
        // The client gets this fd: it must not take the doorbells away from anybody.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&fd, seals).map_err(io)?;
        let memory = Pinned::own(fd.as_fd(), end as usize)?;
        Ok(Self { fd, memory, bar, end })
    }

    /// Bytes of the BAR that they stand in.
    pub(super) fn bar(&self) -> u64 {
        self.bar
    }

    /// Where the last page of them ends in the BAR.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The file that they lie in, laid out as the BAR.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The tail of a submission queue as the client says.
    #[inline]
    pub(super) fn tail(&self, sqid: u16) -> u32 {
        self.load(submission_doorbell(sqid, 0))
    }

    /// The head of a completion queue as the client says.
    #[inline]
    pub(super) fn head(&self, cqid: u16) -> u32 {
        self.load(completion_doorbell(cqid, 0))
    }

    /// As after a reset, for both queues `qid`.
    pub(super) fn clear(&self, qid: u16) {
        self.clear_tail(qid);
        self.clear_head(qid);
    }

    /// As for a new submission queue.
    pub(super) fn clear_tail(&self, sqid: u16) {
        self.store(submission_doorbell(sqid, 0), 0);
    }

    /// As for a new completion queue.
    pub(super) fn clear_head(&self, cqid: u16) {
        self.store(completion_doorbell(cqid, 0), 0);
    }

    /// A trapped write.
    pub(super) fn write(&self, offset: u64, value: u32) {
        if offset >= DOORBELL_START {
            self.store(offset as usize, value);
        }
    }

    /// A trapped read: what was written last.
    pub(super) fn read(&self, offset: u64) -> u32 {
        if offset < DOORBELL_START { 0 } else { self.load(offset as usize) }
    }

    #[inline]
    fn load(&self, offset: usize) -> u32 {
        u32::from_le(self.memory.load(offset).unwrap_or(0))
    }

    fn store(&self, offset: usize, value: u32) {
        // Outside of the pages there is no doorbell, and nothing to store.
        let _ = self.memory.store(offset, value.to_le());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read32(registers: &Registers, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        registers.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn capabilities_follow_from_the_parameters() {
        let params = Params { entries: 256, ready_timeout: 1200, ..Params::default() };
        let registers = Registers::new(&params);
        let mut bytes = [0; 8];
        registers.read(0, &mut bytes);
        let cap = Cap::from_bits(u64::from_le_bytes(bytes));
        assert_eq!((cap.max_queue_entries(), cap.timeout_ms()), (256, 1500));
        assert!(cap.css_nvm() && cap.cqr() && cap.nssrs());
        assert_eq!((cap.min_page_size(), cap.max_page_size()), (4096, 65_536));
        assert_eq!(read32(&registers, 8), 0x0002_0000);
        assert_eq!(read32(&registers, 0xffc), 0);
    }

    #[test]
    fn read_only_registers_stay() {
        let mut registers = Registers::new(&Params::default());
        let before: Vec<_> = (0..0x1000).step_by(4).map(|o| read32(&registers, o)).collect();
        for offset in (0..0x1000).step_by(4) {
            if !matches!(offset, 0x0c | 0x10 | 0x14 | 0x20 | 0x24..0x38) {
                assert_eq!(registers.write(offset, u32::MAX), Action::None);
            }
        }
        let after: Vec<_> = (0..0x1000).step_by(4).map(|o| read32(&registers, o)).collect();
        assert_eq!(before, after);
    }

    #[test]
    fn written_registers_keep_their_writable_bits() {
        let mut registers = Registers::new(&Params::default());
        for (offset, expected) in [
            (0x24, 0x0fff_0fff),
            (0x28, 0xffff_f000),
            (0x2c, u32::MAX),
            (0x30, 0xffff_f000),
            (0x34, u32::MAX),
        ] {
            registers.write(offset, u32::MAX);
            assert_eq!(read32(&registers, offset), expected, "{offset:#x}");
        }
        assert_eq!(registers.write(0x20, 0x4e56_4d65), Action::SubsystemReset);
        assert_eq!(registers.write(0x20, 1), Action::None);
        registers.write(0x0c, 0b110);
        assert!(registers.unmasked(0) && !registers.unmasked(1) && registers.unmasked(40));
        assert_eq!(registers.write(0x10, 0b010), Action::Unmasked);
        assert_eq!(read32(&registers, 0x0c), 0b100);
    }

    #[test]
    fn doorbells_stand_where_the_standard_says() {
        let doorbells = Doorbells::new(2).unwrap();
        assert_eq!((doorbells.bar(), doorbells.end()), (16 << 10, 0x2000));
        doorbells.write(0x1000 + 2 * 2 * 4, 7);
        doorbells.write(0x1000 + (2 * 2 + 1) * 4, 9);
        assert_eq!((doorbells.tail(2), doorbells.head(2)), (7, 9));
        doorbells.clear(2);
        assert_eq!((doorbells.tail(2), doorbells.head(2)), (0, 0));
        doorbells.write(0x2000, 1);
        doorbells.write(0, 1);
        assert_eq!(doorbells.read(0x2000), 0);
        assert!(ftruncate(doorbells.fd(), 0).is_err());
        assert!(ftruncate(doorbells.fd(), 1 << 30).is_err());
        let most = Doorbells::new(u16::MAX).unwrap();
        assert_eq!((most.end(), most.bar()), (0x8_1000, 1 << 20));
    }
}
