//! What Identify returns. NVMe Base 2.0 §5.17, NVM Command Set 1.0 §4.1.5.

use uniddrv_spec::nvme::BROADCAST;
use uniddrv_spec::nvme::admin::{Cns, Identify};
use uniddrv_spec::nvme::identify::text::{padded, terminated};
use uniddrv_spec::nvme::identify::{
    ControllerList, Ctratt, Dlfeat, EntrySize, Flbas, Fna, Frmw, IdentifyController,
    IdentifyNamespace, LbaFormat, Lpa, NamespaceDescriptor, NamespaceDescriptors, NamespaceIdType,
    NamespaceList, Nsfeat, Oacs, Oncs, SIZE, Sgls, Vwc,
};
use uniddrv_spec::nvme::status::Status;
use zerocopy::IntoBytes;

use super::namespace::{FORMATS, Namespace};
use super::registers::{MIN_PAGE, VERSION};
use super::{events, features, firmware, io, logs};

/// The controller's identifier.
const CNTLID: u16 = 1;
/// PCI vendor ID: the one that virtual devices without a vendor of their own use.
pub(super) const VENDOR: u16 = 0x1234;

/// What of the controller Identify tells.
pub(super) struct Description<'a> {
    pub(super) serial: &'a str,
    pub(super) revision: [u8; 8],
    pub(super) max_transfer: u32,
    pub(super) entries: u32,
    pub(super) sgl: bool,
    pub(super) shadow_doorbells: bool,
    pub(super) namespaces: &'a [Namespace],
}

