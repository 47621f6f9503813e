//! Options of a coordinator.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hrl::store::check_name;
use hrl::{Clock, Error, ErrorKind, EventSink, Result, SystemClock, no_events};

use crate::{BUDGET_MAX, GROUP_PORT, GroupCoordinator};

/// Options of a coordinator: required arguments in [`GroupOptions::new`], the rest chained.
pub struct GroupOptions {
    pub(crate) name: String,
    pub(crate) state: PathBuf,
    pub(crate) pki: PathBuf,
    pub(crate) listen: String,
    pub(crate) members: Option<Vec<String>>,
    pub(crate) budget: Duration,
    pub(crate) interval: Duration,
    pub(crate) app_interval: Duration,
    pub(crate) quiesce_limit: Duration,
    pub(crate) events: EventSink,
    pub(crate) clock: Arc<dyn Clock>,
}

impl GroupOptions {
    /// Describes a coordinator of the group `name`. It remembers its members in the state directory
    /// `state`, which it creates if absent. It admits clients that are enrolled in `pki`, as a
    /// gateway does.
    pub fn new(name: &str, state: impl Into<PathBuf>, pki: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            state: state.into(),
            pki: pki.into(),
            listen: format!("0.0.0.0:{GROUP_PORT}"),
            members: None,
            budget: Duration::from_millis(300),
            interval: Duration::ZERO,
            app_interval: Duration::ZERO,
            quiesce_limit: Duration::from_secs(10),
            events: no_events(),
            clock: SystemClock::shared(),
        }
    }

    /// Sets the address to listen on, `ADDRESS:PORT`; port 0 takes a free one. Default
    /// `0.0.0.0:20004`.
    pub fn listen(mut self, address: &str) -> Self {
        address.clone_into(&mut self.listen);
        self
    }

    /// Sets the volumes that may be members. A volume that the state directory knows and the list
    /// does not is no member any more. Default: every client that is enrolled in `pki` may join with
    /// its volumes, and from then on no point is made without it.
    pub fn members(mut self, volumes: &[impl AsRef<str>]) -> Self {
        self.members = Some(volumes.iter().map(|volume| volume.as_ref().to_owned()).collect());
        self
    }

    /// Sets how long barriers may stay up, 1 ms to 10 s. A round that needs more makes no point.
    /// Default 300 ms.
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// Sets how often a crash-consistent point is made. Default zero: on demand only.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets how often an application-consistent point is made. Default zero: on demand only.
    pub fn app_interval(mut self, interval: Duration) -> Self {
        self.app_interval = interval;
        self
    }

    /// Sets how long quiescing may take; beyond it the round makes no point. Default 10 s.
    pub fn quiesce_limit(mut self, limit: Duration) -> Self {
        self.quiesce_limit = limit;
        self
    }

    /// Sets the receiver of events; their volume is the group's name. Default: none.
    pub fn events(mut self, sink: EventSink) -> Self {
        self.events = sink;
        self
    }

    /// Sets the source of time and entropy. Default: the system's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Starts the coordinator. `InvalidInput` for bad options and certificates, `Io` if it cannot
    /// listen.
    pub fn start(self) -> Result<GroupCoordinator> {
        GroupCoordinator::start(self)
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let bad = |what: &str, expected: &str, found: Duration| {
            Err(Error::new(ErrorKind::InvalidInput, "run group", what)
                .expected(expected)
                .found(format_args!("{found:?}")))
        };
        check_name(&self.name)?;
        self.members.iter().flatten().try_for_each(|volume| check_name(volume))?;
        if !(Duration::from_millis(1)..=BUDGET_MAX).contains(&self.budget) {
            return bad("budget", "1 ms to 10 s", self.budget);
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&self.quiesce_limit) {
            return bad("quiesce limit", "1 ms to 1 h", self.quiesce_limit);
        }
        Ok(())
    }
}
