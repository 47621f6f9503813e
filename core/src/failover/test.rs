//! Test failovers, recorded in the catalog until they end.
//!
//! A test writes to the scratch device of an [`Overlay`](crate::replica::Overlay), while the
//! protection of the volume goes on. Until the test ends, retention keeps its recovery state.

use crate::clock::{Clock, random_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::replica::{At, Replica};
use crate::units::PointId;
use crate::vault::{Step, StepKind, TestFailover, host};

use super::chosen::chosen;

/// Records that the test failover `name` begins, as of `at`. Open a [`View`](crate::replica::View)
/// of the returned sequence next, and an overlay over it.
///
/// If this host began the test before, that test is returned. `AlreadyExists` if another host did,
/// `Full` beyond [`TESTS_MAX`](crate::vault::TESTS_MAX), `InvalidInput` for an empty name, and the
/// errors of the recovery state.
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
        at: chosen.sequence,
        point: chosen.point,
        at_time: chosen.time,
        epoch: replica.catalog().epoch(),
        note: name.to_owned(),
        ..Step::new(StepKind::TestBegin, PointId(random_bytes(clock)), clock)
    };
    replica.catalog_mut().record_step(&begin)?;
    Ok(TestFailover { name: name.to_owned(), begin })
}

/// Records that the test failover `name` has ended. `NotFound` lists the tests that have not ended.
pub fn end_test(replica: &mut Replica, name: &str, clock: &dyn Clock) -> Result<()> {
    replica.refresh()?;
    let begin = replica.catalog().lifecycle().test(name)?.begin.clone();
    replica.catalog_mut().record_step(&Step {
        kind: StepKind::TestEnd,
        time: clock.now(),
        host: host(),
        ..begin
    })
}
