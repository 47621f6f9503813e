//! A batch of entries, as the bytes of an object: a head line and a line for each entry, in JSON.
//!
//! Decoding is total: any bytes give a batch or an error that names the line.

use std::fmt;

use hrl::bytes::{hex, parse_hex};
use hrl::store::ObjectInfo;
use hrl::vault::layout;
use hrl::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, put_time, read_time};

/// Largest batch that is read.
pub(crate) const BATCH_BYTES_MAX: u64 = 16 << 20;
/// Version of the format.
const VERSION: u32 = 1;

/// The end of a log: keep it elsewhere, to find out whether the log was cut off or replaced.
///
/// Shown and parsed as `NUMBER:HASH`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Number of the newest batch; zero for an empty log.
    pub number: u64,
    /// Hash of its bytes; zeroes for an empty log.
    pub hash: [u8; 32],
}

impl Head {
    /// Reads `NUMBER:HASH`. `InvalidInput` for other text.
    pub fn parse(text: &str) -> Result<Self> {
        let parts = text.split_once(':').and_then(|(number, hash)| {
            Some(Self { number: number.parse().ok()?, hash: parse_hex(hash)? })
        });
        parts.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "read head of audit log", text)
                .expected("NUMBER:HASH, as hrl audit prints it")
                .found(text)
        })
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, hex(&self.hash))
    }
}

/// First line of a batch.
#[derive(Serialize, Deserialize)]
struct HeadLine {
    audit: u32,
    number: u64,
    previous: String,
    writer: String,
    #[serde(serialize_with = "put_time", deserialize_with = "read_time")]
    time: Timestamp,
}

/// Entries that are appended together.
pub(crate) struct Batch {
    pub number: u64,
    /// Hash of the batch before.
    pub previous: [u8; 32],
    /// Who appended it.
    pub writer: String,
    pub entries: Vec<Entry>,
}

/// Returns the name of a batch's object.
pub(crate) fn object_of(number: u64) -> String {
    format!("{}{number:016x}", layout::AUDIT)
}

/// Returns the number in the name of a batch's object; `None` for another name.
pub(crate) fn number_of(object: &str) -> Option<u64> {
    let digits = object.strip_prefix(layout::AUDIT)?;
    u64::from_str_radix(digits, 16).ok().filter(|number| object_of(*number) == object)
}

/// Returns the newest batch in a listing.
pub(crate) fn newest(objects: &[ObjectInfo]) -> u64 {
    objects.iter().filter_map(|info| number_of(&info.name)).max().unwrap_or(0)
}

pub(crate) fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// Returns the bytes of the batch after `head`.
pub(crate) fn encode(head: Head, writer: &str, time: Timestamp, entries: &[Entry]) -> Vec<u8> {
    let line = HeadLine {
        audit: VERSION,
        number: head.number + 1,
        previous: hex(&head.hash).to_string(),
        writer: writer.to_owned(),
        time,
    };
    let mut out = serde_json::to_vec(&line).expect("text and numbers");
    for entry in entries {
        out.push(b'\n');
        serde_json::to_writer(&mut out, entry).expect("text and numbers into memory");
    }
    out.push(b'\n');
    out
}

/// Reads the bytes of a batch. `Unsupported` if a newer program wrote them, else `Corrupt`.
pub(crate) fn decode(bytes: &[u8], object: &str) -> Result<Batch> {
    let bad = |line: usize| {
        Error::new(ErrorKind::Corrupt, "read audit log", object)
            .message(format_args!("line {line} is none of the log"))
    };
    let text = std::str::from_utf8(bytes).map_err(|error| bad(0).caused_by(error))?;
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let head: HeadLine = serde_json::from_str(first).map_err(|error| bad(1).caused_by(error))?;
    if head.audit != VERSION {
        return Err(Error::new(ErrorKind::Unsupported, "read audit log", object)
            .expected(format_args!("version {VERSION}"))
            .found(head.audit));
    }
    let previous = parse_hex(&head.previous).ok_or_else(|| bad(1))?;
    let entries = lines
        .enumerate()
        .map(|(at, line)| serde_json::from_str(line).map_err(|error| bad(at + 2).caused_by(error)));
    let entries = entries.collect::<Result<Vec<_>>>()?;
    Ok(Batch { number: head.number, previous, writer: head.writer, entries })
}
