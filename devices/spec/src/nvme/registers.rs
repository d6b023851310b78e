//! Controller registers, in BAR 0. NVMe Base 2.0 §3.1.3, PCIe Transport 1.0 §3.1.2.
//!
//! Which side writes a register is the standard's: a driver reads all of them and
//! writes INTMS, INTMC, CC, CSTS.NSSRO, NSSR, AQA, ASQ, ACQ, CMBMSC and the
//! doorbells; a model does the rest.

/// Where the doorbells begin, and the size of the registers before them.
/// PCIe Transport 1.0 §3.1.2.
pub const DOORBELLS: usize = 0x1000;

/// Offset of the Submission Queue `queue` Tail Doorbell, whose stride is
/// [`Cap::dstrd`]. PCIe Transport 1.0 §3.1.2.1.
#[inline]
pub const fn submission_doorbell(queue: u16, dstrd: u8) -> usize {
    DOORBELLS + ((2 * queue as usize) << (2 + (dstrd & 0xf)))
}

/// Offset of the Completion Queue `queue` Head Doorbell, whose stride is
/// [`Cap::dstrd`]. PCIe Transport 1.0 §3.1.2.2.
#[inline]
pub const fn completion_doorbell(queue: u16, dstrd: u8) -> usize {
    DOORBELLS + ((2 * queue as usize + 1) << (2 + (dstrd & 0xf)))
}

/// What a doorbell offset means, the other way round: the queue, and whether it is
/// the completion queue's. `None` where no doorbell stands.
pub const fn doorbell_at(offset: usize, dstrd: u8) -> Option<(u16, bool)> {
    let Some(relative) = offset.checked_sub(DOORBELLS) else { return None };
    let shift = 2 + (dstrd & 0xf);
    let index = relative >> shift;
    if index << shift != relative || index > 2 * (u16::MAX as usize) + 1 {
        return None;
    }
    Some(((index / 2) as u16, index % 2 == 1))
}

bits! {
    /// Controller Capabilities (CAP), read only. NVMe Base 2.0 §3.1.3.1.
    pub struct Cap(u64) @ 0x00;
    /// Maximum Queue Entries Supported, 0's based: 0xff means 256 entries.
    mqes / with_mqes = [15:0] u16;
    /// Contiguous Queues Required.
    cqr / with_cqr = [16:16] bool;
    /// Arbitration Mechanism Supported: bit 0 weighted round robin, bit 1 vendor specific.
    ams / with_ams = [18:17] u8;
    /// Timeout: worst-case wait for CSTS.RDY after CC.EN changes, in units of 500 ms.
    to / with_to = [31:24] u8;
    /// Doorbell Stride: doorbells are `4 << dstrd` bytes apart.
    dstrd / with_dstrd = [35:32] u8;
    /// NVM Subsystem Reset Supported.
    nssrs / with_nssrs = [36:36] bool;
    /// Command Sets Supported: NVM Command Set.
    css_nvm / with_css_nvm = [37:37] bool;
    /// Command Sets Supported: one or more I/O command sets, told by Identify.
    css_iocs / with_css_iocs = [43:43] bool;
    /// Command Sets Supported: no I/O command set, admin only.
    css_admin_only / with_css_admin_only = [44:44] bool;
    /// Boot Partition Support.
    bps / with_bps = [45:45] bool;
    /// Controller Power Scope.
    cps / with_cps = [47:46] u8;
    /// Memory Page Size Minimum: `4096 << mpsmin` bytes.
    mpsmin / with_mpsmin = [51:48] u8;
    /// Memory Page Size Maximum: `4096 << mpsmax` bytes.
    mpsmax / with_mpsmax = [55:52] u8;
    /// Persistent Memory Region Supported.
    pmrs / with_pmrs = [56:56] bool;
    /// Controller Memory Buffer Supported.
    cmbs / with_cmbs = [57:57] bool;
    /// NVM Subsystem Shutdown Supported.
    nsss / with_nsss = [58:58] bool;
    /// Controller Ready With Media Support (CRMS.CRWMS).
    crwms / with_crwms = [59:59] bool;
    /// Controller Ready Independent of Media Support (CRMS.CRIMS).
    crims / with_crims = [60:60] bool;
}

