//! A process that tests talk to, and kill: `peer serve SOCKET PARAMETERS` serves an NVMe model,
//! `peer drive SOCKET` writes to one for ever.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use storage_poll::{Controller, Options};
use uniddrv::{Address, Device};
use uniddrv_models::NvmeModel;
use uniddrv_models::nvme::Params;
use uniddrv_models::vfio_user::Server;
use uniddrv_tests::Loop;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", socket, parameters] => serve(Path::new(socket), parameters),
        ["drive", socket] => drive(Path::new(socket)),
        _ => Err("usage: peer serve SOCKET PARAMETERS | peer drive SOCKET".into()),
    }
}

fn serve(socket: &Path, parameters: &str) -> Result<(), Box<dyn Error>> {
    let pairs = parameters.split(',').filter_map(|pair| pair.split_once('='));
    let mut model = NvmeModel::new(Params::from_pairs(pairs)?)?;
    Server::bind(socket)?.run(&mut model, &AtomicBool::new(false))?;
    Ok(())
}

fn drive(socket: &Path) -> Result<(), Box<dyn Error>> {
    let device = Device::open(&Address::VfioUser(socket.to_owned()))?;
    let controller = Controller::attach_with(device, Options::default())?;
    let mut work = Loop::new(&controller, 32)?;
    work.run(1);
    println!("driving");
    loop {
        work.run(1_000);
    }
}
