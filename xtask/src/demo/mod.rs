//! `cargo xtask demo`: an NVMe controller driven from user space, on any machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::measured::Measurement;
use crate::model::{Cpus, Model};
use crate::run::Stop;
use crate::table::{Table, duration, thousands};
use crate::uniddrv::Uniddrv;

mod served;
mod vm;

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub(crate) struct Options {
    /// In a virtual machine, on Linux's VFIO and QEMU's NVMe controller,
    /// beside Linux's own driver. Installs QEMU and fio where they are missing
    /// and this is run as root.
    #[arg(long)]
    vm: bool,
}

/// What the controller of the first part is made like: two namespaces, with
/// either size of blocks, that keep what is written.
const KEEPS_DATA: &[&str] = &["--namespaces", "512:256M,4096:256M", "--backing", "ram"];
/// One that keeps nothing: what is left is the cost of driver and transport.
const KEEPS_NOTHING: &[&str] = &["--namespaces", "512:64G", "--backing", "null"];

/// Runs the demonstration.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let stop = Stop::watch()?;
    if options.vm { vm::run(&stop) } else { software(&stop) }
}

/// Builds the command and makes the folder for the results.
fn prepare(stop: &Stop) -> Result<(Uniddrv, PathBuf)> {
    heading("Building the command uniddrv and the driver's program, for release");
    let uniddrv = Uniddrv::build(stop)?;
    println!("{}", uniddrv.program.display());
    let folder = uniddrv.target()?.join("demo");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok((uniddrv, folder))
}

fn software(stop: &Stop) -> Result<ExitCode> {
    let (uniddrv, folder) = prepare(stop)?;
    let cpus = Cpus::choose()?;

    heading("Starting a software NVMe controller");
    println!(
        "A process of its own plays the device behind a UNIX socket, by the protocol vfio-user.\n\
         The driver cannot tell it from a real one. No privileges are needed."
    );
    let model = Model::start(&uniddrv, cpus, KEEPS_DATA)?;
    println!("It is process {}, on CPU {}.", model.id(), cpus.model);
    let address = model.address();

    heading("Asking the controller what it is");
    uniddrv.show(&["identify", &address])?;

    heading("Verifying data");
    println!(
        "The driver writes and reads at random for some seconds. Each block carries its address,\n\
         a generation and a checksum, which each read is checked against."
    );
    let cpu = cpus.driver.to_string();
    let workload = |words: &[&str]| {
        let mut line = vec!["bench"];
        line.extend_from_slice(words);
        line.extend(["--bs", "4k", "--cpus", &cpu]);
        line.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let verified = ["--rw", "randrw", "--qd", "32", "--time", "4", "--verify", "--overwrite"];
    uniddrv.show(&workload(&[&[address.as_str()], verified.as_slice()].concat()))?;

    heading("Measuring random reads");
    let measure = |address: &str, report: &str| {
        let report = folder.join(report);
        let report = report.to_str().context("the target folder's path is not UTF-8")?;
        let words = ["--rw", "randread", "--qd", "1,32,128", "--time", "3", "--json"];
        let words = [&[address], words.as_slice(), &["--report", report]].concat();
        uniddrv.measure(&workload(&words))
    };
    let ram = measure(&address, "report.html")?;
    drop(model);
    println!(
        "\nThe same on a controller that keeps nothing, to see what driver and transport cost:"
    );
    let model = Model::start(&uniddrv, cpus, KEEPS_NOTHING)?;
    let null = measure(&model.address(), "report-null.html")?;
    drop(model);

    heading("Random reads of 4 KiB, one CPU for the driver, one for the device");
    print!("{}", table(&[("keeps data in memory", &ram), ("keeps nothing", &null)]));
    if cpus.are_shared() {
        println!("\nThis process may use one CPU only, which driver and device share: slow.");
    }

    let kills = served::run(&uniddrv, &folder)?;

    heading("Charts, to open in a browser");
    let page = |file: &Path, what: &str| println!("  {}  {what}", file.display());
    page(&folder.join("report.html"), "the figures of the first device");
    page(&folder.join("report-null.html"), "those of the second");
    page(&kills, "throughput over time, each kill marked, and how long they were felt");
    println!("\nThe same beside Linux's own driver: cargo xtask demo --vm");
    Ok(ExitCode::SUCCESS)
}

fn table(devices: &[(&str, &[Measurement])]) -> String {
    let headings = ["device", "queue depth", "IOPS", "MiB/s", "median", "99 %", "99.9 %"];
    let mut table = Table::new(1, &headings);
    for (device, measurements) in devices {
        for one in *measurements {
            table.row([
                (*device).to_owned(),
                one.qd.to_string(),
                thousands(one.iops),
                thousands(one.mib_s),
                duration(one.lat_ns.p50),
                duration(one.lat_ns.p99),
                duration(one.lat_ns.p999),
            ]);
        }
    }
    table.text()
}

fn heading(text: &str) {
    println!("\n== {text}");
}
