//! `uniddrv core`: runs the core in the foreground.

use std::path::Path;

use anstyle::AnsiColor;
use tracing::level_filters::LevelFilter;
use uniddrv::Address;
use uniddrv_core::config::LoadError;
use uniddrv_core::notify::Notifier;
use uniddrv_core::{Core, Milestone, Options};

use super::{Loaded, load};
use crate::Context;
use crate::error::Failure;
use crate::output::{self, Table, warn};

/// The environment variable with the least level that is logged.
const LEVEL: &str = "UNIDDRV_LOG";

pub(super) fn run(
    context: &Context,
    given: Option<&Path>,
    devices: &[String],
    verbose: u8,
) -> Result<(), Failure> {
    start_logging(verbose)?;
    let Loaded { path, result, .. } = load(context, given);
    let config = result.map_err(|error| wrong(&error))?;
    for warning in &config.warnings {
        warn(&warning.to_string());
    }
    let devices = devices.iter().map(|text| device(text)).collect::<Result<Vec<_>, _>>()?;
    if config.devices.is_empty() && devices.is_empty() {
        tracing::info!("no devices yet: `uniddrv bind` gives the core one");
    }
    let notifier = Notifier::from_environment()?;
    let socket = config.core.socket.display().to_string();
    let file = path.map_or("the defaults".into(), |path| path.display().to_string());
    tracing::info!(socket, configuration = file, "starting");
    let told = move |milestone: Milestone<'_>| {
        let told = match milestone {
            Milestone::Ready(names) => {
                print_names(&socket, names);
                notifier.ready(format!("{} names", names.len()))
            }
            Milestone::Ending => notifier.stopping(),
        };
        if let Err(error) = told {
            tracing::warn!("{error}");
        }
    };
    let options = Options { root: context.root.clone(), devices, ..Options::default() };
    let core = Core::new(config, options, Box::new(told))?;
    for shortfall in core.shortfalls() {
        warn(&shortfall.to_string());
    }
    Ok(core.run()?)
}

/// What is wrong with a configuration, as `uniddrv core check` tells it.
fn wrong(error: &LoadError) -> Failure {
    let LoadError::Wrong(errors) = error else { return Failure::new(error.to_string()) };
    for error in errors {
        anstream::eprintln!("{error}");
    }
    Failure::new("the configuration is wrong").with_help("`uniddrv core check` shows all of it")
}

/// A device that was named on the command line.
fn device(text: &str) -> Result<Address, Failure> {
    match text.parse().map_err(Failure::usage)? {
        // Relative to where the user is, not to where others are who name it later.
        Address::VfioUser(path) => Ok(Address::VfioUser(std::path::absolute(path)?)),
        address => Ok(address),
    }
}

fn start_logging(verbose: u8) -> Result<(), Failure> {
    let level = match (verbose, std::env::var(LEVEL)) {
        (0, Ok(text)) => text.parse().map_err(|_| {
            Failure::new(format!("{LEVEL}={text} is no level"))
                .with_help("levels are error, warn, info, debug and trace")
        })?,
        (0, Err(_)) => LevelFilter::INFO,
        (1, _) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let colours = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

fn print_names(socket: &str, names: &[uniddrv_core::Name]) {
    let mut table = Table::new(&["NAME", "DEVICE", "SIZE"]);
    for name in names {
        let size = name.target.as_ref().map(|target| {
            let bytes = target.blocks.saturating_mul(target.block_size.into());
            uniddrv_core::config::ByteSize::new(bytes).to_string()
        });
        table.row([name.name.clone(), name.address.clone(), size.unwrap_or_default()]);
    }
    let green = anstyle::Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
    let text = format!("{green}ready{green:#} on {socket}\n{}", table.render());
    if let Err(failure) = output::text(&text) {
        // Whoever started the core does not read on: no reason to end.
        tracing::debug!(?failure, "the names could not be printed");
    }
}
