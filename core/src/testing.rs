//! Doors into decoders and state machines that are no part of the API, for fuzz targets. Feature `testing`.
//!
//! What is printed again here is what the crate itself would write: a target reads any bytes, and what was understood has to
//! be understood again, as the same.

pub use crate::agent::{
    reprint_anchor, reprint_failover, reprint_state, reprint_volume, reprint_witness,
};
pub use crate::failover::reprint_follow;
pub use crate::vault::pack::{mend_pack, reprint_pack};