impl Cap {
    /// Entries that the largest queue holds, 2 to 65536. A device that says 0 (which
    /// the standard forbids) is taken at its word: 1.
    pub const fn max_queue_entries(self) -> u32 {
        self.mqes() as u32 + 1
    }

    /// CAP.TO in milliseconds. The standard's unit is 500 ms; 0 gives 0.
    pub const fn timeout_ms(self) -> u32 {
        self.to() as u32 * 500
    }

    /// Smallest memory page size in bytes, at least 4096.
    pub const fn min_page_size(self) -> usize {
        4096 << self.mpsmin()
    }

    /// Largest memory page size in bytes, at least 4096.
    pub const fn max_page_size(self) -> usize {
        4096 << self.mpsmax()
    }
}

bits! {
    /// Version (VS), also the VER field of Identify Controller. NVMe Base 2.0 §3.1.3.2.
    pub struct Vs(u32) @ 0x08;
    /// Tertiary version number.
    tertiary / with_tertiary = [7:0] u8;
    /// Minor version number.
    minor / with_minor = [15:8] u8;
    /// Major version number.
    major / with_major = [31:16] u16;
}

impl core::fmt::Display for Vs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())?;
        if self.tertiary() != 0 {
            write!(f, ".{}", self.tertiary())?;
        }
        Ok(())
    }
}

bits! {
    /// Interrupt Mask Set (INTMS): writing a 1 masks that vector. Not for MSI-X.
    /// NVMe Base 2.0 §3.1.3.3.
    pub struct Intms(u32) @ 0x0c;
    /// Interrupt Vector Mask Set, a bit a vector.
    ivms / with_ivms = [31:0] u32;
}

bits! {
    /// Interrupt Mask Clear (INTMC): writing a 1 unmasks that vector. Not for MSI-X.
    /// NVMe Base 2.0 §3.1.3.4.
    pub struct Intmc(u32) @ 0x10;
    /// Interrupt Vector Mask Clear, a bit a vector.
    ivmc / with_ivmc = [31:0] u32;
}

bits! {
    /// Controller Configuration (CC). NVMe Base 2.0 §3.1.3.5.
    pub struct Cc(u32) @ 0x14;
    /// Enable.
    en / with_en = [0:0] bool;
    /// I/O Command Set Selected, one of the `CSS_` constants.
    css / with_css = [6:4] u8;
    /// Memory Page Size: `4096 << mps` bytes.
    mps / with_mps = [10:7] u8;
    /// Arbitration Mechanism Selected: 0 round robin, 1 weighted round robin, 7 vendor.
    ams / with_ams = [13:11] u8;
    /// Shutdown Notification, one of the `SHN_` constants.
    shn / with_shn = [15:14] u8;
    /// I/O Submission Queue Entry Size, as a power of two: 6 for the NVM Command Set.
    iosqes / with_iosqes = [19:16] u8;
    /// I/O Completion Queue Entry Size, as a power of two: 4 for the NVM Command Set.
    iocqes / with_iocqes = [23:20] u8;
    /// Controller Ready Independent of Media Enable.
    crime / with_crime = [24:24] bool;
}

impl Cc {
    /// [`css`](Self::css): NVM Command Set.
    pub const CSS_NVM: u8 = 0;
    /// [`css`](Self::css): all supported I/O command sets.
    pub const CSS_ALL: u8 = 6;
    /// [`css`](Self::css): admin commands only.
    pub const CSS_ADMIN_ONLY: u8 = 7;
    /// [`shn`](Self::shn): no notification.
    pub const SHN_NONE: u8 = 0;
    /// [`shn`](Self::shn): normal shutdown.
    pub const SHN_NORMAL: u8 = 1;
    /// [`shn`](Self::shn): abrupt shutdown.
    pub const SHN_ABRUPT: u8 = 2;

    /// Memory page size in bytes.
    pub const fn page_size(self) -> usize {
        4096 << self.mps()
    }
}

bits! {
    /// Controller Status (CSTS). NVMe Base 2.0 §3.1.3.6.
    pub struct Csts(u32) @ 0x1c;
    /// Ready.
    rdy / with_rdy = [0:0] bool;
    /// Controller Fatal Status.
    cfs / with_cfs = [1:1] bool;
    /// Shutdown Status, one of the `SHST_` constants.
    shst / with_shst = [3:2] u8;
    /// NVM Subsystem Reset Occurred; cleared by writing a 1.
    nssro / with_nssro = [4:4] bool;
    /// Processing Paused.
    pp / with_pp = [5:5] bool;
    /// Shutdown Type: of the whole NVM subsystem, not of this controller.
    st / with_st = [6:6] bool;
}

