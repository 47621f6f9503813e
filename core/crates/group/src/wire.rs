//! The messages between a coordinator and its members, and their frames.
//!
//! A frame is its length (`u32`, little endian, at most [`FRAME_BYTES_MAX`]), a code, and the fields of the message in their
//! order: integers little endian, texts with a `u16` for their length in bytes, a result as a byte (1 good, 0 bad) and a text
//! that says what was bad. Decoding is total: any bytes give a message or an error.

use hrl::{Error, ErrorKind, PointId, Result, Sequence, Timestamp};

/// Version of the protocol; a peer of another version is refused.
pub(crate) const PROTOCOL: u16 = 1;
/// Longest frame, without its length.
pub(crate) const FRAME_BYTES_MAX: usize = 16 << 10;
/// Longest text in a message; longer ones are cut.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// Who takes part in a round, and in which: rounds of one coordinator have rising numbers.
pub(crate) type RoundNumber = u64;

/// How a step went at a member; a sentence says why not.
pub(crate) type Step<T = ()> = std::result::Result<T, String>;

/// What a member marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marked {
    pub point: PointId,
    pub sequence: Sequence,
    pub time: Timestamp,
}

/// What a coordinator says to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToMember {
    /// You are a member. A hold lasts no longer than `budget_us` microseconds.
    Welcome { budget_us: u32 },
    /// You are none, and why.
    Refused { reason: String },
    /// Quiesce your applications; within `limit_ms` milliseconds from now the round is over.
    Prepare { round: RoundNumber, limit_ms: u32 },
    /// Hold your writers.
    Hold { round: RoundNumber },
    /// Mark: every member holds.
    Mark { round: RoundNumber, group: PointId, app: bool, label: String },
    /// Every member has marked: let your writers and applications go, and say when the mark is durable.
    Release { round: RoundNumber },
    /// The mark is durable everywhere: it is a point of the group, which has `members` members.
    Commit { round: RoundNumber, group: PointId, app: bool, name: String, members: u16 },
    /// It is none.
    Revoke { round: RoundNumber },
    /// Are you there?
    Ping,
    /// You are no member any more.
    Left,
}

/// What a member says to its coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToCoordinator {
    /// Who I am; sent first.
    Hello { protocol: u16, group: String, volume: String },
    /// Answer to `Prepare`.
    Prepared { round: RoundNumber, done: Step },
    /// Answer to `Hold`.
    Held { round: RoundNumber, done: Step },
    /// Answer to `Mark`.
    Marked { round: RoundNumber, done: Step<Marked> },
    /// Answer to `Release`: how long writers were held, and whether the mark is durable.
    Sealed { round: RoundNumber, held_us: u32, done: Step },
    /// Answer to `Commit`.
    Committed { round: RoundNumber },
    /// I am here.
    Pong,
    /// I leave the group.
    Leave,
}

impl ToMember {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        match self {
            Self::Welcome { budget_us } => out.u8(1).u32(*budget_us),
            Self::Refused { reason } => out.u8(2).text(reason),
            Self::Prepare { round, limit_ms } => out.u8(3).u64(*round).u32(*limit_ms),
            Self::Hold { round } => out.u8(4).u64(*round),
            Self::Mark { round, group, app, label } => {
                out.u8(5).u64(*round).id(*group).u8(u8::from(*app)).text(label)
            }
            Self::Release { round } => out.u8(6).u64(*round),
            Self::Commit { round, group, app, name, members } => {
                out.u8(7).u64(*round).id(*group).u8(u8::from(*app)).text(name).u16(*members)
            }
            Self::Revoke { round } => out.u8(8).u64(*round),
            Self::Ping => out.u8(9),
            Self::Left => out.u8(10),
        };
        out.frame()
    }

    pub(crate) fn decode(frame: &[u8]) -> Result<Self> {
        let mut from = Decoder { bytes: frame, at: 0 };
        let message = match from.u8()? {
            1 => Self::Welcome { budget_us: from.u32()? },
            2 => Self::Refused { reason: from.text()? },
            3 => Self::Prepare { round: from.u64()?, limit_ms: from.u32()? },
            4 => Self::Hold { round: from.u64()? },
            5 => Self::Mark {
                round: from.u64()?,
                group: from.id()?,
                app: from.flag()?,
                label: from.text()?,
            },
            6 => Self::Release { round: from.u64()? },
            7 => Self::Commit {
                round: from.u64()?,
                group: from.id()?,
                app: from.flag()?,
                name: from.text()?,
                members: from.u16()?,
            },
            8 => Self::Revoke { round: from.u64()? },
            9 => Self::Ping,
            10 => Self::Left,
            other => return Err(from.bad("a code from 1 to 10", other)),
        };
        from.end()?;
        Ok(message)
    }
}