impl Description<'_> {
    /// The data structure that `command` asks for.
    pub(super) fn answer(&self, command: &Identify) -> Result<Vec<u8>, Status> {
        // Of the command sets, there is NVM (0).
        let command_set = || match command.csi {
            0 => Ok(()),
            _ => Err(Status::IO_COMMAND_SET_NOT_SUPPORTED),
        };
        let page = match command.cns {
            Cns::NAMESPACE | Cns::ALLOCATED_NAMESPACE => {
                // An inactive namespace is all zeroes.
                match self.existing(command.nsid)? {
                    one if one.attached || command.cns == Cns::ALLOCATED_NAMESPACE => {
                        self.namespace(one).as_bytes().to_vec()
                    }
                    _ => vec![0; SIZE],
                }
            }
            Cns::CONTROLLER => self.controller().as_bytes().to_vec(),
            Cns::ACTIVE_NAMESPACES => self.list(command.nsid, |one| one.attached)?,
            Cns::COMMAND_SET_ACTIVE_NAMESPACES => {
                command_set()?;
                self.list(command.nsid, |one| one.attached)?
            }
            Cns::ALLOCATED_NAMESPACES => self.list(command.nsid, |_| true)?,
            Cns::NAMESPACE_DESCRIPTORS => self.descriptors(self.active(command.nsid)?)?,
            Cns::COMMAND_SET_NAMESPACE => {
                command_set()?;
                self.active(command.nsid)?;
                vec![0; SIZE]
            }
            Cns::COMMAND_SET_CONTROLLER => {
                command_set()?;
                vec![0; SIZE]
            }
            Cns::INDEPENDENT_NAMESPACE => {
                // NSTAT, byte 14: bit 0 says ready. NVMe Base 2.0 Figure 280.
                self.active(command.nsid)?;
                let mut page = vec![0; SIZE];
                if let Some(nstat) = page.get_mut(14) {
                    *nstat = 1;
                }
                page
            }
            Cns::NAMESPACE_CONTROLLERS => {
                let one = self.existing(command.nsid)?;
                controllers(one.attached && command.cntid <= CNTLID)
            }
            Cns::CONTROLLERS => controllers(command.cntid <= CNTLID),
            Cns::COMMAND_SETS => {
                // One combination: NVM alone. NVMe Base 2.0 §5.17.2.21.
                let mut page = vec![0; SIZE];
                if let Some(first) = page.first_mut() {
                    *first = 1;
                }
                page
            }
            _ => return Err(Status::INVALID_FIELD),
        };
        Ok(page)
    }

    fn existing(&self, nsid: u32) -> Result<&Namespace, Status> {
        let index = nsid.wrapping_sub(1) as usize;
        self.namespaces.get(index).ok_or(Status::INVALID_NAMESPACE_OR_FORMAT)
    }

    fn active(&self, nsid: u32) -> Result<&Namespace, Status> {
        let one = self.existing(nsid)?;
        if one.attached { Ok(one) } else { Err(Status::INVALID_FIELD) }
    }

    fn list(&self, after: u32, chosen: impl Fn(&Namespace) -> bool) -> Result<Vec<u8>, Status> {
        if after >= BROADCAST - 1 {
            return Err(Status::INVALID_NAMESPACE_OR_FORMAT);
        }
        let ids: Vec<u32> = self
            .namespaces
            .iter()
            .filter(|one| one.nsid() > after && chosen(one))
            .map(Namespace::nsid)
            .take(1024)
            .collect();
        Ok(NamespaceList::new(&ids).unwrap_or_default().as_bytes().to_vec())
    }

    fn descriptors(&self, one: &Namespace) -> Result<Vec<u8>, Status> {
        let (eui, nguid) = one.identifiers(self.serial);
        let list = [
            NamespaceDescriptor { kind: NamespaceIdType::EUI64, id: &eui },
            NamespaceDescriptor { kind: NamespaceIdType::NGUID, id: &nguid },
            NamespaceDescriptor { kind: NamespaceIdType::CSI, id: &[0] },
        ];
        Ok(NamespaceDescriptors::build(&list).ok_or(Status::INTERNAL_ERROR)?.to_vec())
    }

    fn namespace(&self, one: &Namespace) -> IdentifyNamespace {
        let (eui64, nguid) = one.identifiers(self.serial);
        let clears = one.backing.deallocates();
        let mut identify = IdentifyNamespace::default();
        identify.nsze = one.blocks().into();
        identify.ncap = one.blocks().into();
        identify.nuse = one.blocks().into();
        identify.nsfeat = Nsfeat::default().with_uidreuse(true);
        identify.nlbaf = (FORMATS.len() - 1) as u8;
        identify.flbas = Flbas::default().with_format(one.format());
        identify.dlfeat = Dlfeat::default()
            .with_read_value(u8::from(clears))
            .with_write_zeroes_deallocate(clears);
        identify.nvmcap = u128::from(one.bytes()).into();
        identify.mssrl = (io::COPY_BLOCKS as u16).into();
        identify.mcl = io::COPY_BLOCKS.into();
        identify.msrc = (io::COPY_RANGES - 1) as u8;
        identify.nguid = nguid;
        identify.eui64 = eui64;
        for (place, shift) in identify.lbaf.iter_mut().zip(FORMATS) {
            *place = LbaFormat::new(shift, 0);
        }
        identify
    }

    fn controller(&self) -> IdentifyController {
        let one =
            |required, maximum| EntrySize::default().with_required(required).with_maximum(maximum);
        let oacs = Oacs::default()
            .with_format(true)
            .with_firmware(true)
            .with_doorbell_buffer(self.shadow_doorbells);
        let oncs = Oncs::default()
            .with_compare(true)
            .with_write_uncorrectable(true)
            .with_dataset_management(true)
            .with_write_zeroes(true)
            .with_save_select(true)
            .with_timestamp(true)
            .with_verify(true)
            .with_copy(true);
        let sgls = Sgls::default()
            .with_support(u8::from(self.sgl))
            .with_bit_bucket(self.sgl)
            .with_longer_than_data(self.sgl);
        let bytes: u128 = self.namespaces.iter().map(|one| u128::from(one.bytes())).sum();
        let cached = self.namespaces.iter().any(|one| one.backing.has_cache());
        let mut identify = IdentifyController::default();
        identify.vid = VENDOR.into();
        identify.ssvid = VENDOR.into();
        identify.sn = padded(self.serial);
        identify.mn = padded("uniddrv software NVMe controller");
        identify.fr = self.revision;
        identify.rab = 6;
        identify.mdts = (self.max_transfer as usize / MIN_PAGE).trailing_zeros() as u8;
        identify.cntlid = CNTLID.into();
        identify.ver = VERSION.bits().into();
        identify.rtd3e = 1_000_000.into();
        identify.rtd3r = 1_000_000.into();
        identify.oaes = events::supported().bits().into();
        identify.ctratt = Ctratt::default().bits().into();
        identify.cntrltype = 1;
        identify.oacs = oacs.bits().into();
        identify.acl = 3;
        identify.aerl = (events::REQUESTS - 1) as u8;
        identify.frmw =
            Frmw::default().with_slots(firmware::SLOTS).with_activate_without_reset(true);
        identify.lpa = Lpa::default()
            .with_commands_effects(true)
            .with_extended_data(true)
            .with_supported_pages(true);
        identify.elpe = (logs::ERRORS - 1) as u8;
        identify.wctemp = features::WARNING.into();
        identify.cctemp = 373.into();
        identify.tnvmcap = bytes.into();
        identify.kas = 1.into();
        identify.sqes = one(6, 6);
        identify.cqes = one(4, 4);
        identify.maxcmd = (self.entries.min(u32::from(u16::MAX)) as u16).into();
        identify.nn = (self.namespaces.len() as u32).into();
        identify.oncs = oncs.bits().into();
        identify.fna = Fna::default().with_crypto_erase(true);
        identify.vwc = Vwc::default().with_present(cached).with_broadcast_flush(3);
        identify.ocfs = 1.into();
        identify.sgls = sgls.bits().into();
        identify.subnqn =
            terminated(&format!("nqn.2014-08.org.nvmexpress:uniddrv:{}", self.serial));
        if let Some(state) = identify.psd.first_mut() {
            state.mp = 100.into();
        }
        identify
    }
}

fn controllers(present: bool) -> Vec<u8> {
    let ids: &[u16] = if present { &[CNTLID] } else { &[] };
    ControllerList::new(ids).unwrap_or_default().as_bytes().to_vec()
}
