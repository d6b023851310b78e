//! `uniddrv smart ADDRESS`.

use std::fmt::Write as _;

use serde::Serialize;
use storage_poll::logs::{ErrorInformation, FirmwareSlots, SmartHealth};
use storage_poll::{Controller, Options};
use uniddrv_spec::nvme::log::celsius;

use crate::Context;
use crate::bench::size;
use crate::controller::{attach, resolve};
use crate::error::Failure;
use crate::output::{HEADING, Table};

/// Show the health of an NVMe controller, its error log and its firmware
#[derive(Debug, clap::Args)]
pub(crate) struct Smart {
    /// The device: 0000:03:00.0 (bound by `uniddrv bind`), vfio-user:/path/to/socket or
    /// model:nvme?size=1G
    address: String,

    /// How many of the newest errors to show
    #[arg(long, value_name = "N", default_value_t = 16)]
    errors: usize,
}

#[derive(Serialize)]
struct Logs {
    address: String,
    transport: String,
    model: String,
    serial: String,
    health: Health,
    errors: Vec<ErrorRow>,
    firmware: Firmware,
}

#[derive(Serialize)]
struct Health {
    warnings: Vec<&'static str>,
    temperature_celsius: Option<i32>,
    sensors_celsius: Vec<i32>,
    available_spare_percent: u8,
    available_spare_threshold_percent: u8,
    percentage_used: u8,
    bytes_read: u128,
    bytes_written: u128,
    read_commands: u128,
    write_commands: u128,
    busy_minutes: u128,
    power_cycles: u128,
    power_on_hours: u128,
    unsafe_shutdowns: u128,
    media_errors: u128,
    error_log_entries: u128,
    warning_temperature_minutes: u32,
    critical_temperature_minutes: u32,
}

#[derive(Serialize)]
struct ErrorRow {
    count: u64,
    queue: u16,
    command: u16,
    namespace: u32,
    lba: u64,
    status: String,
}

#[derive(Serialize)]
struct Firmware {
    active_slot: u8,
    next_slot: Option<u8>,
    slots: Vec<Slot>,
}

#[derive(Serialize)]
struct Slot {
    slot: u8,
    revision: String,
}

impl Smart {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let address = resolve(&context.root, &self.address)?;
        let controller = attach(&context.root, &address, Options::default())?;
        let logs = read(&controller, self.errors)?;
        context.out.data(&logs, || text(&logs))
    }
}

fn read(controller: &Controller, errors: usize) -> Result<Logs, Failure> {
    let health = Health::from(&controller.smart_log()?);
    let errors = if errors == 0 { Vec::new() } else { controller.error_log(errors)? };
    let firmware = Firmware::from(&controller.firmware_log()?);
    Ok(Logs {
        address: controller.device().address().to_string(),
        transport: controller.device().transport().to_string(),
        model: controller.identity().model().to_string(),
        serial: controller.identity().serial().to_string(),
        health,
        errors: errors.iter().map(ErrorRow::from).collect(),
        firmware,
    })
}

impl From<&SmartHealth> for Health {
    fn from(log: &SmartHealth) -> Self {
        let warning = log.critical_warning;
        let warnings = [
            (warning.spare(), "spare capacity is low"),
            (warning.temperature(), "temperature is past a threshold"),
            (warning.reliability(), "reliability is degraded"),
            (warning.read_only(), "the medium is read only"),
            (warning.backup_failed(), "the memory backup has failed"),
            (warning.pmr_unreliable(), "the persistent memory region is unreliable"),
        ];
        Self {
            warnings: warnings.iter().filter(|(set, _)| *set).map(|(_, text)| *text).collect(),
            temperature_celsius: log.celsius(),
            sensors_celsius: log
                .sensors
                .iter()
                .filter_map(|kelvins| celsius(kelvins.get()))
                .collect(),
            available_spare_percent: log.available_spare,
            available_spare_threshold_percent: log.available_spare_threshold,
            percentage_used: log.percentage_used,
            bytes_read: log.bytes_read(),
            bytes_written: log.bytes_written(),
            read_commands: log.host_reads.get(),
            write_commands: log.host_writes.get(),
            busy_minutes: log.busy_minutes.get(),
            power_cycles: log.power_cycles.get(),
            power_on_hours: log.power_on_hours.get(),
            unsafe_shutdowns: log.unsafe_shutdowns.get(),
            media_errors: log.media_errors.get(),
            error_log_entries: log.error_entries.get(),
            warning_temperature_minutes: log.warning_temperature_minutes.get(),
            critical_temperature_minutes: log.critical_temperature_minutes.get(),
        }
    }
}

