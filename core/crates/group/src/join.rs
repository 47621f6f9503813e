//! Joining a group with a protected volume.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hrl::journal::PointKind;
use hrl::{Clock, Error, ErrorKind, PointId, Protection, Quiesce, Result, VolumeCut};
use hrl_tls::client_config;

use crate::member::{GroupMember, JoinOptions, Target};
use crate::wire::Marked;

/// Default of [`GroupJoin::hold_share`].
const HOLD_SHARE: f64 = 0.1;

/// Options for joining a group: required arguments in [`GroupJoin::new`], the rest chained.
pub struct GroupJoin {
    group: String,
    coordinators: Vec<String>,
    identity: PathBuf,
    quiesce: Option<Arc<dyn Quiesce>>,
    hold_share: f64,
}

impl GroupJoin {
    /// Joins `group` at the first of `coordinators` that answers.
    ///
    /// Each is `HOST` or `HOST:PORT`; the default port is [`GROUP_PORT`](crate::GROUP_PORT). `identity` is the bundle
    /// with the member's certificate, as made by `hrl_tls::enroll_client`.
    pub fn new(group: &str, coordinators: &[impl AsRef<str>], identity: impl AsRef<Path>) -> Self {
        Self {
            group: group.to_owned(),
            coordinators: coordinators.iter().map(|host| host.as_ref().to_owned()).collect(),
            identity: identity.as_ref().to_owned(),
            quiesce: None,
            hold_share: HOLD_SHARE,
        }
    }

    /// Sets what is quiesced for the group's application-consistent points. Default: the
    /// applications of the protection's options. A volume without applications treats these points
    /// as crash-consistent.
    pub fn quiesce(mut self, provider: Arc<dyn Quiesce>) -> Self {
        self.quiesce = Some(provider);
        self
    }

    /// Sets the greatest share of the time for which the coordinator may hold writers, by barriers
    /// and by quiesced applications: above 0, up to 1. What it gives in 100 s may be spent at once.
    /// Beyond it the group makes no points, and its coordinator says why. Default 0.1.
    pub fn hold_share(mut self, share: f64) -> Self {
        self.hold_share = share;
        self
    }

    /// Makes the volume a member of the group.
    ///
    /// The volume stays connected while the returned handle lives, and stays a member until
    /// [`GroupMember::leave`]. Connects in the background; see [`GroupMember::wait_connected`].
    /// `InvalidInput` for a bad share, or if the identity cannot be used.
    pub fn join(self, protection: &Protection) -> Result<GroupMember> {
        let Self { group, coordinators, identity, quiesce, hold_share } = self;
        if !(hold_share > 0.0 && hold_share <= 1.0) {
            return Err(Error::new(ErrorKind::InvalidInput, "join group", &group)
                .expected("a share to hold writers above 0, up to 1")
                .found(hold_share));
        }
        let config = client_config(&identity)?;
        let mut cut = protection.cut();
        if let Some(provider) = quiesce {
            cut = cut.applications(provider);
        }
        GroupMember::start(Arc::new(cut), JoinOptions { group, coordinators, config, hold_share })
    }
}

impl Target for VolumeCut {
    fn volume(&self) -> &str {
        Self::volume(self)
    }

    fn clock(&self) -> &dyn Clock {
        &**Self::clock(self)
    }

    fn quiesce(&self, limit: Duration) -> Result<()> {
        Self::quiesce(self, limit)
    }

    fn release_applications(&self) -> Result<()> {
        Self::release(self)
    }

    fn raise_barrier(&self, limit: Duration) -> Result<()> {
        self.raise_barrier(limit)
    }

    fn mark(&self, group: PointId, app: bool, label: &str) -> Result<Marked> {
        let mark = Self::mark(self, group, kind(app), label)?;
        Ok(Marked { point: mark.point, sequence: mark.sequence, time: mark.time })
    }

    fn lift_barrier(&self) -> Option<Duration> {
        self.lift_barrier()
    }

    fn wait_durable(&self, point: PointId) -> Result<()> {
        Self::wait_durable(self, point)
    }

    fn commit(&self, group: PointId, app: bool, name: &str, members: u16) -> Result<()> {
        // After an unordered interval the commitment waits until the volume is ordered again.
        Self::commit(self, group, kind(app), name, members)
    }

    fn failed(&self, message: String) {
        self.skipped(&message);
    }
}

fn kind(app: bool) -> PointKind {
    if app { PointKind::GroupApp } else { PointKind::GroupCrash }
}
