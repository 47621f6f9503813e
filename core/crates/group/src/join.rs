//! Joining a group with a protected volume.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hrl::journal::PointKind;
use hrl::{Clock, PointId, Protection, Quiesce, Result, VolumeCut};
use hrl_tls::client_config;

use crate::GROUP_PORT;
use crate::member::{GroupMember, JoinOptions, Target};
use crate::wire::Marked;

/// How to join a group: required arguments in [`GroupJoin::new`], the rest chained.
pub struct GroupJoin {
    group: String,
    coordinators: Vec<String>,
    identity: PathBuf,
    quiesce: Option<Arc<dyn Quiesce>>,
}

impl GroupJoin {
    /// Joins `group` at the first of `coordinators` that answers.
    ///
    /// Each is `HOST` or `HOST:PORT`; the default port is [`GROUP_PORT`]. `identity` is the bundle with the member's
    /// certificate, as a gateway's authority gives it out.
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

    /// Sets what is quiesced for the group's application-consistent points. Default: the applications of the
    /// protection's options. Without any, the volume treats them as crash-consistent ones.
    pub fn quiesce(mut self, provider: Arc<dyn Quiesce>) -> Self {
        self.quiesce = Some(provider);
        self
    }

    /// Makes the volume a member of the group while the returned handle lives, and in the eyes of the coordinator until
    /// [`GroupMember::leave`]. Connects in the background: see [`GroupMember::wait_connected`].
    ///
    /// `InvalidInput` if the identity cannot be used.
    pub fn join(self, protection: &Protection) -> Result<GroupMember> {
        let Self { group, coordinators, identity, quiesce } = self;
        let config = client_config(&identity)?;
        let mut cut = protection.cut();
        if let Some(provider) = quiesce {
            cut = cut.applications(provider);
        }
        GroupMember::start(Arc::new(cut), JoinOptions { group, coordinators, config })
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

    fn unquiesce(&self) -> Result<()> {
        Self::release(self)
    }

    fn hold(&self, limit: Duration) -> Result<()> {
        self.raise_barrier(limit)
    }

    fn mark(&self, group: PointId, app: bool, label: &str) -> Result<Marked> {
        let mark = Self::mark(self, group, kind(app), label)?;
        Ok(Marked { point: mark.point, sequence: mark.sequence, time: mark.time })
    }

    fn release(&self) -> Option<Duration> {
        self.lift_barrier()
    }

    fn wait_durable(&self, point: PointId) -> Result<()> {
        Self::wait_durable(self, point)
    }

    fn commit(&self, group: PointId, app: bool, name: &str, members: u16) -> Result<()> {
        // The volume may have fallen out of order since. Then the commitment waits until it is in order again.
        Self::commit(self, group, kind(app), name, members)
    }

    fn failed(&self, message: String) {
        self.skipped(&message);
    }
}

fn kind(app: bool) -> PointKind {
    if app { PointKind::GroupApp } else { PointKind::GroupCrash }
}