impl From<&ErrorInformation> for ErrorRow {
    fn from(entry: &ErrorInformation) -> Self {
        Self {
            count: entry.error_count.get(),
            queue: entry.sqid.get(),
            command: entry.cid.get(),
            namespace: entry.nsid.get(),
            lba: entry.lba.get(),
            status: entry.status().to_string(),
        }
    }
}

impl From<&FirmwareSlots> for Firmware {
    fn from(log: &FirmwareSlots) -> Self {
        let slot = |slot| {
            let revision = log.revision(slot)?.to_string();
            (!revision.is_empty()).then_some(Slot { slot, revision })
        };
        Self {
            active_slot: log.afi.active(),
            next_slot: Some(log.afi.next()).filter(|&next| next != 0),
            slots: (1..=7).filter_map(slot).collect(),
        }
    }
}

fn text(logs: &Logs) -> String {
    let Logs { address, transport, model, serial, health, errors, firmware } = logs;
    let bytes = |bytes: u128| size::show(u64::try_from(bytes).unwrap_or(u64::MAX));
    let warnings = match health.warnings.as_slice() {
        [] => "none".to_owned(),
        some => some.join(", "),
    };
    let temperature = match health.temperature_celsius {
        Some(degrees) => format!("{degrees} °C"),
        None => "not told".into(),
    };
    let spare = format!(
        "{} % (threshold {} %)",
        health.available_spare_percent, health.available_spare_threshold_percent
    );
    let io = |size: u128, commands: u128| format!("{} in {commands} commands", bytes(size));
    let rows = [
        ("device", format!("{address} ({transport}): {model}, serial {serial}")),
        ("warnings", warnings),
        ("temperature", temperature),
        ("available spare", spare),
        ("used", format!("{} %", health.percentage_used)),
        ("read", io(health.bytes_read, health.read_commands)),
        ("written", io(health.bytes_written, health.write_commands)),
        ("busy", format!("{} min", health.busy_minutes)),
        ("power cycles", health.power_cycles.to_string()),
        ("power on", format!("{} h", health.power_on_hours)),
        ("unsafe shutdowns", health.unsafe_shutdowns.to_string()),
        ("media errors", health.media_errors.to_string()),
        ("errors logged", health.error_log_entries.to_string()),
    ];
    let mut text = String::new();
    // Writing to a string cannot fail.
    for (name, value) in &rows {
        let _ = writeln!(text, "{HEADING}{name:<18}{HEADING:#}{value}");
    }
    for Slot { slot, revision } in &firmware.slots {
        let active = if *slot == firmware.active_slot { ", active" } else { "" };
        let next = if Some(*slot) == firmware.next_slot { ", after the next reset" } else { "" };
        let name = format!("firmware slot {slot}");
        let _ = writeln!(text, "{HEADING}{name:<18}{HEADING:#}{revision}{active}{next}");
    }
    if !errors.is_empty() {
        let mut table = Table::new(&["ERROR", "QUEUE", "COMMAND", "NAMESPACE", "LBA", "STATUS"]);
        for error in errors {
            let ErrorRow { count, queue, command, namespace, lba, status } = error;
            table.row([
                count.to_string(),
                queue.to_string(),
                command.to_string(),
                namespace.to_string(),
                lba.to_string(),
                status.clone(),
            ]);
        }
        let _ = write!(text, "\n{}", table.render());
    }
    text
}
