//! The messages between a coordinator and its members, and their frames.
//!
//! A frame is its length (`u32`, at most [`FRAME_BYTES_MAX`]), a code, and the fields of the message
//! in order. Integers are little endian. A text follows its length in bytes (`u16`). A result is a
//! byte (1 good, 0 bad) and a text, the reason. Decoding is total: any bytes give a message or an
//! error.

use hrl::bytes::{Reader, Writer};
use hrl::{Error, ErrorKind, PointId, Result, Sequence, Timestamp};

/// Version of the protocol; a peer of another version is refused.
pub(crate) const PROTOCOL: u16 = 1;
/// Longest frame, without its length.
pub(crate) const FRAME_BYTES_MAX: usize = 16 << 10;
/// Longest text in a message; longer ones are cut.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// Number of a round; the rounds of one coordinator have rising numbers.
pub(crate) type RoundNumber = u64;

/// Outcome of a step at a member; an error is a sentence.
pub(crate) type Step<T = ()> = std::result::Result<T, String>;

/// The mark of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marked {
    pub point: PointId,
    pub sequence: Sequence,
    pub time: Timestamp,
}

/// A message from the coordinator to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToMember {
    /// The member is admitted. A barrier stays up for `budget_us` microseconds at most.
    Welcome { budget_us: u32 },
    /// The member is not admitted.
    Refused { reason: String },
    /// Quiesce the applications; the round ends `limit_ms` milliseconds from now.
    Prepare { round: RoundNumber, limit_ms: u32 },
    /// Raise the barrier.
    RaiseBarrier { round: RoundNumber },
    /// Place the mark, as every barrier is up.
    Mark { round: RoundNumber, group: PointId, app: bool, label: String },
    /// Lift the barrier, as every member has marked; release the applications, and answer once the
    /// mark is durable.
    LiftBarrier { round: RoundNumber },
    /// Every mark is durable: record the point of the group, which has `members` members.
    Commit { round: RoundNumber, group: PointId, app: bool, name: String, members: u16 },
    /// End the round without a point.
    Revoke { round: RoundNumber },
    /// Answer with `Pong`.
    Ping,
    /// The membership has ended.
    Left,
}

/// A message from a member to its coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToCoordinator {
    /// Introduction, sent first.
    Hello { protocol: u16, group: String, volume: String },
    /// Answer to `Prepare`.
    Prepared { round: RoundNumber, done: Step },
    /// Answer to `RaiseBarrier`.
    BarrierRaised { round: RoundNumber, done: Step },
    /// Answer to `Mark`.
    Marked { round: RoundNumber, done: Step<Marked> },
    /// Answer to `LiftBarrier`: how long the barrier was up, and whether the mark is durable.
    Durable { round: RoundNumber, held_us: u32, done: Step },
    /// Answer to `Commit`.
    Committed { round: RoundNumber },
    /// Answer to `Ping`.
    Pong,
    /// End the membership.
    Leave,
}

impl ToMember {
    pub(crate) fn encode(&self) -> Vec<u8> {
        framed(|out| match self {
            Self::Welcome { budget_us } => out.put_u8(1).put_u32_le(*budget_us),
            Self::Refused { reason } => out.put_u8(2).put_text(reason),
            Self::Prepare { round, limit_ms } => {
                out.put_u8(3).put_u64_le(*round).put_u32_le(*limit_ms)
            }
            Self::RaiseBarrier { round } => out.put_u8(4).put_u64_le(*round),
            Self::Mark { round, group, app, label } => out
                .put_u8(5)
                .put_u64_le(*round)
                .put_bytes(&group.0)
                .put_u8(u8::from(*app))
                .put_text(label),
            Self::LiftBarrier { round } => out.put_u8(6).put_u64_le(*round),
            Self::Commit { round, group, app, name, members } => out
                .put_u8(7)
                .put_u64_le(*round)
                .put_bytes(&group.0)
                .put_u8(u8::from(*app))
                .put_text(name)
                .put_u16_le(*members),
            Self::Revoke { round } => out.put_u8(8).put_u64_le(*round),
            Self::Ping => out.put_u8(9),
            Self::Left => out.put_u8(10),
        })
    }

