//! The rules of shipping, the catalog and retention, for programs that predict what an agent does.
//!
//! Every number and decision here is the product's own, so a rule that changes changes the
//! prediction too. Nothing here reads or writes anything.

pub use crate::agent::{
    BATCH_MAX as BATCH_SEGMENTS_MAX, BATCH_TIME, UNPUBLISHED_MAX as UNPUBLISHED_SEGMENTS_MAX,
};
pub use crate::policy::Throttle;
pub use crate::replica::compact::{
    FETCH_BYTES, is_few as is_too_small_to_fold, least_bytes_in as least_bytes_to_fold,
    look_again_at,
};
pub use crate::replica::retention::folds_of;
pub use crate::vault::SNAPSHOT_EVERY;
