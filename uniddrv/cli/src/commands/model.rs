//! `uniddrv model KIND --socket PATH`, and `uniddrv model serve ADDRESS` for the core.

use std::path::PathBuf;

use anyhow::Context as _;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use serde::Serialize;
use uniddrv::Address;
use uniddrv_models::open::KINDS;
use uniddrv_models::vfio_user::Server;
use uniddrv_models::{Edu, NvmeModel, nvme};

use crate::Context;
use crate::bench::cpu;
use crate::error::Failure;
use crate::output::Output;
use crate::signals::stop_flag;

/// Serve a software device to other processes, until Ctrl-C
///
/// Any vfio-user client can drive it: `uniddrv bench vfio-user:PATH`, QEMU, SPDK. One client at
/// a time; the device is reset when a client leaves, and what it holds stays.
#[derive(Debug, clap::Args)]
pub(crate) struct Model {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, clap::Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum Kind {
    Nvme(Nvme),
    Edu(EduOptions),
    Serve(AddressOptions),
}

/// Where and how a model is served.
#[derive(Debug, clap::Args)]
struct Serving {
    /// The socket to listen at
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,

    /// The CPU to run on [default: any]
    #[arg(long, value_name = "N")]
    cpu: Option<u32>,

    /// Offer the CPU to others whenever there is nothing to do: for a model that shares its CPU
    #[arg(long = "yield")]
    yields: bool,

    /// End with this process, which started this one
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<u32>,
}

/// An NVMe controller
#[derive(Debug, clap::Args)]
struct Nvme {
    #[command(flatten)]
    serving: Serving,

    /// How many namespaces, or the block and size of each: 512:1G,4096:4G [default: 1]
    #[arg(long, value_name = "NAMESPACES")]
    namespaces: Option<String>,

    /// Bytes of a block, 512 or 4096, for namespaces given as a number [default: 512]
    #[arg(long, value_name = "BYTES")]
    block: Option<String>,

    /// Bytes of each namespace [default: the size of the backing file, else 1G]
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,

    /// Where the blocks are kept: ram, file:PATH, or null, which forgets them [default: ram]
    #[arg(long, value_name = "BACKING")]
    backing: Option<String>,

    /// Faults to make, such as seed=7,drop=0.01,delay=0.05:2ms; a malformed plan lists the kinds
    #[arg(long, value_name = "PLAN")]
    fault: Option<String>,

    /// The most I/O queue pairs [default: 64]
    #[arg(long, value_name = "N")]
    queues: Option<String>,

    /// The most entries of a queue [default: 4096]
    #[arg(long, value_name = "N")]
    entries: Option<String>,

    /// The most bytes of one transfer [default: 128k]
    #[arg(long, value_name = "SIZE")]
    mdts: Option<String>,

    /// Whether shadow doorbells are offered [default: off]
    #[arg(long, value_name = "on|off")]
    shadow_doorbells: Option<String>,

    /// Whether SGLs are offered [default: on]
    #[arg(long, value_name = "on|off")]
    sgl: Option<String>,

    /// Milliseconds in which the controller promises to get ready, 500 to 127500 [default: 5000]
    #[arg(long, value_name = "MS")]
    ready_timeout: Option<String>,

    /// The serial number, up to 20 characters
    #[arg(long, value_name = "TEXT")]
    serial: Option<String>,
}

/// QEMU's teaching device, `edu`
#[derive(Debug, clap::Args)]
struct EduOptions {
    #[command(flatten)]
    serving: Serving,

    /// A fault to make; a name that is none lists them
    #[arg(long, value_name = "FAULT")]
    fault: Option<String>,
}

/// The model that an address names, such as `model:nvme?size=1G`
#[derive(Debug, clap::Args)]
struct AddressOptions {
    /// The address; its parameters are the options of the model's kind
    address: Address,

