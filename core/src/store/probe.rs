//! A check that a store implements put-if-absent, before anything depends on it.
//!
//! Put-if-absent alone decides between two sources that race for a volume. Some servers accept the
//! condition and ignore it, or check it and write in two steps; then both sources would believe
//! that they won. So a new vault begins with a second put of one name, and with races of several
//! clients for one name each.

use std::sync::Barrier;

use super::{PutOutcome, Store, get_all};
use crate::clock::{Clock, random_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::parallel;

/// Clients that race for one name.
const CLIENTS: usize = 8;
/// Number of races. A server that writes in two steps is found in nine of ten.
const RACES: usize = 4;
/// Prefix of the probe's objects.
pub(crate) const PREFIX: &str = "hrl-probe/";
/// Bytes of each object.
const OBJECT_BYTES: usize = 4096;

/// Returns `Unsupported`, with what the store did, if it breaks put-if-absent. The objects of the
/// probe are removed again.
pub(crate) fn check_put_if_absent(store: &dyn Store, clock: &dyn Clock) -> Result<()> {
    let random = u64::from_le_bytes(random_bytes(clock));
    let name = |number: usize| format!("{PREFIX}{random:016x}-{number}");
    let result = check_second_put(store, &name(0))
        .and_then(|()| (1..=RACES).try_for_each(|number| check_race(store, &name(number))));
    for number in 0..=RACES {
        // Readers ignore objects that stay, in a store that keeps everything for a time.
        let _ = store.delete(&name(number));
    }
    result
}

fn check_second_put(store: &dyn Store, name: &str) -> Result<()> {
    let (first, second) = ([1; OBJECT_BYTES], [2; OBJECT_BYTES]);
    if store.put(name, &first)? != PutOutcome::Created {
        return Err(broken(store, "it says that a random name exists already".into()));
    }
    let outcome = store.put(name, &second)?;
    let content = get_all(store, name, OBJECT_BYTES as u64)?;
    if outcome == PutOutcome::AlreadyExists && content == first {
        return Ok(());
    }
    let fate = if content == first { "kept" } else { "overwritten" };
    Err(broken(
        store,
        format!("a second put of one name was answered with success, and the first was {fate}"),
    ))
}

fn check_race(store: &dyn Store, name: &str) -> Result<()> {
    // In a simulation the clients come one after the other.
    let line = Barrier::new(if parallel::is_alone() { 1 } else { CLIENTS });
    let clients: Vec<_> = (0..CLIENTS).collect();
    let outcomes = parallel::all(&clients, |client| {
        line.wait();
        store.put(name, &[*client as u8; OBJECT_BYTES])
    });
    let mut winners = Vec::new();
    for (client, outcome) in outcomes.into_iter().enumerate() {
        if outcome? == PutOutcome::Created {
            winners.push(client);
        }
    }
    let content = get_all(store, name, OBJECT_BYTES as u64)?;
    match winners[..] {
        [winner] if content == [winner as u8; OBJECT_BYTES] => Ok(()),
        [_] => Err(broken(
            store,
            "of clients that created one object at once another won than was told".into(),
        )),
        _ => Err(broken(
            store,
            format!(
                "of {CLIENTS} clients that created one object at once {} were told that they had",
                winners.len()
            ),
        )),
    }
}

fn broken(store: &dyn Store, what: String) -> Error {
    Error::new(ErrorKind::Unsupported, "use store", store.name()).message(format_args!(
        "it does not keep put-if-absent, without which two sources could both take a volume: {what}"
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::ops::Range;

    use super::*;
    use crate::clock::ManualClock;
    use crate::store::ObjectInfo;
    use crate::sync::lock::Mutex;
    use crate::units::Timestamp;

    /// How a store in memory treats the condition.
    #[derive(Clone, Copy, PartialEq)]
    enum Condition {
        Kept,
        Ignored,
        InTwoSteps,
    }

    struct MemoryStore(Condition, Mutex<HashMap<String, Vec<u8>>>);

    impl MemoryStore {
        fn objects(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<u8>>> {
            self.1.lock()
        }
    }

    impl Store for MemoryStore {
        fn name(&self) -> String {
            "memory".into()
        }

        fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
            let mut objects = self.objects();
            if self.0 != Condition::Ignored && objects.contains_key(name) {
                return Ok(PutOutcome::AlreadyExists);
            }
            if self.0 == Condition::InTwoSteps {
                drop(objects);
                std::thread::sleep(std::time::Duration::from_millis(5));
                objects = self.objects();
            }
            objects.insert(name.to_owned(), content.to_vec());
            Ok(PutOutcome::Created)
        }

        fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
            Ok(self.objects()[name][range.start as usize..range.end as usize].to_vec())
        }

        fn list(&self, _prefix: &str) -> Result<Vec<ObjectInfo>> {
            Ok(Vec::new())
        }

        fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
            let length = self.objects().get(name).map(|content| content.len() as u64);
            Ok(length.map(|length| ObjectInfo { name: name.to_owned(), length }))
        }

        fn delete(&self, name: &str) -> Result<()> {
            self.objects().remove(name);
            Ok(())
        }
    }

    #[test]
    fn a_store_that_lies_is_told_from_one_that_does_not() {
        let clock = ManualClock::new(Timestamp(0), 1);
        for condition in [Condition::Kept, Condition::Ignored, Condition::InTwoSteps] {
            let store = MemoryStore(condition, Mutex::default());
            let result = check_put_if_absent(&store, &clock);
            assert_eq!(result.is_ok(), condition == Condition::Kept, "{result:?}");
            assert!(store.objects().is_empty(), "nothing is left");
            let Err(error) = result else { continue };
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let sign = if condition == Condition::Ignored { "overwritten" } else { "8 clients" };
            assert!(error.to_string().contains(sign), "{error}");
        }
    }
}
