//! `uniddrv list`.

use serde::Serialize;
use uniddrv::sysfs::{PciFunction, Sysfs, Use};

use crate::Context;
use crate::error::Failure;
use crate::output::Table;

/// List the PCI devices: class, driver, IOMMU group, who uses them
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Show bridges too, which cannot be taken
    #[arg(long)]
    all: bool,
}

/// A device in the JSON output.
#[derive(Serialize)]
struct Row {
    address: String,
    vendor: String,
    device: String,
    class: String,
    class_name: &'static str,
    driver: Option<String>,
    driver_override: Option<String>,
    iommu_group: Option<u32>,
    iommu_group_others: Vec<String>,
    numa_node: Option<u32>,
    names: Vec<String>,
    in_use: bool,
    uses: Vec<String>,
    taken: bool,
    persistent: bool,
}

impl From<&PciFunction> for Row {
    fn from(function: &PciFunction) -> Self {
        Self {
            address: function.address.to_string(),
            vendor: format!("{:#06x}", function.vendor),
            device: format!("{:#06x}", function.device),
            class: format!("{:#08x}", function.class.code()),
            class_name: function.class.name(),
            driver: function.driver.clone(),
            driver_override: function.driver_override.clone(),
            iommu_group: function.iommu_group,
            iommu_group_others: texts(&function.group_members),
            numa_node: function.numa_node,
            names: function.names.clone(),
            in_use: function.uses.iter().any(Use::hinders),
            uses: texts(&function.uses),
            taken: function.taken,
            persistent: function.persistent,
        }
    }
}

impl List {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let mut functions = Sysfs::new(&context.root).functions()?;
        functions.retain(|function| self.all || !function.class.is_bridge());
        let rows: Vec<Row> = functions.iter().map(Row::from).collect();
        context.out.data(&rows, || table(&functions))
    }
}

fn table(functions: &[PciFunction]) -> String {
    if functions.is_empty() {
        return "no PCI devices\n".into();
    }
    let headings = ["ADDRESS", "ID", "CLASS", "DRIVER", "GROUP", "NUMA", "NAMES", "USED BY"];
    let mut table = Table::new(&headings);
    for function in functions {
        let mut driver = dash(function.driver.as_deref());
        if function.persistent {
            driver.push_str(" (persistent)");
        }
        table.row([
            function.address.to_string(),
            format!("{:04x}:{:04x}", function.vendor, function.device),
            function.class.to_string(),
            driver,
            dash(function.iommu_group),
            dash(function.numa_node),
            dash(Some(function.names.join(" ")).filter(|names| !names.is_empty())),
            dash(Some(texts(&function.uses).join("; ")).filter(|uses| !uses.is_empty())),
        ]);
    }
    table.render()
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}
