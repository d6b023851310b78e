//! `uniddrv ls`.

use serde::Serialize;
use uniddrv::client::Name;
use uniddrv_core::config::Accounts;

use crate::Context;
use crate::bench::result::thousands;
use crate::bench::size;
use crate::error::Failure;
use crate::output::{Table, printable};
use crate::served::{self, HolderRow};

/// List the names that the core serves: what is behind each, and who holds it
#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// Only this name and those below it, such as nvme:0, or all that begin so, such as nvme:
    name: Option<String>,
}

/// A name in the JSON output.
#[derive(Serialize)]
struct Row {
    name: String,
    address: String,
    target: Option<TargetRow>,
    holders: Vec<HolderRow>,
}

#[derive(Serialize)]
struct TargetRow {
    id: u32,
    size: u64,
    blocks: u64,
    block_size: u32,
    max_transfer: u32,
    volatile_write_cache: bool,
}

impl Row {
    fn new(name: &Name, accounts: &Accounts) -> Self {
        let target = name.target.as_ref().map(|target| TargetRow {
            id: target.id,
            size: target.blocks.saturating_mul(target.block_size.into()),
            blocks: target.blocks,
            block_size: target.block_size,
            max_transfer: target.max_transfer,
            volatile_write_cache: target.volatile_write_cache,
        });
        let holders = name.holders.iter().map(|holder| HolderRow::new(holder, accounts)).collect();
        Self { name: name.name.clone(), address: name.address.clone(), target, holders }
    }
}

impl Ls {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let core = served::connect()?;
        let names = served::names(&core, self.name.as_deref())?;
        let accounts = served::accounts(&context.root);
        let rows: Vec<Row> = names.iter().map(|name| Row::new(name, &accounts)).collect();
        context.out.data(&rows, || table(&names, &accounts))
    }
}

fn table(names: &[Name], accounts: &Accounts) -> String {
    if names.is_empty() {
        return "the core has no device that this user may see; to give it one: uniddrv bind \
                ADDRESS\n"
            .into();
    }
    let headings = [
        "NAME", "DEVICE", "SIZE", "BLOCK", "CLIENT", "PID", "USER", "PROGRAM", "RIGHTS", "QUEUES",
        "IOS",
    ];
    let mut table = Table::new(&headings);
    for name in names {
        let (size, block) = name.target.as_ref().map_or_else(Default::default, |target| {
            let bytes = target.blocks.saturating_mul(target.block_size.into());
            (size::show(bytes), size::show(target.block_size.into()))
        });
        let mut first = vec![printable(&name.name), printable(&name.address), size, block];
        if name.holders.is_empty() {
            table.row(first.clone());
        }
        for holder in &name.holders {
            let mut cells = std::mem::replace(&mut first, vec![String::new(); 4]);
            cells.extend([
                holder.client.to_string(),
                holder.pid.to_string(),
                served::user(accounts, holder.uid),
                printable(&holder.program),
                served::rights(holder.rights).into(),
                holder.queues.to_string(),
                thousands(holder.ios as f64),
            ]);
            table.row(cells);
        }
    }
    table.render()
}
