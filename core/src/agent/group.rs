//! Membership of a protected volume in a consistency group.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Protection, Shared};
use crate::capture::Hold;
use crate::clock::{Clock, random_bytes};
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::journal::{LABEL_BYTES_MAX, Mark, PointKind};
use crate::point::group::wire::Marked;
use crate::point::group::{GroupMember, JoinOptions, Target};
use crate::point::{GROUP_PORT, Quiesce};
use crate::tls::client_config;
use crate::units::PointId;

/// How to join a group: required arguments in [`GroupJoin::new`], the rest chained.
pub struct GroupJoin {
    group: String,
    coordinators: Vec<String>,
    identity: std::path::PathBuf,
    quiesce: Option<Arc<dyn Quiesce>>,
}

impl GroupJoin {
    /// Joins `group` at the first of `coordinators` that answers (`HOST` or `HOST:PORT`, port [`GROUP_PORT`] unless said
    /// otherwise), with the certificate in the bundle `identity`, as a gateway's authority gives it out.
    pub fn new(group: &str, coordinators: &[impl AsRef<str>], identity: impl AsRef<Path>) -> Self {
        let with_port = |host: &str| match host.rsplit_once(':') {
            Some((_, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host.to_owned(),
            _ => format!("{host}:{GROUP_PORT}"),
        };
        Self {
            group: group.to_owned(),
            coordinators: coordinators.iter().map(|host| with_port(host.as_ref())).collect(),
            identity: identity.as_ref().to_owned(),
            quiesce: None,
        }
    }

    /// What is quiesced for the group's application-consistent points. Default: what
    /// the options or the policy name; without any the volume makes no
    /// difference between them and crash-consistent ones.
    pub fn quiesce(mut self, provider: Arc<dyn Quiesce>) -> Self {
        self.quiesce = Some(provider);
        self
    }
}

impl Protection {
    /// Makes the volume a member of a consistency group for as long as the handle lives, and in the eyes of its coordinator
    /// until [`GroupMember::leave`]. Connects in the background: see [`GroupMember::wait_connected`].
    ///
    /// `InvalidInput` when the identity cannot be used.
    pub fn join_group(&self, join: GroupJoin) -> Result<GroupMember> {
        let config = client_config(&join.identity)?;
        let GroupJoin { group, coordinators, quiesce, .. } = join;
        let quiesce = quiesce.or_else(|| self.shared.applications.clone());
        let target = VolumeTarget { shared: self.shared.clone(), quiesce, hold: Mutex::default() };
        GroupMember::start(Arc::new(target), JoinOptions { group, coordinators, config })
    }
}

/// What a round does to this volume.
struct VolumeTarget {
    shared: Arc<Shared>,
    quiesce: Option<Arc<dyn Quiesce>>,
    /// The hold in force, and the journal's losses when the mark was made.
    hold: Mutex<(Option<Hold>, u64)>,
}

impl VolumeTarget {
    fn refused(&self, kind: ErrorKind, message: &str) -> Error {
        Error::new(kind, "mark point", &self.shared.info.name).message(message)
    }

    fn hold_state(&self) -> std::sync::MutexGuard<'_, (Option<Hold>, u64)> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target for VolumeTarget {
    fn volume(&self) -> &str {
        &self.shared.info.name
    }

    fn clock(&self) -> &dyn Clock {
        &*self.shared.clock
    }

    fn quiesce(&self, limit: Duration) -> Result<()> {
        if let Some(provider) = &self.quiesce {
            provider.quiesce(&self.shared.quiesce_request("", limit))?;
        }
        self.shared.volume.flush()
    }

    fn unquiesce(&self) -> Result<()> {
        self.quiesce.as_ref().map_or(Ok(()), |provider| provider.release())
    }

    fn hold(&self, limit: Duration) -> Result<()> {
        if self.shared.is_fenced() {
            return Err(self.shared.fenced_error("hold"));
        }
        self.shared.check_has_volume("hold")?;
        let hold = self.shared.tap.hold(limit)?;
        self.hold_state().0 = Some(hold);
        Ok(())
    }

    fn mark(&self, group: PointId, app: bool, label: &str) -> Result<Marked> {
        let mut state = self.hold_state();
        let Some(hold) = state.0 else {
            return Err(self.refused(ErrorKind::Unavailable, "its writers are not held"));
        };
        state.1 = self.shared.journal().losses;
        let point = PointId(random_bytes(&*self.shared.clock));
        let kind = if app { PointKind::GroupApp } else { PointKind::GroupCrash };
        if label.len() > LABEL_BYTES_MAX {
            return Err(self.refused(ErrorKind::InvalidInput, "the label is too long"));
        }
        let label = label.to_owned();
        let mark = Mark { point, kind, label, group: Some(group) };
        let holds = || match &self.quiesce {
            Some(provider) if app => provider.holds(),
            _ => Ok(()),
        };
        let (sequence, time) = self.shared.tap.mark_held(hold, mark, holds)?;
        Ok(Marked { point, sequence, time })
    }

    fn release(&self) -> Option<Duration> {
        let hold = self.hold_state().0.take()?;
        self.shared.tap.release(hold)
    }

    fn wait_sealed(&self, point: PointId) -> Result<()> {
        let losses = self.hold_state().1;
        self.shared.wait_for_point(point, losses).map(drop)
    }

    fn commit(&self, commitment: Mark) -> Result<()> {
        // The volume may have fallen out of order since; the record is no point, and waits for it to be in order again.
        self.shared.tap.mark(commitment).map(drop)
    }

    fn failed(&self, message: String) {
        self.shared.event(EventKind::PointSkipped, format!("group: {message}"));
    }
}
