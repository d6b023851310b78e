//! A controller that the core drives, by its name.

use uniddrv::client::Target;
use uniddrv_spec::nvme::identify::{IdentifyController, IdentifyNamespace, LbaFormat, SIZE};
use zerocopy::FromBytes;

use super::{About, Identified, Limits, NamespaceRow};
use crate::error::Failure;
use crate::served;

/// What the core knows of the controller behind a name: of all its namespaces, or of the one
/// that the name stands for.
pub(super) fn identify(given: &str) -> Result<Identified, Failure> {
    let core = served::connect_for(given)?;
    let names = served::names(&core, Some(given))?;
    let (kind, bytes) = core.identify(given)?;
    if kind != "nvme" {
        let text = format!("{given} is no NVMe controller: its driver calls it `{kind}`");
        return Err(Failure::new(text));
    }
    let mut pages = bytes.chunks_exact(SIZE);
    let cut =
        || Failure::new(format!("{given}: the core sent {} bytes of structures", bytes.len()));
    let controller = pages.next().and_then(parse::<IdentifyController>).ok_or_else(cut)?;
    let address = names.first().map(|name| name.address.clone()).unwrap_or_default();
    let all = targets(&core, &address)?;
    let wanted: Vec<u32> = names.iter().filter_map(|name| Some(name.target.as_ref()?.id)).collect();
    let mut namespaces = Vec::new();
    for target in &all {
        // In the same order, but for those that this user may not see.
        let said = pages
            .find_map(|page| parse::<IdentifyNamespace>(page).filter(|said| is_of(said, target)));
        if wanted.contains(&target.id) {
            let said = said.ok_or_else(cut)?;
            namespaces.push(NamespaceRow::new(target.id, &served::info(target), &said));
        }
    }
    let max_transfer = all.iter().map(|target| target.max_transfer).max().unwrap_or(0);
    let sgl = matches!(controller.sgls().support(), 1 | 2);
    let version = match controller.ver().bits() {
        // The field came with NVMe 1.2.
        0 => "before 1.2".to_owned(),
        _ => controller.ver().to_string(),
    };
    Ok(Identified {
        address: given.to_owned(),
        transport: served::transport(address.parse().ok().as_ref()).to_owned(),
        served: true,
        controller: About::new(&controller, version),
        limits: Limits::said(&controller, max_transfer as usize, sgl),
        namespaces,
    })
}

/// All that the device at `address` has, in its driver's order.
fn targets(core: &uniddrv::client::Core, address: &str) -> Result<Vec<Target>, Failure> {
    let names = core.names("")?;
    // Each target also has a name as a disk.
    let own = names.iter().filter(|name| name.address == address && name.name.contains('/'));
    let mut targets: Vec<Target> = own.filter_map(|name| name.target.clone()).collect();
    targets.sort_by_key(|target| target.id);
    targets.dedup_by_key(|target| target.id);
    Ok(targets)
}

/// Whether a structure can be that of a target.
fn is_of(said: &IdentifyNamespace, target: &Target) -> bool {
    let block_size = said.format().and_then(LbaFormat::block_size);
    said.nsze.get() == target.blocks && block_size == Some(target.block_size)
}

fn parse<T: FromBytes>(page: &[u8]) -> Option<T> {
    T::read_from_bytes(page).ok()
}
