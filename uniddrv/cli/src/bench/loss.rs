//! Whether a benchmark may write: what would be lost.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use uniddrv::address::ModelAddress;
use uniddrv::block::{BlockQueue, Operation, Request};
use uniddrv::{Address, DmaBuf};

use super::result::Target;
use super::signature;
use super::size;

/// How long the look at the first blocks may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A benchmark would destroy data, and nobody said that it may.
#[derive(Debug, thiserror::Error)]
#[error("{what} would destroy what is on {device}{content}")]
pub(crate) struct Refusal {
    what: String,
    device: String,
    content: String,
}

impl Refusal {
    /// `what` would write to `target`, which seems to hold `content`.
    pub(crate) fn new(what: String, target: &Target, content: Option<&str>) -> Self {
        let Target { address, model, serial, namespace, size, .. } = target;
        let size = size::show(*size);
        let device = format!("{address}: {model}, serial {serial}, namespace {namespace}, {size}");
        let content = content.map_or_else(String::new, |content| format!("; it holds {content}"));
        Self { what, device, content }
    }
}

/// Whether all that a device holds goes with this process: a model in it that keeps its
/// blocks in memory or nowhere.
pub(crate) fn is_expendable(address: &Address) -> bool {
    let Address::Model(ModelAddress { parameters, .. }) = address else { return false };
    parameters
        .iter()
        .filter(|(key, _)| key == "backing")
        .all(|(_, value)| value == "ram" || value == "null")
}

/// The file that opening the model at `address` would make, if that is what it would do.
pub(crate) fn would_make(address: &Address) -> Option<PathBuf> {
    let Address::Model(ModelAddress { parameters, .. }) = address else { return None };
    let (_, backing) = parameters.iter().rev().find(|(key, _)| key == "backing")?;
    let path = PathBuf::from(backing.strip_prefix("file:")?);
    (!path.exists()).then_some(path)
}

/// Whether a device throws away what is written to it.
pub(crate) fn forgets(address: &Address) -> bool {
    let Address::Model(ModelAddress { parameters, .. }) = address else { return false };
    let backing = parameters.iter().rev().find(|(key, _)| key == "backing");
    backing.is_some_and(|(_, value)| value == "null")
}

/// What the first blocks of a device say that it holds; nothing where they cannot be read.
pub(crate) fn content(queue: &mut impl BlockQueue, buffer: DmaBuf) -> Option<&'static str> {
    let mut buffer = Some(buffer);
    let mut start = Vec::new();
    let mut lba = 0;
    let info = queue.info();
    while start.len() < signature::LENGTH {
        let step = buffer.as_ref()?.len();
        let blocks = step as u64 / u64::from(info.block_size.max(1));
        if blocks == 0 || info.blocks < lba + blocks {
            break;
        }
        let request =
            Request { operation: Operation::Read { lba }, buffer: buffer.take(), tag: lba };
        queue.submit(request).ok()?;
        let begin = Instant::now();
        let mut ended = None;
        while ended.is_none() {
            queue.poll(|completion| ended = Some(completion));
            if begin.elapsed() > PATIENCE {
                return None;
            }
        }
        let completion = ended.filter(|completion| completion.result.is_ok())?;
        start.extend_from_slice(completion.buffer.as_ref()?.as_slice());
        buffer = completion.buffer;
        lba += blocks;
    }
    signature::find(&start)
}

#[cfg(test)]
mod tests {
    use uniddrv::block::BlockError;

    use super::super::fake::{FakeQueue, Fault, buffers};
    use super::*;

    #[test]
    fn only_memory_of_this_process_is_expendable() {
        for (address, expendable) in [
            ("model:nvme", true),
            ("model:nvme?size=1G&backing=ram", true),
            ("model:nvme?backing=null", true),
            ("model:nvme?backing=file:/tmp/disk", false),
            ("model:nvme?backing=ram&backing=file:/tmp/disk", false),
            ("vfio-user:/run/nvme.sock", false),
            ("0000:03:00.0", false),
        ] {
            assert_eq!(is_expendable(&address.parse().unwrap()), expendable, "{address}");
        }
        assert!(forgets(&"model:nvme?backing=null".parse().unwrap()));
        assert!(!forgets(&"model:nvme?backing=null&backing=ram".parse().unwrap()));
        assert!(!forgets(&"0000:03:00.0".parse().unwrap()));
    }

    #[test]
    fn the_start_is_read_in_parts() {
        let mut queue = FakeQueue::new(1000, 4, Fault::None);
        assert_eq!(content(&mut queue, buffers(1, 8192).remove(0)), None);
        queue.put(0x1_0040, b"_BHRfS_M");
        let found = content(&mut queue, buffers(1, 8192).remove(0));
        assert_eq!(found, Some("a Btrfs filesystem"));
        let mut small = FakeQueue::new(4, 4, Fault::None);
        small.put(0, b"XFSB");
        assert_eq!(content(&mut small, buffers(1, 1024).remove(0)), Some("an XFS filesystem"));
        let mut bad = FakeQueue::new(1000, 4, Fault::Fail(1, BlockError::Gone));
        assert_eq!(content(&mut bad, buffers(1, 8192).remove(0)), None);
    }

    #[test]
    fn a_refusal_names_what_would_be_lost() {
        let target = Target {
            address: "0000:03:00.0".into(),
            model: "Fast 9".into(),
            serial: "S9".into(),
            namespace: 2,
            size: 1 << 40,
            ..Target::default()
        };
        let refusal = Refusal::new("--rw randwrite".into(), &target, Some("an XFS filesystem"));
        assert_eq!(
            refusal.to_string(),
            "--rw randwrite would destroy what is on 0000:03:00.0: Fast 9, serial S9, namespace 2, \
             1 TiB; it holds an XFS filesystem"
        );
    }
}
