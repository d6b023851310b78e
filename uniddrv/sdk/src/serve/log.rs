//! What a driver process says through `tracing`, on its way to the core's log.

use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Lines that are kept until they are sent.
const LINES: usize = 64;
/// Bytes of a line.
const LINE: usize = 1000;

static SAID: Said = Said::new();

/// What was said and not sent.
struct Said {
    waiting: AtomicBool,
    lines: Mutex<Vec<(u8, String)>>,
}

/// Keeps what is said from now on, information and what is worse.
pub(super) fn install() {
    // Fails where a driver program has its own.
    let _ = tracing::subscriber::set_global_default(Keeper(&SAID));
}

/// Whether something was said.
#[inline]
pub(super) fn is_waiting() -> bool {
    SAID.waiting.load(Ordering::Relaxed)
}

/// What was said since the last question: levels and texts, as in
/// [`FromDriver::Log`](uniddrv_abi::message::FromDriver::Log).
pub(super) fn take() -> Vec<(u8, String)> {
    SAID.take()
}

impl Said {
    const fn new() -> Self {
        Self { waiting: AtomicBool::new(false), lines: Mutex::new(Vec::new()) }
    }

    fn take(&self) -> Vec<(u8, String)> {
        self.waiting.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Keeper(&'static Said);

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.is_event()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line { message: String::new(), fields: String::new() };
        event.record(&mut line);
        let mut text = line.message;
        text.push_str(&line.fields);
        if let Some((end, _)) = text.char_indices().nth(LINE) {
            text.truncate(end);
        }
        let level = match *event.metadata().level() {
            Level::ERROR => 1,
            Level::WARN => 2,
            _ => 3,
        };
        let mut lines = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < LINES {
            lines.push((level, text));
        }
        self.0.waiting.store(true, Ordering::Relaxed);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_kept_in_one_line_each() {
        static HERE: Said = Said::new();
        tracing::subscriber::with_default(Keeper(&HERE), || {
            tracing::warn!(status = 7, name = ?"x", "the device {} it", "lost");
            tracing::error!(error = %"E", "no");
            tracing::debug!("too much");
            let _span = tracing::error_span!("nor this").entered();
            for _ in 0..2 * LINES {
                tracing::info!("{}", "ä".repeat(2 * LINE));
            }
        });
        assert!(HERE.waiting.load(Ordering::Relaxed));
        let said = HERE.take();
        assert!(!HERE.waiting.load(Ordering::Relaxed) && HERE.take().is_empty());
        assert_eq!(said.len(), LINES);
        assert_eq!(said[0], (2, "the device lost it status=7 name=\"x\"".into()));
        assert_eq!(said[1], (1, "no error=E".into()));
        assert_eq!((said[2].0, said[2].1.chars().count()), (3, LINE));
    }
}
