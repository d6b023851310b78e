//! `uniddrv identify ADDRESS` and `uniddrv identify NAME`.

mod served;

use std::fmt::Write as _;

use serde::Serialize;
use storage_poll::{Controller, Options};
use uniddrv::block::BlockInfo;
use uniddrv_spec::nvme::identify::{IdentifyController, IdentifyNamespace};

use crate::Context;
use crate::bench::size;
use crate::controller::{attach, resolve};
use crate::error::Failure;
use crate::output::{HEADING, Table};
use crate::served::is_name;

/// Show an NVMe controller and its namespaces: what they are, hold and can do
#[derive(Debug, clap::Args)]
pub(crate) struct Identify {
    /// The device: 0000:03:00.0 (bound by `uniddrv bind`), vfio-user:/path/to/socket,
    /// model:nvme?size=1G, or a name that the core serves, such as nvme:0 or nvme:0/ns1
    address: String,
}

#[derive(Serialize)]
struct Identified {
    /// An address, or a name.
    address: String,
    transport: String,
    /// Whether the core drives it.
    served: bool,
    controller: About,
    limits: Limits,
    namespaces: Vec<NamespaceRow>,
}

#[derive(Serialize)]
struct About {
    model: String,
    serial: String,
    firmware: String,
    version: String,
    pci_vendor: String,
    pci_subsystem_vendor: String,
    controller_id: u16,
    subsystem_name: String,
    total_bytes: u128,
    unallocated_bytes: u128,
    volatile_write_cache: bool,
    admin_commands: Vec<&'static str>,
    io_commands: Vec<&'static str>,
}

/// What is not there is the driver's alone to know.
#[derive(Serialize)]
struct Limits {
    max_transfer: usize,
    io_queues: Option<usize>,
    queue_depth: Option<usize>,
    max_namespaces: u32,
    ready_timeout_ms: Option<u32>,
    min_page_size: Option<usize>,
    sgl: bool,
    shadow_doorbells: bool,
    error_log_entries: u32,
    asynchronous_events: u32,
}

#[derive(Serialize)]
struct NamespaceRow {
    nsid: u32,
    size: u64,
    blocks: u64,
    block_size: u32,
    capacity_blocks: u64,
    used_blocks: u64,
    max_transfer: u32,
    metadata: &'static str,
    write_protected: bool,
    shared: bool,
    nguid: Option<String>,
    eui64: Option<String>,
    format: u8,
    formats: Vec<Format>,
}

#[derive(Serialize)]
struct Format {
    index: usize,
    block_size: u32,
    metadata_size: u16,
    relative_performance: &'static str,
}

