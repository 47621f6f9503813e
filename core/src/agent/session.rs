//! Whose the volume is, as this session knows it.
//!
//! Invariants: a fence is final. A failover to here is committed once. A volume whose failover is
//! not committed is not handed over.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::baseline::Baseline;
use super::provisional::Provisional;
use crate::event::Cause;
use crate::sync::lock::{Mutex, MutexGuard};
use crate::units::PointId;
use crate::vault::Catalog;

/// What the vault has, once it went back.
pub(super) struct Rewind {
    /// How it was noticed, in a sentence.
    pub why: String,
    /// What went back, or is another.
    pub cause: Cause,
    pub catalog: Catalog,
    pub baseline: Baseline,
}

#[derive(Default)]
struct SessionState {
    /// The failover to here that is not committed: nothing is shipped until it is.
    provisional: Option<Provisional>,
    /// The planned failover that the volume was handed over to: nothing is written until it is
    /// cancelled.
    handed_over: Option<PointId>,
    /// The vault was not compared with what is known here yet. True inside if the spool lost segments
    /// at the start.
    away: Option<bool>,
    /// Another source owns the volume, or the vault has no record of it.
    fenced: bool,
    /// The vault has no record of the volume.
    lost: bool,
    /// The vault went back, and the journal does not continue it yet.
    going_back: bool,
    /// What the vault has then, for the journal task.
    rewind: Option<Rewind>,
    /// The catalog version beyond what the vault lost, and its hash.
    beyond: Option<(u64, [u8; 32])>,
}

/// Ownership of the volume in one session of an agent.
pub(super) struct Session {
    state: Mutex<SessionState>,
    /// Locked while a failover is committed.
    committing: Mutex<()>,
    /// While true, retention waits: something reads what it might remove.
    retention_waits: Arc<AtomicBool>,
}

impl Session {
    /// Begins a session, with the failover to here that is not committed. If the vault is `away`, says
    /// whether the spool lost segments.
    pub fn new(provisional: Option<Provisional>, away: Option<bool>) -> Self {
        let state = SessionState { provisional, away, ..SessionState::default() };
        Self {
            state: Mutex::new(state),
            committing: Mutex::new(()),
            retention_waits: Arc::default(),
        }
    }

    /// Returns whether the vault was away at the start and was not compared since.
    pub fn is_away(&self) -> bool {
        self.state.lock().away.is_some()
    }

    /// Returns whether the vault is away, and the spool lost segments at the start.
    pub fn lacks_spooled(&self) -> bool {
        self.state.lock().away == Some(true)
    }

    /// Records that the vault was compared.
    pub fn join(&self) {
        self.state.lock().away = None;
    }

    /// Returns whether another source owns the volume now.
    pub fn is_fenced(&self) -> bool {
        self.state.lock().fenced
    }

    /// Records that another source owns the volume, for the rest of the session.
    pub fn fence(&self) {
        self.state.lock().fenced = true;
    }

    /// Records that the vault has no record of the volume any more, for the rest of the session.
    pub fn lose(&self) {
        let mut state = self.state.lock();
        (state.fenced, state.lost) = (true, true);
    }

    /// Returns whether the vault has no record of the volume any more.
    pub fn is_lost(&self) -> bool {
        self.state.lock().lost
    }

    /// Returns whether this session has put the newest version of a catalog beyond what the vault lost.
    pub fn is_beyond(&self, catalog: &Catalog) -> bool {
        self.state.lock().beyond == Some((catalog.version(), catalog.version_hash()))
    }

    /// Records that the newest version of a catalog is beyond what the vault lost.
    pub fn goes_beyond(&self, catalog: &Catalog) {
        self.state.lock().beyond = Some((catalog.version(), catalog.version_hash()));
    }

    /// Asks the journal task to continue a vault that went back.
    pub fn go_back(&self, rewind: Rewind) {
        let mut state = self.state.lock();
        (state.going_back, state.rewind) = (true, Some(rewind));
    }

    /// Takes what the journal is to continue.
    pub fn take_rewind(&self) -> Option<Rewind> {
        self.state.lock().rewind.take()
    }

    /// Records that the journal continues the vault.
    pub fn went_back(&self) {
        self.state.lock().going_back = false;
    }

    /// Returns whether the vault went back and the journal does not continue it yet.
    pub fn is_going_back(&self) -> bool {
        self.state.lock().going_back
    }

    /// Returns whether a failover to here is not committed.
    pub fn is_provisional(&self) -> bool {
        self.state.lock().provisional.is_some()
    }

    /// Returns the failover to here that is not committed.
    pub fn provisional(&self) -> Option<Provisional> {
        self.state.lock().provisional.clone()
    }

    /// Waits until no other thread commits, and keeps others from it until the guard is dropped.
    pub fn begin_commit(&self) -> MutexGuard<'_, ()> {
        self.committing.lock()
    }

    /// Records that the failover to here is committed.
    pub fn committed(&self) {
        let committed = self.state.lock().provisional.take();
        assert!(committed.is_some(), "a failover is committed once");
    }

    /// Returns the planned failover that the volume was handed over to.
    pub fn handed_over(&self) -> Option<PointId> {
        self.state.lock().handed_over
    }

    /// Records that the volume is handed over to `failover`.
    pub fn hand_over(&self, failover: PointId) {
        let mut state = self.state.lock();
        assert!(state.provisional.is_none(), "only a source hands its volume over");
        state.handed_over = Some(failover);
    }

    /// Records that the planned failover was cancelled.
    pub fn take_back(&self) {
        self.state.lock().handed_over = None;
    }

    /// Returns the flag that makes retention wait while it is true.
    pub fn retention_waits(&self) -> &Arc<AtomicBool> {
        &self.retention_waits
    }
}
