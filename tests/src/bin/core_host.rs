//! A core for tests, in a process of its own: `core_host run CONFIG` runs it and prints `ready` and
//! the names that there are; `core_host model ...` serves a model for it, and `core_host open
//! SOCKET NAME read|write` is a client that says what comes of opening a name, `core_host hold
//! SOCKET NAME` one that has a request in flight for ever.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::process::{Signal, set_parent_process_death_signal};
use tracing_subscriber::filter::LevelFilter;
use uniddrv::Address;
use uniddrv::block::{BlockQueue, Operation, Request};
use uniddrv::client::{self, OpenOptions, Rights};
use uniddrv_core::config::{Config, Machine};
use uniddrv_core::cpus::Cpus;
use uniddrv_core::sandbox::launch_if_asked;
use uniddrv_core::{Core, Milestone, Options};
use uniddrv_models::NvmeModel;
use uniddrv_models::nvme::Params;
use uniddrv_models::vfio_user::Server;

fn main() -> Result<(), Box<dyn Error>> {
    launch_if_asked();
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["run", config] => run(Path::new(config)),
        ["model", "serve", address, options @ ..] => model(address, options),
        ["hold", socket, name] => hold(socket, name),
        ["open", socket, name, rights] => open(socket, name, rights),
        _ => Err("usage: core_host run CONFIG | open SOCKET NAME read|write".into()),
    }
}

fn run(path: &Path) -> Result<(), Box<dyn Error>> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let level = std::env::var("CORE_LOG").ok().and_then(|level| level.parse().ok());
    tracing_subscriber::fmt()
        .with_max_level(level.unwrap_or(LevelFilter::WARN))
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let machine = Machine::read(Path::new("/"), &Cpus::new(), |_| Ok(()));
    let config = Config::load(path, &machine)?;
    let ready = |milestone: Milestone<'_>| {
        let Milestone::Ready(names) = milestone else { return };
        let names: Vec<_> = names.iter().map(|name| name.name.as_str()).collect();
        println!("ready {}", names.join(" "));
    };
    Ok(Core::new(config, Options::default(), Box::new(ready))?.run()?)
}

fn model(address: &str, options: &[&str]) -> Result<(), Box<dyn Error>> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let Address::Model(model) = address.parse()? else { return Err("no model".into()) };
    let socket = options.iter().skip_while(|&&option| option != "--socket").nth(1);
    let socket = PathBuf::from(socket.ok_or("no socket")?);
    let pairs = model.parameters.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let mut model = NvmeModel::new(Params::from_pairs(pairs)?)?;
    Server::bind(&socket)?.yielding().run(&mut model, &AtomicBool::new(false))?;
    Ok(())
}

fn hold(socket: &str, name: &str) -> Result<(), Box<dyn Error>> {
    let core = client::Core::connect_to(socket)?;
    let client = core.open(name, &OpenOptions::default())?;
    let mut queue = client.take_queue().ok_or("no queue")?;
    // The fake driver keeps this one.
    let operation = Operation::Write { lba: 0xc0de_0006, fua: false };
    let buffer = Some(client.buffer(4096)?);
    let request = Request { operation, buffer, tag: 1 };
    queue.submit(request).map_err(|(error, _)| error)?;
    loop {
        queue.poll(|_| ());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn open(socket: &str, name: &str, rights: &str) -> Result<(), Box<dyn Error>> {
    let core = client::Core::connect_to(socket)?;
    let rights = if rights == "write" { Rights::Write } else { Rights::Read };
    let options = OpenOptions { rights, ..OpenOptions::default() };
    match core.open(name, &options) {
        Ok(_) => println!("opened"),
        Err(error) => println!("{error}"),
    }
    let names: Vec<_> = core.names("")?.into_iter().map(|name| name.name).collect();
    println!("sees {}", names.join(" "));
    let outcome = |result: Result<(), client::CoreError>| match result {
        Ok(()) => "done".to_owned(),
        Err(error) => error.to_string(),
    };
    println!("revoke {}", outcome(core.revoke(name, None)));
    println!("kill {}", outcome(core.kill("nvme:0", client::Harm::Kill)));
    println!("stop {}", outcome(core.stop()));
    Ok(())
}