impl Identify {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        if is_name(&self.address) {
            let identified = served::identify(&self.address)?;
            return context.out.data(&identified, || text(&identified));
        }
        let address = resolve(&context.root, &self.address)?;
        let controller = attach(&context.root, &address, Options::default())?;
        let namespaces = controller
            .namespaces()
            .iter()
            .map(|namespace| {
                let said = controller.identify_namespace(namespace.nsid())?;
                Ok(NamespaceRow::new(namespace.nsid(), &namespace.info(), &said))
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        let identified = Identified {
            address: address.to_string(),
            transport: controller.device().transport().to_string(),
            served: false,
            controller: About::new(controller.identity(), controller.version().to_string()),
            limits: Limits::new(&controller),
            namespaces,
        };
        context.out.data(&identified, || text(&identified))
    }
}

impl About {
    fn new(identity: &IdentifyController, version: String) -> Self {
        let (oacs, oncs) = (identity.oacs(), identity.oncs());
        Self {
            model: identity.model().to_string(),
            serial: identity.serial().to_string(),
            firmware: identity.firmware().to_string(),
            version,
            pci_vendor: format!("{:#06x}", identity.vid.get()),
            pci_subsystem_vendor: format!("{:#06x}", identity.ssvid.get()),
            controller_id: identity.cntlid.get(),
            subsystem_name: identity.subsystem_name().to_string(),
            total_bytes: identity.tnvmcap.get(),
            unallocated_bytes: identity.unvmcap.get(),
            volatile_write_cache: identity.vwc.present(),
            admin_commands: offered(&[
                (oacs.security(), "security"),
                (oacs.format(), "format"),
                (oacs.firmware(), "firmware"),
                (oacs.namespace_management(), "namespace management"),
                (oacs.self_test(), "self-test"),
                (oacs.directives(), "directives"),
                (oacs.doorbell_buffer(), "doorbell buffer config"),
                (oacs.get_lba_status(), "get LBA status"),
            ]),
            io_commands: offered(&[
                (oncs.compare(), "compare"),
                (oncs.write_uncorrectable(), "write uncorrectable"),
                (oncs.dataset_management(), "dataset management"),
                (oncs.write_zeroes(), "write zeroes"),
                (oncs.reservations(), "reservations"),
                (oncs.verify(), "verify"),
                (oncs.copy(), "copy"),
            ]),
        }
    }
}

fn offered(commands: &[(bool, &'static str)]) -> Vec<&'static str> {
    commands.iter().filter(|(there, _)| *there).map(|(_, name)| *name).collect()
}

impl Limits {
    fn new(controller: &Controller) -> Self {
        let identity = controller.identity();
        let capabilities = controller.capabilities();
        Self {
            io_queues: Some(controller.granted_queues()),
            queue_depth: Some(controller.max_depth()),
            ready_timeout_ms: Some(capabilities.timeout_ms()),
            min_page_size: Some(capabilities.min_page_size()),
            ..Self::said(identity, controller.max_transfer(), controller.uses_sgl())
        }
    }

    /// What the controller says of itself alone.
    fn said(identity: &IdentifyController, max_transfer: usize, sgl: bool) -> Self {
        Self {
            max_transfer,
            io_queues: None,
            queue_depth: None,
            max_namespaces: identity.nn.get(),
            ready_timeout_ms: None,
            min_page_size: None,
            sgl,
            shadow_doorbells: identity.oacs().doorbell_buffer(),
            error_log_entries: u32::from(identity.elpe) + 1,
            asynchronous_events: u32::from(identity.aerl) + 1,
        }
    }
}

impl NamespaceRow {
    fn new(nsid: u32, info: &BlockInfo, said: &IdentifyNamespace) -> Self {
        let formats = said.formats().iter().enumerate().filter_map(|(index, format)| {
            Some(Format {
                index,
                block_size: format.block_size()?,
                metadata_size: format.ms.get(),
                relative_performance: match format.rp.rp() {
                    0 => "best",
                    1 => "better",
                    2 => "good",
                    _ => "degraded",
                },
            })
        });
        Self {
            nsid,
            size: info.bytes(),
            blocks: info.blocks,
            block_size: info.block_size,
            capacity_blocks: said.ncap.get(),
            used_blocks: said.nuse.get(),
            max_transfer: info.max_transfer,
            metadata: match said.format().map_or(0, |format| format.ms.get()) {
                0 => "none",
                8 if said.dps.pit() != 0 => "protection information",
                _ if said.flbas.extended() => "interleaved",
                _ => "separate",
            },
            write_protected: said.is_write_protected(),
            shared: said.nmic & 1 != 0,
            nguid: hexadecimal(&said.nguid),
            eui64: hexadecimal(&said.eui64),
            format: said.flbas.format(),
            formats: formats.collect(),
        }
    }
}

/// An identifier; nothing where it is all zeroes, which means that there is none.
fn hexadecimal(bytes: &[u8]) -> Option<String> {
    let text = bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    bytes.iter().any(|&byte| byte != 0).then_some(text)
}

fn text(all: &Identified) -> String {
    let Identified { address, transport, controller: about, limits, namespaces, .. } = all;
    let served = if all.served { ", driven by the core" } else { "" };
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    let list = |names: &[&str]| if names.is_empty() { "none".into() } else { names.join(", ") };
    let queues = limits
        .io_queues
        .zip(limits.queue_depth)
        .map_or_else(String::new, |(all, depth)| format!("{all} of up to {depth} commands"));
    let ready = limits.ready_timeout_ms.map_or_else(String::new, |ms| format!("{ms} ms"));
    let rows = [
        ("address", format!("{address} ({transport}{served})")),
        ("model", about.model.clone()),
        ("serial", about.serial.clone()),
        ("firmware", about.firmware.clone()),
        ("NVMe version", about.version.clone()),
        ("PCI vendor", format!("{} (subsystem {})", about.pci_vendor, about.pci_subsystem_vendor)),
        ("subsystem", about.subsystem_name.clone()),
        ("volatile write cache", yes(about.volatile_write_cache).into()),
        ("I/O commands", list(&about.io_commands)),
        ("admin commands", list(&about.admin_commands)),
        ("largest transfer", size::show(limits.max_transfer as u64)),
        ("I/O queues", queues),
        ("SGLs", yes(limits.sgl).into()),
        ("shadow doorbells", yes(limits.shadow_doorbells).into()),
        ("ready within", ready),
    ];
    let mut text = String::new();
    // Writing to a string cannot fail.
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(text, "{HEADING}{name:<22}{HEADING:#}{value}");
    }
    let headings = ["NSID", "SIZE", "BLOCKS", "BLOCK", "FORMATS", "METADATA", "PROTECTED"];
    let mut table = Table::new(&headings);
    for namespace in namespaces {
        let formats: Vec<String> = namespace
            .formats
            .iter()
            .map(|format| {
                let used = if format.index == usize::from(namespace.format) { "*" } else { "" };
                match format.metadata_size {
                    0 => format!("{}{used}", format.block_size),
                    metadata => format!("{}+{metadata}{used}", format.block_size),
                }
            })
            .collect();
        table.row([
            namespace.nsid.to_string(),
            size::show(namespace.size),
            namespace.blocks.to_string(),
            namespace.block_size.to_string(),
            formats.join(" "),
            namespace.metadata.into(),
            yes(namespace.write_protected).into(),
        ]);
    }
    let _ = write!(text, "\n{}", table.render());
    text
}
