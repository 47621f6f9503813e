//! Records: a table of descriptors, and the data that some of them have.

use super::{array_at, bad, check_zero, i64_at, layout, put, u8_at, u16_at, u32_at, u64_at};
use crate::device::Discarded;
use crate::error::Result;
use crate::event::Cause;
use crate::extent::Extent;
use crate::journal::{
    Body, IndexKind, LABEL_BYTES_MAX, Mark, PointKind, RECORD_DATA_BYTES_MAX, Record,
};
use crate::units::{PointId, Sequence, Timestamp};

layout! { record, 40;
    KIND 0 1
    ARGUMENT 1 1
    RESERVED 2 2
    DATA_BYTES 4 4
    OFFSET 8 8
    LENGTH 16 8
    SEQUENCE 24 8
    TIME 32 8
}

layout! { mark, 36;
    POINT 0 16
    KIND 16 1
    HAS_GROUP 17 1
    GROUP 18 16
    LABEL_BYTES 34 2
}

pub const RECORD_BYTES: usize = record::BYTES;
/// Most data in a mark record.
pub(super) const MARK_BYTES_MAX: usize = mark::BYTES + LABEL_BYTES_MAX;

const WRITE: u8 = 1;
const ZERO: u8 = 2;
const DISCARD_ZEROES: u8 = 3;
const DISCARD_UNDEFINED: u8 = 4;
const TOUCH: u8 = 5;
const FLUSH: u8 = 6;
const MARK: u8 = 7;
const UNORDERED_BEGIN: u8 = 8;
const UNORDERED_END: u8 = 9;

/// Appends the descriptor of a record to `table`, and its data, if it has any, to `data`.
pub fn encode_record(record: &Record<'_>, table: &mut Vec<u8>, data: &mut Vec<u8>) {
    let encoded;
    let (kind, argument, payload): (u8, u8, &[u8]) = match &record.body {
        Body::Write { data, .. } => (WRITE, 0, data),
        Body::Zero(_) => (ZERO, 0, &[]),
        Body::Discard(_, Discarded::Undefined) => (DISCARD_UNDEFINED, 0, &[]),
        Body::Discard(..) => (DISCARD_ZEROES, 0, &[]),
        Body::Touch(_) => (TOUCH, 0, &[]),
        Body::Flush => (FLUSH, 0, &[]),
        Body::Mark(body) => {
            encoded = encode_mark(body);
            (MARK, 0, &encoded)
        }
        Body::UnorderedBegin(cause) => (UNORDERED_BEGIN, cause.code(), &[]),
        Body::UnorderedEnd => (UNORDERED_END, 0, &[]),
    };
    let extent = record.body.extent();
    let mut bytes = [0; RECORD_BYTES];
    put(&mut bytes, record::KIND, &[kind]);
    put(&mut bytes, record::ARGUMENT, &[argument]);
    put(&mut bytes, record::DATA_BYTES, &(payload.len() as u32).to_le_bytes());
    put(&mut bytes, record::OFFSET, &extent.offset.to_le_bytes());
    put(&mut bytes, record::LENGTH, &extent.length.to_le_bytes());
    put(&mut bytes, record::SEQUENCE, &record.sequence.0.to_le_bytes());
    put(&mut bytes, record::TIME, &record.time.0.to_le_bytes());
    table.extend_from_slice(&bytes);
    data.extend_from_slice(payload);
}

fn encode_mark(body: &Mark) -> Vec<u8> {
    let mut bytes = vec![0; mark::BYTES];
    put(&mut bytes, mark::POINT, &body.point.0);
    put(&mut bytes, mark::KIND, &[body.kind.code()]);
    put(&mut bytes, mark::HAS_GROUP, &[u8::from(body.group.is_some())]);
    put(&mut bytes, mark::GROUP, &body.group.unwrap_or_default().0);
    put(&mut bytes, mark::LABEL_BYTES, &(body.label.len() as u16).to_le_bytes());
    bytes.extend_from_slice(body.label.as_bytes());
    bytes
}

