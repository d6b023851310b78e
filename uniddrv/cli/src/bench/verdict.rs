//! How a benchmark ended, as an exit status and a message.

use super::result::counted;
use super::run::Outcome;
use super::session::Session;
use crate::error::Failure;

/// Success, or what went wrong first.
pub(crate) fn verdict(session: &Session, device: &str, keep_going: bool) -> Result<(), Failure> {
    // Without a measurement it was the fill that ended it.
    let fill = session.fill.as_ref().filter(|_| session.runs.is_empty());
    let Some(outcome) = fill.or(session.runs.last().map(|run| &run.outcome)) else {
        return Ok(());
    };
    let stage = if fill.is_some() { "while writing what was to be read: " } else { "" };
    if outcome.panicked {
        return Err(Failure::new(format!("{device}: {stage}a thread of the benchmark panicked")));
    }
    if let Some(fatal) = &outcome.fatal {
        return Err(Failure::new(format!("{device}: {stage}{fatal}")));
    }
    if outcome.interrupted {
        return Err(Failure::interrupted("interrupted; the device is in order"));
    }
    if keep_going {
        return Ok(());
    }
    let Some(what) = failures(outcome) else { return Ok(()) };
    let failure = Failure::new(format!("{device}: {stage}{what}"));
    Err(failure.with_help("to count failures and go on, add --keep-going"))
}

fn failures(outcome: &Outcome) -> Option<String> {
    if let Some(mismatch) = outcome.mismatch_samples.first() {
        let count = counted(outcome.mismatches as usize, "read");
        return Some(format!("{count} brought wrong data: {mismatch}"));
    }
    let sample = outcome.error_samples.first()?;
    Some(format!("{} failed: {sample}", counted(outcome.errors as usize, "request")))
}

#[cfg(test)]
mod tests {
    use uniddrv::block::BlockError;

    use super::super::engine::{ErrorSample, Fatal};
    use super::super::session::Run;
    use super::*;

    fn ended(outcome: Outcome, keep_going: bool) -> Result<(), Failure> {
        let session = Session { runs: vec![Run { depth: 1, outcome }], ..Session::default() };
        verdict(&session, "model:nvme", keep_going)
    }

    #[test]
    fn each_way_to_end_has_its_verdict() {
        let sample = ErrorSample { write: false, lba: 7, error: BlockError::OutOfRange };
        let failed = Outcome { errors: 2, error_samples: vec![sample], ..Outcome::default() };
        let gone = Outcome { fatal: Some(Fatal::Gone), ..Outcome::default() };
        assert!(ended(Outcome::default(), false).is_ok());
        assert!(ended(failed.clone(), true).is_ok());
        let text = format!("{:?}", ended(failed, false).unwrap_err());
        assert!(text.contains("2 requests failed: read of LBA 7"), "{text}");
        assert!(ended(gone.clone(), true).is_err());
        let fill = Session { fill: Some(gone), ..Session::default() };
        let text = format!("{:?}", verdict(&fill, "model:nvme", true));
        assert!(text.contains("while writing what was to be read"), "{text}");
        let interrupted = Outcome { interrupted: true, ..Outcome::default() };
        let text = format!("{:?}", ended(interrupted, true).unwrap_err());
        assert!(text.contains("130"), "{text}");
    }
}