impl ToCoordinator {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        match self {
            Self::Hello { protocol, group, volume } => {
                out.u8(1).u16(*protocol).text(group).text(volume)
            }
            Self::Prepared { round, done } => out.u8(2).u64(*round).step(done),
            Self::Held { round, done } => out.u8(3).u64(*round).step(done),
            Self::Marked { round, done } => {
                out.u8(4).u64(*round);
                match done {
                    Ok(marked) => out
                        .u8(1)
                        .id(marked.point)
                        .u64(marked.sequence.0)
                        .u64(marked.time.0.cast_unsigned()),
                    Err(reason) => out.u8(0).text(reason),
                }
            }
            Self::Sealed { round, held_us, done } => out.u8(5).u64(*round).u32(*held_us).step(done),
            Self::Committed { round } => out.u8(6).u64(*round),
            Self::Pong => out.u8(7),
            Self::Leave => out.u8(8),
        };
        out.frame()
    }

    pub(crate) fn decode(frame: &[u8]) -> Result<Self> {
        let mut from = Decoder { bytes: frame, at: 0 };
        let message = match from.u8()? {
            1 => Self::Hello { protocol: from.u16()?, group: from.text()?, volume: from.text()? },
            2 => Self::Prepared { round: from.u64()?, done: from.step()? },
            3 => Self::Held { round: from.u64()?, done: from.step()? },
            4 => Self::Marked { round: from.u64()?, done: from.marked()? },
            5 => Self::Sealed { round: from.u64()?, held_us: from.u32()?, done: from.step()? },
            6 => Self::Committed { round: from.u64()? },
            7 => Self::Pong,
            8 => Self::Leave,
            other => return Err(from.bad("a code from 1 to 8", other)),
        };
        from.end()?;
        Ok(message)
    }
}

/// Takes the first whole frame off `received`, if there is one. `InvalidInput` when it would be longer than allowed.
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

#[derive(Default)]
struct Encoder(Vec<u8>);

impl Encoder {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn id(&mut self, id: PointId) -> &mut Self {
        self.bytes(&id.0)
    }

    fn text(&mut self, text: &str) -> &mut Self {
        let fits = |end: &usize| text.is_char_boundary(*end);
        let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(fits).unwrap_or(0);
        let text = &text[..end];
        self.u16(text.len() as u16).bytes(text.as_bytes())
    }

    fn step(&mut self, done: &Step) -> &mut Self {
        match done {
            Ok(()) => self.u8(1).text(""),
            Err(reason) => self.u8(0).text(reason),
        }
    }

    fn frame(&self) -> Vec<u8> {
        let mut frame = (self.0.len() as u32).to_le_bytes().to_vec();
        frame.extend_from_slice(&self.0);
        frame
    }
}

struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Decoder<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(bytes) = rest.first_chunk::<N>() else {
            return Err(self.bad(&format!("{N} bytes more"), rest.len()));
        };
        self.at += N;
        Ok(*bytes)
    }

    fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn id(&mut self) -> Result<PointId> {
        self.array().map(PointId)
    }

    fn flag(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.bad("0 or 1", other)),
        }
    }

    fn text(&mut self) -> Result<String> {
        let length = usize::from(self.u16()?);
        let end = self.at.saturating_add(length);
        let Some(bytes) = self.bytes.get(self.at..end).filter(|_| length <= TEXT_BYTES_MAX) else {
            return Err(self.bad(
                &format!("a text of at most {TEXT_BYTES_MAX} bytes, within the frame"),
                format!("{length} bytes"),
            ));
        };
        let text = std::str::from_utf8(bytes).map_err(|_| self.bad("UTF-8", "other bytes"))?;
        self.at = end;
        Ok(text.to_owned())
    }

    fn step(&mut self) -> Result<Step> {
        let good = self.flag()?;
        let reason = self.text()?;
        Ok(if good { Ok(()) } else { Err(reason) })
    }

    fn marked(&mut self) -> Result<Step<Marked>> {
        if !self.flag()? {
            return self.text().map(Err);
        }
        Ok(Ok(Marked {
            point: self.id()?,
            sequence: Sequence(self.u64()?),
            time: Timestamp(self.u64()?.cast_signed()),
        }))
    }

    fn end(&self) -> Result<()> {
        if self.at == self.bytes.len() {
            return Ok(());
        }
        Err(self
            .bad("the end of the message", format!("{} bytes more", self.bytes.len() - self.at)))
    }

    fn bad(&self, expected: &str, found: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::InvalidInput, "read message of", "group")
            .at(self.at as u64)
            .expected(expected)
            .found(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![Just(Ok(())), ".{0,20}".prop_map(Err)]
    }

    fn to_member() -> impl Strategy<Value = ToMember> {
        let id = || any::<[u8; 16]>().prop_map(PointId);
        prop_oneof![
            any::<u32>().prop_map(|budget_us| ToMember::Welcome { budget_us }),
            ".{0,40}".prop_map(|reason| ToMember::Refused { reason }),
            any::<(u64, u32)>().prop_map(|(round, limit_ms)| ToMember::Prepare { round, limit_ms }),
            any::<u64>().prop_map(|round| ToMember::Hold { round }),
            (any::<u64>(), id(), any::<bool>(), ".{0,40}").prop_map(
                |(round, group, app, label)| { ToMember::Mark { round, group, app, label } }
            ),
            any::<u64>().prop_map(|round| ToMember::Release { round }),
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
            (any::<u64>(), step()).prop_map(|(round, done)| ToCoordinator::Held { round, done }),
            (any::<u64>(), marked).prop_map(|(round, done)| ToCoordinator::Marked { round, done }),
            (any::<u64>(), any::<u32>(), step()).prop_map(|(round, held_us, done)| {
                ToCoordinator::Sealed { round, held_us, done }
            }),
            any::<u64>().prop_map(|round| ToCoordinator::Committed { round }),
            Just(ToCoordinator::Pong),
            Just(ToCoordinator::Leave),
        ]
    }

    proptest! {
        #[test]
        fn messages_come_back_as_they_went(a in to_member(), b in to_coordinator()) {
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
        fn any_bytes_are_a_message_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..80)) {
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

    /// The bytes of every message, which older members and coordinators understand.
    #[test]
    fn messages_have_the_bytes_that_they_always_had() {
        let group = PointId(std::array::from_fn(|at| at as u8));
        let marked = Marked { point: group, sequence: Sequence(9), time: Timestamp(-2) };
        let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let to_member = [
            (ToMember::Welcome { budget_us: 300_000 }, "0500000001e0930400"),
            (ToMember::Refused { reason: "full".into() }, "0700000002040066756c6c"),
            (ToMember::Prepare { round: 7, limit_ms: 5000 }, "0d00000003070000000000000088130000"),
            (ToMember::Hold { round: 7 }, "09000000040700000000000000"),
            (
                ToMember::Mark { round: 7, group, app: true, label: "ä".into() },
                "1e000000050700000000000000000102030405060708090a0b0c0d0e0f010200c3a4",
            ),
            (ToMember::Release { round: 7 }, "09000000060700000000000000"),
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
                ToCoordinator::Held { round: 7, done: Err("late".into()) },
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
                ToCoordinator::Sealed { round: 7, held_us: 1500, done: Ok(()) },
                "10000000050700000000000000dc050000010000",
            ),
            (ToCoordinator::Committed { round: 7 }, "09000000060700000000000000"),
            (ToCoordinator::Pong, "0100000007"),
            (ToCoordinator::Leave, "0100000008"),
        ];
        for (message, bytes) in to_member {
            assert_eq!(hex(message.encode()), bytes, "{message:?}");
        }
        for (message, bytes) in to_coordinator {
            assert_eq!(hex(message.encode()), bytes, "{message:?}");
        }
    }
}
