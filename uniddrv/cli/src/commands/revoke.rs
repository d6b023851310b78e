//! `uniddrv revoke NAME`.

use serde::Serialize;

use crate::Context;
use crate::error::Failure;
use crate::served;

/// Take a name from the clients that hold it
///
/// What they have on its way ends with an error, and the device stops reaching their memory
/// before it is given back. They may open the name again as far as the core's configuration lets
/// them.
#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// The name, such as nvme:0/ns1, or nvme:0 for all below it
    name: String,

    /// Only from the client with this number, as `uniddrv ls` shows it
    #[arg(long, value_name = "N")]
    client: Option<u32>,
}

/// The JSON output.
#[derive(Serialize)]
struct Revoked {
    name: String,
    clients: Vec<u32>,
}

impl Revoke {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let core = served::connect()?;
        let mut clients: Vec<u32> = served::names(&core, Some(&self.name))?
            .iter()
            .flat_map(|name| &name.holders)
            .map(|holder| holder.client)
            .filter(|&client| self.client.is_none_or(|wanted| wanted == client))
            .collect();
        clients.sort_unstable();
        clients.dedup();
        core.revoke(&self.name, self.client)?;
        let revoked = Revoked { name: self.name, clients };
        context.out.data(&revoked, || text(&revoked))
    }
}

fn text(Revoked { name, clients }: &Revoked) -> String {
    let list: Vec<String> = clients.iter().map(ToString::to_string).collect();
    match list.as_slice() {
        [] => format!("{name} was held by nobody\n"),
        [one] => format!("{name} was taken from client {one}\n"),
        _ => format!("{name} was taken from the clients {}\n", list.join(", ")),
    }
}