    pub(crate) fn decode(frame: &[u8]) -> Result<Self> {
        let from = &mut reader(frame);
        let message = match from.u8()? {
            1 => Self::Welcome { budget_us: from.u32_le()? },
            2 => Self::Refused { reason: read_text(from)? },
            3 => Self::Prepare { round: from.u64_le()?, limit_ms: from.u32_le()? },
            4 => Self::RaiseBarrier { round: from.u64_le()? },
            5 => Self::Mark {
                round: from.u64_le()?,
                group: read_id(from)?,
                app: from.flag()?,
                label: read_text(from)?,
            },
            6 => Self::LiftBarrier { round: from.u64_le()? },
            7 => Self::Commit {
                round: from.u64_le()?,
                group: read_id(from)?,
                app: from.flag()?,
                name: read_text(from)?,
                members: from.u16_le()?,
            },
            8 => Self::Revoke { round: from.u64_le()? },
            9 => Self::Ping,
            10 => Self::Left,
            other => return Err(from.invalid("a code from 1 to 10", other)),
        };
        from.end()?;
        Ok(message)
    }
}

impl ToCoordinator {
    pub(crate) fn encode(&self) -> Vec<u8> {
        framed(|out| match self {
            Self::Hello { protocol, group, volume } => {
                out.put_u8(1).put_u16_le(*protocol).put_text(group).put_text(volume)
            }
            Self::Prepared { round, done } => out.put_u8(2).put_u64_le(*round).put_step(done),
            Self::BarrierRaised { round, done } => out.put_u8(3).put_u64_le(*round).put_step(done),
            Self::Marked { round, done } => out.put_u8(4).put_u64_le(*round).put_marked(done),
            Self::Durable { round, held_us, done } => {
                out.put_u8(5).put_u64_le(*round).put_u32_le(*held_us).put_step(done)
            }
            Self::Committed { round } => out.put_u8(6).put_u64_le(*round),
            Self::Pong => out.put_u8(7),
            Self::Leave => out.put_u8(8),
        })
    }

    pub(crate) fn decode(frame: &[u8]) -> Result<Self> {
        let from = &mut reader(frame);
        let message = match from.u8()? {
            1 => Self::Hello {
                protocol: from.u16_le()?,
                group: read_text(from)?,
                volume: read_text(from)?,
            },
            2 => Self::Prepared { round: from.u64_le()?, done: read_step(from)? },
            3 => Self::BarrierRaised { round: from.u64_le()?, done: read_step(from)? },
            4 => Self::Marked { round: from.u64_le()?, done: read_marked(from)? },
            5 => Self::Durable {
                round: from.u64_le()?,
                held_us: from.u32_le()?,
                done: read_step(from)?,
            },
            6 => Self::Committed { round: from.u64_le()? },
            7 => Self::Pong,
            8 => Self::Leave,
            other => return Err(from.invalid("a code from 1 to 8", other)),
        };
        from.end()?;
        Ok(message)
    }
}

/// Removes the first whole frame from `received` and returns it, if there is one. `InvalidInput` if
/// it is longer than allowed.
pub(crate) fn take_frame(received: &mut Vec<u8>) -> Result<Option<Vec<u8>>> {
    let Some(head) = received.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*head) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidInput, "read message of", "group")
            .expected(format_args!("a frame of at most {FRAME_BYTES_MAX} bytes"))
            .found(length));
    }
    if received.len() < 4 + length {
        return Ok(None);
    }
    let frame = received[4..4 + length].to_vec();
    received.drain(..4 + length);
    Ok(Some(frame))
}

/// Fields of messages beyond those of [`Writer`].
trait MessageWriter {
    fn put_text(&mut self, text: &str) -> &mut Self;
    fn put_step(&mut self, done: &Step) -> &mut Self;
    fn put_marked(&mut self, done: &Step<Marked>) -> &mut Self;
}

impl MessageWriter for Vec<u8> {
    fn put_text(&mut self, text: &str) -> &mut Self {
        let fits = |end: &usize| text.is_char_boundary(*end);
        let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(fits).unwrap_or(0);
        self.put_u16_le(end as u16).put_bytes(&text.as_bytes()[..end])
    }

    fn put_step(&mut self, done: &Step) -> &mut Self {
        match done {
            Ok(()) => self.put_u8(1).put_text(""),
            Err(reason) => self.put_u8(0).put_text(reason),
        }
    }