fn decode_mark(bytes: &[u8]) -> Option<Mark> {
    let label = bytes.get(mark::BYTES..)?;
    if label.len() != usize::from(u16_at(bytes, mark::LABEL_BYTES)) {
        return None;
    }
    let group = PointId(array_at(bytes, mark::GROUP));
    let group = match u8_at(bytes, mark::HAS_GROUP) {
        0 if group == PointId::default() => None,
        1 => Some(group),
        _ => return None,
    };
    Some(Mark {
        point: PointId(array_at(bytes, mark::POINT)),
        kind: PointKind::from_code(u8_at(bytes, mark::KIND))?,
        label: std::str::from_utf8(label).ok()?.to_owned(),
        group,
    })
}

/// One descriptor of a record table.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    kind: u8,
    argument: u8,
    pub data_bytes: u32,
    pub extent: Extent,
    pub sequence: Sequence,
    pub time: Timestamp,
}

impl Descriptor {
    /// Decodes a descriptor of the frame at `at`, of a volume of `device_bytes`.
    pub fn decode(bytes: &[u8], device_bytes: u64, name: &str, at: u64) -> Result<Self> {
        check_zero(bytes, record::RESERVED, name, at)?;
        let offset = u64_at(bytes, record::OFFSET);
        let length = u64_at(bytes, record::LENGTH);
        let descriptor = Self {
            kind: u8_at(bytes, record::KIND),
            argument: u8_at(bytes, record::ARGUMENT),
            data_bytes: u32_at(bytes, record::DATA_BYTES),
            extent: Extent { offset, length },
            sequence: Sequence(u64_at(bytes, record::SEQUENCE)),
            time: Timestamp(i64_at(bytes, record::TIME)),
        };
        if descriptor.is_sound(device_bytes) {
            return Ok(descriptor);
        }
        Err(bad(name, at).expected("a sound record within the volume").found(format_args!(
            "kind {} with {} bytes of data for {offset}+{length}",
            descriptor.kind, descriptor.data_bytes
        )))
    }

    fn is_sound(&self, device_bytes: u64) -> bool {
        let Extent { offset, length } = self.extent;
        let data = u64::from(self.data_bytes);
        let is_nowhere = offset == 0 && length == 0;
        let parts_agree = match self.kind {
            WRITE => data == length && data > 0 && data <= RECORD_DATA_BYTES_MAX as u64,
            ZERO | DISCARD_ZEROES | DISCARD_UNDEFINED | TOUCH => data == 0 && length > 0,
            MARK => data <= MARK_BYTES_MAX as u64 && is_nowhere,
            FLUSH | UNORDERED_BEGIN | UNORDERED_END => data == 0 && is_nowhere,
            _ => false,
        };
        parts_agree
            && offset.checked_add(length).is_some_and(|end| end <= device_bytes)
            && (self.kind == UNORDERED_BEGIN || self.argument == 0)
            // The last number stays free, so that every record can have a successor.
            && self.sequence < Sequence::MAX
    }

    /// Returns what the index says of the record's extent; `None` if the record changes nothing.
    pub fn index_kind(&self) -> Option<IndexKind> {
        match self.kind {
            WRITE => Some(IndexKind::Data),
            ZERO | DISCARD_ZEROES => Some(IndexKind::Zero),
            DISCARD_UNDEFINED => Some(IndexKind::Undefined),
            TOUCH => Some(IndexKind::Touch),
            _ => None,
        }
    }

    /// Returns the whole record, with its data.
    pub fn record<'a>(&self, data: &'a [u8], name: &str, at: u64) -> Result<Record<'a>> {
        let body = match self.kind {
            WRITE => Body::Write { offset: self.extent.offset, data },
            ZERO => Body::Zero(self.extent),
            DISCARD_ZEROES => Body::Discard(self.extent, Discarded::Zeroes),
            DISCARD_UNDEFINED => Body::Discard(self.extent, Discarded::Undefined),
            TOUCH => Body::Touch(self.extent),
            FLUSH => Body::Flush,
            MARK => Body::Mark(decode_mark(data).ok_or_else(|| {
                bad(name, at).expected("a sound mark").found(format_args!("{} bytes", data.len()))
            })?),
            UNORDERED_BEGIN => Body::UnorderedBegin(
                Cause::from_code(self.argument)
                    .ok_or_else(|| bad(name, at).expected("a known cause").found(self.argument))?,
            ),
            _ => Body::UnorderedEnd,
        };
        Ok(Record { sequence: self.sequence, time: self.time, body })
    }
}
