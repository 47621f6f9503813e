//! A group without a network, and decoders that are no part of the API: for tests and fuzz targets. Feature `testing`.

pub use crate::stage::{GroupStage, SaidInRound, reprint_group_message, take_group_frame};