impl Csts {
    /// [`shst`](Self::shst): normal operation.
    pub const SHST_NORMAL: u8 = 0;
    /// [`shst`](Self::shst): shutdown occurring.
    pub const SHST_OCCURRING: u8 = 1;
    /// [`shst`](Self::shst): shutdown complete.
    pub const SHST_COMPLETE: u8 = 2;

    /// Whether every bit is set, which is what a read returns when the device is gone.
    pub const fn is_gone(self) -> bool {
        self.bits() == u32::MAX
    }
}

bits! {
    /// NVM Subsystem Reset (NSSR). NVMe Base 2.0 §3.1.3.7.
    pub struct Nssr(u32) @ 0x20;
    /// NVM Subsystem Reset Control; [`RESET`](Self::RESET) resets, all else does nothing.
    nssrc / with_nssrc = [31:0] u32;
}

impl Nssr {
    /// The value that resets: "NVMe" in ASCII.
    pub const RESET: Self = Self::from_bits(0x4e56_4d65);
}

bits! {
    /// Admin Queue Attributes (AQA). NVMe Base 2.0 §3.1.3.8.
    pub struct Aqa(u32) @ 0x24;
    /// Admin Submission Queue Size, 0's based.
    asqs / with_asqs = [11:0] u16;
    /// Admin Completion Queue Size, 0's based.
    acqs / with_acqs = [27:16] u16;
}

bits! {
    /// Admin Submission Queue Base Address (ASQ). NVMe Base 2.0 §3.1.3.9.
    pub struct Asq(u64) @ 0x28;
    /// Admin Submission Queue Base: bits 63:12 of the address.
    asqb / with_asqb = [63:12] u64;
}

bits! {
    /// Admin Completion Queue Base Address (ACQ). NVMe Base 2.0 §3.1.3.10.
    pub struct Acq(u64) @ 0x30;
    /// Admin Completion Queue Base: bits 63:12 of the address.
    acqb / with_acqb = [63:12] u64;
}

bits! {
    /// Controller Memory Buffer Location (CMBLOC), read only. NVMe Base 2.0 §3.1.3.11.
    pub struct Cmbloc(u32) @ 0x38;
    /// Base Indicator Register: the BAR that holds the buffer.
    bir / with_bir = [2:0] u8;
    /// CMB Queue Mixed Memory Support.
    cqmms / with_cqmms = [3:3] bool;
    /// CMB Queue Physically Discontiguous Support.
    cqpds / with_cqpds = [4:4] bool;
    /// CMB Data Pointer Mixed Locations Support.
    cdpmls / with_cdpmls = [5:5] bool;
    /// CMB Data Pointer and Command Independent Locations Support.
    cdpcils / with_cdpcils = [6:6] bool;
    /// CMB Data Metadata Mixed Memory Support.
    cdmmms / with_cdmmms = [7:7] bool;
    /// CMB Queue Dword Alignment.
    cqda / with_cqda = [8:8] bool;
    /// Offset in the BAR, in multiples of [`Cmbsz::unit`].
    ofst / with_ofst = [31:12] u32;
}

bits! {
    /// Controller Memory Buffer Size (CMBSZ), read only. NVMe Base 2.0 §3.1.3.12.
    pub struct Cmbsz(u32) @ 0x3c;
    /// Submission Queue Support.
    sqs / with_sqs = [0:0] bool;
    /// Completion Queue Support.
    cqs / with_cqs = [1:1] bool;
    /// PRP and SGL List Support.
    lists / with_lists = [2:2] bool;
    /// Read Data Support.
    rds / with_rds = [3:3] bool;
    /// Write Data Support.
    wds / with_wds = [4:4] bool;
    /// Size Units: 4 KiB times 16 to the power of this.
    szu / with_szu = [11:8] u8;
    /// Size, in [`unit`](Self::unit)s.
    sz / with_sz = [31:12] u32;
}

impl Cmbsz {
    /// Unit of size and offset in bytes; `None` where the standard reserves the value.
    pub const fn unit(self) -> Option<u64> {
        if self.szu() > 6 { None } else { Some(4096 << (4 * self.szu())) }
    }
}