    #[command(flatten)]
    serving: Serving,
}

/// What is printed once the model can be reached.
#[derive(Serialize)]
struct Served {
    kind: &'static str,
    address: String,
    process: u32,
}

impl Model {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.kind {
            Kind::Nvme(options) => options.run(&context.out),
            Kind::Edu(options) => options.run(&context.out),
            Kind::Serve(options) => options.run(&context.out),
        }
    }
}

impl Nvme {
    fn run(self, out: &Output) -> Result<(), Failure> {
        let given = [
            ("namespaces", &self.namespaces),
            ("block", &self.block),
            ("size", &self.size),
            ("backing", &self.backing),
            ("fault", &self.fault),
            ("queues", &self.queues),
            ("entries", &self.entries),
            ("mdts", &self.mdts),
            ("shadow-doorbells", &self.shadow_doorbells),
            ("sgl", &self.sgl),
            ("ready-timeout", &self.ready_timeout),
            ("serial", &self.serial),
        ];
        let given = given.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?)));
        let params = nvme::Params::from_pairs(given).map_err(Failure::usage)?;
        let mut model = NvmeModel::new(params)?;
        self.serving.serve("nvme", &mut model, out)
    }
}

impl EduOptions {
    fn run(self, out: &Output) -> Result<(), Failure> {
        let given: Vec<_> =
            self.fault.into_iter().map(|fault| ("fault".to_owned(), fault)).collect();
        let mut model = Edu::with_parameters(&given).map_err(Failure::usage)?;
        self.serving.serve("edu", &mut model, out)
    }
}

impl AddressOptions {
    fn run(self, out: &Output) -> Result<(), Failure> {
        let Address::Model(model) = &self.address else {
            let text = format!("{} is no model; one is model:nvme?size=1G", self.address);
            return Err(Failure::usage(anyhow::anyhow!(text)));
        };
        match model.kind.as_str() {
            "nvme" => {
                let pairs = model.parameters.iter().map(|(key, value)| (&**key, &**value));
                let params = nvme::Params::from_pairs(pairs).map_err(Failure::usage)?;
                self.serving.serve("nvme", &mut NvmeModel::new(params)?, out)
            }
            "edu" => {
                let mut model = Edu::with_parameters(&model.parameters).map_err(Failure::usage)?;
                self.serving.serve("edu", &mut model, out)
            }
            kind => {
                let text = format!("there is no model `{kind}`; there are: {}", KINDS.join(", "));
                Err(Failure::usage(anyhow::anyhow!(text)))
            }
        }
    }
}

impl Serving {
    fn serve(
        &self,
        kind: &'static str,
        model: &mut impl uniddrv_models::Model,
        out: &Output,
    ) -> Result<(), Failure> {
        if let Some(cpu) = self.cpu {
            cpu::pin(cpu).with_context(|| format!("--cpu {cpu}: cannot run there"))?;
        }
        if let Some(parent) = self.parent {
            end_with(parent)?;
        }
        let stop = stop_flag()?;
        let server = Server::bind(&self.socket)?;
        let server = if self.yields { server.yielding() } else { server };
        let address = format!("vfio-user:{}", server.path().display());
        let served = Served { kind, address, process: std::process::id() };
        out.data(&served, || describe(&served))?;
        Ok(server.run(model, &stop)?)
    }
}

/// Has Linux kill this process when `parent`, the one that started it, ends.
fn end_with(parent: u32) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot be made to end with its parent")?;
    // It may have ended before that.
    let now = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if now == Some(parent) {
        return Ok(());
    }
    Err(anyhow::anyhow!("--parent {parent}: that process did not start this one").into())
}

fn describe(served: &Served) -> String {
    let Served { kind, address, .. } = served;
    let hint = match *kind {
        "nvme" => format!("\nfrom another terminal: uniddrv bench {address}"),
        _ => String::new(),
    };
    format!("serving {kind} at {address}, until Ctrl-C{hint}\n")
}
