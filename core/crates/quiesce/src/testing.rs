//! Decoders that are not part of the API, for fuzz targets. Feature `testing`.

pub use crate::redis::read_redis_answer;
pub use crate::wire::reprint_watchdog_line;