bits! {
    /// Controller Memory Buffer Memory Space Control (CMBMSC). NVMe Base 2.0 §3.1.3.16.
    pub struct Cmbmsc(u64) @ 0x50;
    /// Capabilities Registers Enabled: CMBLOC and CMBSZ can be read.
    cre / with_cre = [0:0] bool;
    /// Controller Memory Space Enable.
    cmse / with_cmse = [1:1] bool;
    /// Controller Base Address: bits 63:12 of it.
    cba / with_cba = [63:12] u64;
}

bits! {
    /// Controller Memory Buffer Status (CMBSTS), read only. NVMe Base 2.0 §3.1.3.17.
    pub struct Cmbsts(u32) @ 0x58;
    /// Controller Base Address Invalid.
    cbai / with_cbai = [0:0] bool;
}

bits! {
    /// Controller Ready Timeouts (CRTO), read only; there since 2.0.
    /// NVMe Base 2.0 §3.1.3.21.
    pub struct Crto(u32) @ 0x68;
    /// Controller Ready With Media Timeout, in units of 500 ms.
    crwmt / with_crwmt = [15:0] u16;
    /// Controller Ready Independent of Media Timeout, in units of 500 ms.
    crimt / with_crimt = [31:16] u16;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_alone() {
        check_fields!(
            Cap, Vs, Intms, Intmc, Cc, Csts, Nssr, Aqa, Asq, Acq, Cmbloc, Cmbsz, Cmbmsc, Cmbsts,
            Crto
        );
    }

    #[test]
    fn cap_fields_are_where_the_standard_puts_them() {
        let zero = Cap::default();
        assert_eq!(zero.with_mqes(u16::MAX).bits(), 0xffff);
        assert_eq!(zero.with_cqr(true).bits(), 0x1_0000);
        assert_eq!(zero.with_ams(u8::MAX).bits(), 0x6_0000);
        assert_eq!(zero.with_to(u8::MAX).bits(), 0xff00_0000);
        assert_eq!(zero.with_dstrd(u8::MAX).bits(), 0xf_0000_0000);
        assert_eq!(zero.with_nssrs(true).bits(), 0x10_0000_0000);
        assert_eq!(zero.with_css_nvm(true).bits(), 0x20_0000_0000);
        assert_eq!(zero.with_css_iocs(true).bits(), 0x800_0000_0000);
        assert_eq!(zero.with_css_admin_only(true).bits(), 0x1000_0000_0000);
        assert_eq!(zero.with_bps(true).bits(), 0x2000_0000_0000);
        assert_eq!(zero.with_cps(u8::MAX).bits(), 0xc000_0000_0000);
        assert_eq!(zero.with_mpsmin(u8::MAX).bits(), 0xf_0000_0000_0000);
        assert_eq!(zero.with_mpsmax(u8::MAX).bits(), 0xf0_0000_0000_0000);
        assert_eq!(zero.with_pmrs(true).bits(), 0x100_0000_0000_0000);
        assert_eq!(zero.with_cmbs(true).bits(), 0x200_0000_0000_0000);
        assert_eq!(zero.with_nsss(true).bits(), 0x400_0000_0000_0000);
        assert_eq!(zero.with_crwms(true).bits(), 0x800_0000_0000_0000);
        assert_eq!(zero.with_crims(true).bits(), 0x1000_0000_0000_0000);
    }

    #[test]
    fn cap_of_a_known_controller() {
        // 2048 entries, contiguous, 20 s, NVM command set, pages of 4 KiB to 64 KiB
        let cap = Cap::from_bits(0x0040_0020_2801_07ff);
        assert_eq!(cap.max_queue_entries(), 2048);
        assert!(cap.cqr() && cap.css_nvm() && !cap.css_admin_only());
        assert_eq!(cap.timeout_ms(), 20_000);
        assert_eq!((cap.min_page_size(), cap.max_page_size()), (4096, 65536));
        assert_eq!(cap.dstrd(), 0);
    }

    #[test]
    fn cc_and_csts_fields_are_where_the_standard_puts_them() {
        let zero = Cc::default();
        assert_eq!(zero.with_en(true).bits(), 1);
        assert_eq!(zero.with_css(u8::MAX).bits(), 0x70);
        assert_eq!(zero.with_mps(u8::MAX).bits(), 0x780);
        assert_eq!(zero.with_ams(u8::MAX).bits(), 0x3800);
        assert_eq!(zero.with_shn(u8::MAX).bits(), 0xc000);
        assert_eq!(zero.with_iosqes(u8::MAX).bits(), 0xf_0000);
        assert_eq!(zero.with_iocqes(u8::MAX).bits(), 0xf0_0000);
        assert_eq!(zero.with_crime(true).bits(), 0x100_0000);
        assert_eq!(zero.with_en(true).with_iosqes(6).with_iocqes(4).bits(), 0x46_0001);
        let zero = Csts::default();
        assert_eq!(zero.with_rdy(true).bits(), 1);
        assert_eq!(zero.with_cfs(true).bits(), 2);
        assert_eq!(zero.with_shst(u8::MAX).bits(), 0xc);
        assert_eq!(zero.with_nssro(true).bits(), 0x10);
        assert_eq!(zero.with_pp(true).bits(), 0x20);
        assert_eq!(zero.with_st(true).bits(), 0x40);
        assert!(Csts::from_bits(u32::MAX).is_gone());
    }

    #[test]
    fn the_rest_is_where_the_standard_puts_it() {
        assert_eq!(Vs::from_bits(0x0002_0001).tertiary(), 1);
        assert_eq!(std::format!("{}", Vs::from_bits(0x0002_0000)), "2.0");
        assert_eq!(std::format!("{}", Vs::from_bits(0x0001_0201)), "1.2.1");
        assert_eq!(Aqa::default().with_asqs(u16::MAX).bits(), 0xfff);
        assert_eq!(Aqa::default().with_acqs(u16::MAX).bits(), 0xfff_0000);
        assert_eq!(Asq::default().with_asqb(0x1234).bits(), 0x123_4000);
        assert_eq!(Acq::default().with_acqb(u64::MAX).bits(), !0xfff);
        assert_eq!(Cmbloc::default().with_ofst(u32::MAX).bits(), 0xffff_f000);
        assert_eq!(Cmbsz::default().with_szu(u8::MAX).bits(), 0xf00);
        assert_eq!(Cmbsz::default().with_szu(2).unit(), Some(1 << 20));
        assert_eq!(Cmbsz::default().with_szu(7).unit(), None);
        assert_eq!(Crto::default().with_crimt(u16::MAX).bits(), 0xffff_0000);
        let offsets = [
            (Cap::OFFSET, 0),
            (Vs::OFFSET, 8),
            (Intms::OFFSET, 0xc),
            (Intmc::OFFSET, 0x10),
            (Cc::OFFSET, 0x14),
            (Csts::OFFSET, 0x1c),
            (Nssr::OFFSET, 0x20),
            (Aqa::OFFSET, 0x24),
            (Asq::OFFSET, 0x28),
            (Acq::OFFSET, 0x30),
            (Cmbloc::OFFSET, 0x38),
            (Cmbsz::OFFSET, 0x3c),
            (Cmbmsc::OFFSET, 0x50),
            (Cmbsts::OFFSET, 0x58),
            (Crto::OFFSET, 0x68),
        ];
        for (is, should) in offsets {
            assert_eq!(is, should);
        }
    }

    #[test]
    fn doorbells_go_both_ways() {
        assert_eq!(submission_doorbell(0, 0), 0x1000);
        assert_eq!(completion_doorbell(0, 0), 0x1004);
        assert_eq!(submission_doorbell(1, 0), 0x1008);
        assert_eq!(completion_doorbell(3, 1), 0x1038);
        for dstrd in 0..16 {
            for queue in [0, 1, 2, 255, u16::MAX] {
                assert_eq!(
                    doorbell_at(submission_doorbell(queue, dstrd), dstrd),
                    Some((queue, false))
                );
                assert_eq!(
                    doorbell_at(completion_doorbell(queue, dstrd), dstrd),
                    Some((queue, true))
                );
            }
        }
        assert_eq!(doorbell_at(0xffc, 0), None);
        assert_eq!(doorbell_at(0x1002, 0), None);
        assert_eq!(doorbell_at(0x1004, 1), None);
        assert_eq!(doorbell_at(usize::MAX & !3, 0), None);
    }
}
