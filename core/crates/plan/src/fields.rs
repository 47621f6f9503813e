//! Fields of JSON objects in records and reports, and the form of names.

use std::time::Duration;

use hrl::Timestamp;
use serde_json::Value;

/// Returns a field that is text.
pub(super) fn text(value: &Value, name: &str) -> Option<String> {
    value.get(name)?.as_str().map(str::to_owned)
}

/// Returns a field that is a whole number.
pub(super) fn number(value: &Value, name: &str) -> Option<u64> {
    value.get(name)?.as_u64()
}

/// Returns a field that is a whole number below 2^32.
pub(super) fn small_number(value: &Value, name: &str) -> Option<u32> {
    number(value, name)?.try_into().ok()
}

/// Returns a field that is true or false.
pub(super) fn flag(value: &Value, name: &str) -> Option<bool> {
    value.get(name)?.as_bool()
}

/// Returns a field that is a time, as RFC 3339.
pub(super) fn time(value: &Value, name: &str) -> Option<Timestamp> {
    Timestamp::parse(value.get(name)?.as_str()?).ok()
}

/// Returns a required field as `read` returns it; `Some(None)` for null.
#[allow(clippy::option_option, reason = "null is a value that is understood")]
pub(super) fn nullable<T>(
    value: &Value,
    name: &str,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Option<Option<T>> {
    match value.get(name)? {
        Value::Null => Some(None),
        value => read(value).map(Some),
    }
}

/// Returns a length of time in milliseconds, as in reports.
pub(super) fn millis(time: Option<Duration>) -> Option<u64> {
    time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// Returns whether `text` can name a run, plan, group or action: A-Z a-z 0-9 . _ - without a leading
/// dot.
pub(super) fn is_name(text: &str, bytes_max: usize) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=bytes_max).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(is_good)
}