    fn put_marked(&mut self, done: &Step<Marked>) -> &mut Self {
        match done {
            Ok(Marked { point, sequence, time }) => {
                self.put_u8(1).put_bytes(&point.0).put_u64_le(sequence.0).put_i64_le(time.0)
            }
            Err(reason) => self.put_u8(0).put_text(reason),
        }
    }
}

/// Returns a frame whose message `put` appends.
fn framed(put: impl FnOnce(&mut Vec<u8>) -> &mut Vec<u8>) -> Vec<u8> {
    let mut frame = vec![0; 4];
    put(&mut frame);
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame
}

fn reader(frame: &[u8]) -> Reader<'_> {
    Reader::new(frame, "read message of", "group").failing_as(ErrorKind::InvalidInput)
}

fn read_id(from: &mut Reader<'_>) -> Result<PointId> {
    from.array().map(PointId)
}

fn read_text(from: &mut Reader<'_>) -> Result<String> {
    let length = from.u16_le()?;
    from.text(length.into(), TEXT_BYTES_MAX).map(str::to_owned)
}

/// Longest reason of a peer that is shown.
const SHOWN_CHARS_MAX: usize = 512;

/// Returns a peer's text as it may be shown: without what moves the cursor, breaks the line or
/// turns the order of letters, and not too long.
pub(crate) fn harmless(text: &str) -> String {
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut shown = String::new();
    for c in text.chars().take(SHOWN_CHARS_MAX) {
        if acts(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

fn read_step(from: &mut Reader<'_>) -> Result<Step> {
    let good = from.flag()?;
    let reason = read_text(from)?;
    Ok(if good { Ok(()) } else { Err(reason) })
}

fn read_marked(from: &mut Reader<'_>) -> Result<Step<Marked>> {
    if !from.flag()? {
        return read_text(from).map(Err);
    }
    Ok(Ok(Marked {
        point: read_id(from)?,
        sequence: Sequence(from.u64_le()?),
        time: Timestamp(from.i64_le()?),
    }))
}

#[cfg(test)]
mod tests {
    use hrl::bytes::hex;
    use proptest::prelude::*;

    use super::*;

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![Just(Ok(())), ".{0,20}".prop_map(Err)]
    }

    fn to_member() -> impl Strategy<Value = ToMember> {
        let id = || any::<[u8; 16]>().prop_map(PointId);
        prop_oneof![
            any::<u32>().prop_map(|budget_us| ToMember::Welcome { budget_us }),
            ".{0,40}".prop_map(|reason| ToMember::Refused { reason }),
            any::<(u64, u32)>().prop_map(|(round, limit_ms)| ToMember::Prepare { round, limit_ms }),
            any::<u64>().prop_map(|round| ToMember::RaiseBarrier { round }),
            (any::<u64>(), id(), any::<bool>(), ".{0,40}").prop_map(
                |(round, group, app, label)| { ToMember::Mark { round, group, app, label } }
            ),
            any::<u64>().prop_map(|round| ToMember::LiftBarrier { round }),
            (any::<u64>(), id(), any::<bool>(), ".{0,40}", any::<u16>()).prop_map(
                |(round, group, app, name, members)| ToMember::Commit {
                    round,
                    group,
                    app,
                    name,
                    members
                }
            ),
            any::<u64>().prop_map(|round| ToMember::Revoke { round }),
            Just(ToMember::Ping),
            Just(ToMember::Left),
        ]
    }

    fn to_coordinator() -> impl Strategy<Value = ToCoordinator> {
        let marked = any::<([u8; 16], u64, i64)>().prop_map(|(point, sequence, time)| Marked {
            point: PointId(point),
            sequence: Sequence(sequence),
            time: Timestamp(time),
        });
        let marked = prop_oneof![marked.prop_map(Ok), ".{0,20}".prop_map(Err)];
        prop_oneof![
            (any::<u16>(), ".{0,20}", ".{0,20}").prop_map(|(protocol, group, volume)| {
                ToCoordinator::Hello { protocol, group, volume }
            }),
            (any::<u64>(), step())
                .prop_map(|(round, done)| ToCoordinator::Prepared { round, done }),
            (any::<u64>(), step())
                .prop_map(|(round, done)| ToCoordinator::BarrierRaised { round, done }),
            (any::<u64>(), marked).prop_map(|(round, done)| ToCoordinator::Marked { round, done }),
            (any::<u64>(), any::<u32>(), step()).prop_map(|(round, held_us, done)| {
                ToCoordinator::Durable { round, held_us, done }
            }),
            any::<u64>().prop_map(|round| ToCoordinator::Committed { round }),
            Just(ToCoordinator::Pong),
            Just(ToCoordinator::Leave),
        ]
    }

    proptest! {
        #[test]
        fn decoding_restores_each_message(a in to_member(), b in to_coordinator()) {
            let mut bytes = a.encode();
            bytes.extend(b.encode());
            let first = take_frame(&mut bytes).expect("whole").expect("there");
            prop_assert_eq!(ToMember::decode(&first).expect("valid"), a);
            let second = take_frame(&mut bytes).expect("whole").expect("there");
            prop_assert_eq!(ToCoordinator::decode(&second).expect("valid"), b);
            prop_assert!(bytes.is_empty());
        }

        /// Promise 11: any bytes give a message or an error.
        #[test]
        fn any_bytes_give_a_message_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = ToMember::decode(&bytes);
            let _ = ToCoordinator::decode(&bytes);
            let _ = take_frame(&mut bytes);
        }
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused_before_it_is_read() {
        let mut bytes = (FRAME_BYTES_MAX as u32 + 1).to_le_bytes().to_vec();
        assert_eq!(take_frame(&mut bytes).expect_err("long").kind(), ErrorKind::InvalidInput);
        let long = ToMember::Refused { reason: "ä".repeat(5_000) };
        let mut bytes = long.encode();
        let frame = take_frame(&mut bytes).expect("cut").expect("whole");
        assert!(matches!(ToMember::decode(&frame), Ok(ToMember::Refused { .. })));
    }

    /// Older members and coordinators rely on these bytes.
    #[test]
    fn every_message_keeps_its_bytes() {
        let group = PointId(std::array::from_fn(|at| at as u8));
        let marked = Marked { point: group, sequence: Sequence(9), time: Timestamp(-2) };
        let to_member = [
            (ToMember::Welcome { budget_us: 300_000 }, "0500000001e0930400"),
            (ToMember::Refused { reason: "full".into() }, "0700000002040066756c6c"),
            (ToMember::Prepare { round: 7, limit_ms: 5000 }, "0d00000003070000000000000088130000"),
            (ToMember::RaiseBarrier { round: 7 }, "09000000040700000000000000"),
            (
                ToMember::Mark { round: 7, group, app: true, label: "ä".into() },
                "1e000000050700000000000000000102030405060708090a0b0c0d0e0f010200c3a4",
            ),
            (ToMember::LiftBarrier { round: 7 }, "09000000060700000000000000"),
            (
                ToMember::Commit { round: 7, group, app: false, name: "books".into(), members: 2 },
                "23000000070700000000000000000102030405060708090a0b0c0d0e0f000500626f6f6b730200",
            ),
            (ToMember::Revoke { round: 7 }, "09000000080700000000000000"),
            (ToMember::Ping, "0100000009"),
            (ToMember::Left, "010000000a"),
        ];
        let to_coordinator = [
            (
                ToCoordinator::Hello { protocol: 1, group: "books".into(), volume: "disk".into() },
                "100000000101000500626f6f6b7304006469736b",
            ),
            (
                ToCoordinator::Prepared { round: 7, done: Ok(()) },
                "0c000000020700000000000000010000",
            ),
            (
                ToCoordinator::BarrierRaised { round: 7, done: Err("late".into()) },
                "100000000307000000000000000004006c617465",
            ),
            (
                ToCoordinator::Marked { round: 7, done: Ok(marked) },
                "2a00000004070000000000000001000102030405060708090a0b0c0d0e0f0900000000000000feffffffffffffff",
            ),
            (
                ToCoordinator::Marked { round: 7, done: Err("no".into()) },
                "0e0000000407000000000000000002006e6f",
            ),
            (
                ToCoordinator::Durable { round: 7, held_us: 1500, done: Ok(()) },
                "10000000050700000000000000dc050000010000",
            ),
            (ToCoordinator::Committed { round: 7 }, "09000000060700000000000000"),
            (ToCoordinator::Pong, "0100000007"),
            (ToCoordinator::Leave, "0100000008"),
        ];
        for (message, bytes) in to_member {
            assert_eq!(hex(&message.encode()).to_string(), bytes, "{message:?}");
        }
        for (message, bytes) in to_coordinator {
            assert_eq!(hex(&message.encode()).to_string(), bytes, "{message:?}");
        }
    }
}
