//! What a gateway says about requests and clients that it refuses: a line for people, and an entry
//! of the audit log.
//!
//! The audit log counts every refusal. Of many by one client in a minute the first
//! [`LINES_MAX`] have a line, so that nobody fills a disk with them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hrl::sync::lock::Mutex;
use hrl::{Clock, Error};
use hrl_audit::{Audit, Entry};

/// Callback that gets one line for people about each refusal.
pub type RefusalSink = Arc<dyn Fn(&str) + Send + Sync>;

/// Lines about one client in a minute.
const LINES_MAX: u64 = 20;
const MINUTE: Duration = Duration::from_secs(60);
/// Clients that are counted apart.
const CLIENTS_MAX: usize = 10_000;

/// Who was refused what.
#[derive(Clone, Copy)]
pub(crate) struct Refused<'a> {
    pub client: &'a str,
    pub role: &'a str,
    pub verb: &'a str,
    pub object: &'a str,
}

/// Reports refusals.
pub(crate) struct Refusals {
    sink: RefusalSink,
    clock: Arc<dyn Clock>,
    /// Of each client, since when lines are counted, and how many there were.
    lines: Mutex<HashMap<String, (Duration, u64)>>,
}

impl Refusals {
    pub(crate) fn new(sink: RefusalSink, clock: Arc<dyn Clock>) -> Self {
        Self { sink, clock, lines: Mutex::default() }
    }

    /// Reports a refusal, and records it.
    pub(crate) fn refused(&self, audit: &Audit, who: Refused<'_>, reason: &Error) {
        let Refused { client, role, verb, object } = who;
        let objects = [object.to_owned()];
        audit.refused(Entry::new(audit.now(), client, role, verb, &objects).denied(reason));
        self.line(client, &reason.to_string());
    }

    /// Reports a line about a client, unless there were too many.
    pub(crate) fn line(&self, client: &str, text: &str) {
        let now = self.clock.elapsed();
        let number = {
            let mut lines = self.lines.lock();
            if lines.len() >= CLIENTS_MAX {
                lines.retain(|_, (since, _)| now.saturating_sub(*since) < MINUTE);
            }
            let known = lines.entry(client.to_owned()).or_insert((now, 0));
            if now.saturating_sub(known.0) >= MINUTE {
                *known = (now, 0);
            }
            known.1 += 1;
            known.1
        };
        if number <= LINES_MAX {
            (self.sink)(&format!("gateway: {text}"));
        }
        if number == LINES_MAX {
            (self.sink)(&format!("gateway: more of {client} in the audit log"));
        }
    }
}
