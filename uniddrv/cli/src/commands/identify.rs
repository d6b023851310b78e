//! `uniddrv identify ADDRESS`.

use std::fmt::Write as _;

use serde::Serialize;
use storage_poll::{Controller, Metadata, Namespace, Options};
use uniddrv_spec::nvme::identify::IdentifyNamespace;

use crate::Context;
use crate::bench::size;
use crate::controller::{attach, resolve};
use crate::error::Failure;
use crate::output::{HEADING, Table};

/// Show an NVMe controller and its namespaces: what they are, hold and can do
#[derive(Debug, clap::Args)]
pub(crate) struct Identify {
    /// The device: 0000:03:00.0 (bound by `uniddrv bind`), vfio-user:/path/to/socket or
    /// model:nvme?size=1G
    address: String,
}

#[derive(Serialize)]
struct Identified {
    address: String,
    transport: String,
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

#[derive(Serialize)]
struct Limits {
    max_transfer: usize,
    io_queues: usize,
    queue_depth: usize,
    max_namespaces: u32,
    ready_timeout_ms: u32,
    min_page_size: usize,
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
        let address = resolve(&context.root, &self.address)?;
        let controller = attach(&context.root, &address, Options::default())?;
        let namespaces = controller
            .namespaces()
            .iter()
            .map(|namespace| {
                let said = controller.identify_namespace(namespace.nsid())?;
                Ok(NamespaceRow::new(namespace, &said))
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        let identified = Identified {
            address: address.to_string(),
            transport: controller.device().transport().to_string(),
            controller: About::new(&controller),
            limits: Limits::new(&controller),
            namespaces,
        };
        context.out.data(&identified, || text(&identified))
    }
}

impl About {
    fn new(controller: &Controller) -> Self {
        let identity = controller.identity();
        let (oacs, oncs) = (identity.oacs(), identity.oncs());
        Self {
            model: identity.model().to_string(),
            serial: identity.serial().to_string(),
            firmware: identity.firmware().to_string(),
            version: controller.version().to_string(),
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
            max_transfer: controller.max_transfer(),
            io_queues: controller.granted_queues(),
            queue_depth: controller.max_depth(),
            max_namespaces: identity.nn.get(),
            ready_timeout_ms: capabilities.timeout_ms(),
            min_page_size: capabilities.min_page_size(),
            sgl: controller.uses_sgl(),
            shadow_doorbells: controller.identity().oacs().doorbell_buffer(),
            error_log_entries: u32::from(identity.elpe) + 1,
            asynchronous_events: u32::from(identity.aerl) + 1,
        }
    }
}

impl NamespaceRow {
    fn new(namespace: &Namespace, said: &IdentifyNamespace) -> Self {
        let info = namespace.info();
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
            nsid: namespace.nsid(),
            size: info.bytes(),
            blocks: info.blocks,
            block_size: info.block_size,
            capacity_blocks: said.ncap.get(),
            used_blocks: said.nuse.get(),
            max_transfer: info.max_transfer,
            metadata: match namespace.metadata() {
                Metadata::None => "none",
                Metadata::Stripped { .. } => "protection information",
                Metadata::Separate(_) => "separate",
                Metadata::Interleaved(_) => "interleaved",
            },
            write_protected: namespace.is_write_protected(),
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
    let Identified { address, transport, controller: about, limits, namespaces } = all;
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    let list = |names: &[&str]| if names.is_empty() { "none".into() } else { names.join(", ") };
    let rows = [
        ("address", format!("{address} ({transport})")),
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
        ("I/O queues", format!("{} of up to {} commands", limits.io_queues, limits.queue_depth)),
        ("SGLs", yes(limits.sgl).into()),
        ("shadow doorbells", yes(limits.shadow_doorbells).into()),
        ("ready within", format!("{} ms", limits.ready_timeout_ms)),
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
