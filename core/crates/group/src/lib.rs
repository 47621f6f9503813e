//! Consistency groups: recovery points that are one cut across the volumes of many machines.
//!
//! Members connect to a [`GroupCoordinator`] over TLS with client certificates (port
//! [`GROUP_PORT`]) and stay connected. A round raises a barrier on every member, places a mark on
//! each, lifts all barriers, and commits when every mark is durable. The module `round` explains
//! why that is one cut. If a round does not commit, its marks are crash-consistent points of their
//! volumes, not points of the group.
//!
//! ```no_run
//! # use hrl::{Protection, Result};
//! # fn run(protection: &Protection) -> Result<()> {
//! use std::time::Duration;
//!
//! use hrl_group::{GroupCoordinator, GroupJoin, GroupOptions};
//!
//! // On one machine:
//! let coordinator: GroupCoordinator =
//!     GroupOptions::new("orders", "/var/lib/hrl/orders", "/etc/hrl/pki").start()?;
//! // On each machine with a volume of the group:
//! let member = GroupJoin::new("orders", &["coordinator.example"], "/etc/hrl/identity").join(protection)?;
//! member.wait_connected(Duration::from_secs(30))?;
//! // Then:
//! let point = coordinator.point(false, "nightly")?;
//! assert!(point.is_complete());
//! # Ok(())
//! # }
//! ```
//!
//! The commitment is a record in each member's own journal and is replicated with it. So a group
//! point can be found from the members' volumes alone. The record of one member is enough, because
//! it is written only after all marks are durable.
//!
//! Behaviour on failure: a member lifts its barrier when the budget is over, whatever the
//! coordinator does (promise 6). It holds its writers for no more than its share of the time. A coordinator that dies leaves no point. No point is taken while a
//! member is missing or not `Ordered` (promise 7).

mod coordinator;
mod hold;
mod join;
mod link;
mod member;
mod members;
mod options;
mod round;
#[cfg(any(test, feature = "testing"))]
mod stage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod wire;

use std::time::Duration;

pub use coordinator::{GroupCoordinator, GroupMemberStatus, GroupStatus};
use hrl::Clock;
pub use join::GroupJoin;
pub use member::{GroupMember, GroupMemberStats};
pub use members::MEMBERS_MAX;
pub use options::GroupOptions;

/// Default port of coordinators.
pub const GROUP_PORT: u16 = 20004;
/// Longest time that a barrier stays up, whatever a coordinator asks for.
const BUDGET_MAX: Duration = Duration::from_secs(10);

/// Returns unpredictable bytes.
fn random<const N: usize>(clock: &dyn Clock) -> [u8; N] {
    let mut bytes = [0; N];
    clock.fill_random(&mut bytes);
    bytes
}
