//! What tests share. Feature `testing`.
//!
//! Most of it are doors into decoders and state machines that are no part of the API, for fuzz
//! targets. What is printed again here is what the crate itself would write: a target reads any
//! bytes, and what was understood has to be understood again, as the same.

pub use crate::agent::{
    reprint_anchor, reprint_failover, reprint_state, reprint_volume, reprint_witness,
};
pub use crate::failover::reprint_follow;
pub use crate::vault::pack::{mend_pack, reprint_pack};

use std::time::Duration;

use crate::clock::SystemClock;
use crate::device::BlockDevice;

/// Returns all bytes of a device.
pub fn content(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; device.size_bytes() as usize];
    device.read(0, &mut bytes).expect("read");
    bytes
}

/// Waits until something has come. Panics with `what` it is after `limit`.
pub fn until(limit: Duration, what: &str, done: impl Fn() -> bool) {
    let clock = SystemClock::shared();
    let begun = clock.elapsed();
    while !done() {
        assert!(clock.elapsed().saturating_sub(begun) < limit, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}
