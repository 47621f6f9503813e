//! Test failovers: a view with its changes apart, recorded so that nobody forgets one.
//!
//! The volume's protection goes on; what the test writes is in an [`Overlay`](crate::replica::Overlay)'s scratch device.
//! Until it is ended, retention keeps the state that it stands on.

use crate::agent::state::host;
use crate::clock::{Clock, random_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::replica::{At, Replica};
use crate::units::PointId;
use crate::vault::{Step, StepKind, TestFailover};

use super::options::chosen;

/// Records that a test failover named `name` begins, as of `at`; then open a [`View`](crate::replica::View) of that
/// sequence and lay an overlay over it.
///
/// Beginning the test again that this host began, as of the same state, is no error. `AlreadyExists` for another of the name,
/// `Full` beyond [`TESTS_MAX`](crate::vault::TESTS_MAX), `InvalidInput` for an empty name, and the errors of the state.
pub fn begin_test(
    replica: &mut Replica,
    name: &str,
    at: &At,
    clock: &dyn Clock,
) -> Result<TestFailover> {
    replica.refresh()?;
    if name.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "begin test failover of",
            &replica.info().name,
        )
        .expected("a name for it"));
    }
    let tests = replica.catalog().lifecycle().tests();
    if let Some(test) = tests.iter().find(|test| test.name == name)
        && test.begin.host == host()
    {
        return Ok(test.clone());
    }
    let chosen = chosen(replica, replica.resolve(at)?);
    let begin = Step {
        kind: StepKind::TestBegin,
        failover: PointId(random_bytes(clock)),
        time: clock.now(),
        host: host(),
        at: chosen.sequence,
        point: chosen.point,
        at_time: chosen.time,
        epoch: replica.catalog().epoch(),
        note: name.to_owned(),
    };
    replica.record_step(&begin)?;
    Ok(TestFailover { name: name.to_owned(), begin })
}

/// Records that a test failover is over and cleaned up. `NotFound` lists those that there are.
pub fn end_test(replica: &mut Replica, name: &str, clock: &dyn Clock) -> Result<()> {
    replica.refresh()?;
    let begin = replica.catalog().lifecycle().test(name)?.begin.clone();
    replica.record_step(&Step { kind: StepKind::TestEnd, time: clock.now(), host: host(), ..begin })
}
