//! A group without a network, and decoders that are not part of the API, for tests and fuzz
//! targets. Feature `testing`.

pub use crate::stage::{GroupStage, RoundAnswer, reprint_group_message, take_group_frame};
