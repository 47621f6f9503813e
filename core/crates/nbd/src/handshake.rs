//! The first half of a connection: options, until the client chooses an export.
//!
//! The time of the whole handshake, the length of an option and the number of options are limited.
//! A client that exceeds a limit is disconnected.

use std::io::{Read, Write};
use std::time::Duration;

use hrl::Clock;

use crate::Export;
use crate::service::{NbdLimits, Service};
use crate::stream::Stream;
use crate::wire::*;

/// Longest content of an option.
const OPTION_BYTES_MAX: u32 = 16 << 10;
/// Options that a client may send.
const OPTIONS_MAX: u32 = 256;
/// First number given to a context of an export; `base:allocation` is 1.
const FIRST_CONTEXT: u32 = 2;
pub(crate) const ALLOCATION_CONTEXT: u32 = 1;

/// The client's choices.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub export: usize,
    pub structured: bool,
    /// Numbers of the contexts that block status reports.
    pub contexts: Vec<u32>,
}

/// Whether a client reaches the exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "used with TLS only"))]
pub(crate) enum Security {
    /// It does; TLS is not offered.
    Plain,
    /// It does not before TLS.
    TlsRequired,
    /// It does, over TLS.
    Secured,
}

/// What was agreed before the options.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "used with TLS only"))]
pub(crate) struct Greeting {
    /// Time of the clock at which the whole handshake must be over.
    pub deadline: Duration,
    no_zeroes: bool,
}

/// How a handshake ended.
#[derive(Debug)]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "used with TLS only"))]
pub(crate) enum Outcome {
    /// The client chose an export.
    Chosen(Session),
    /// The client waits for TLS, in which options begin anew.
    StartTls(Greeting),
    /// The client left, or broke the protocol.
    Left,
}

/// Negotiates with a new client until it chooses an export or asks for TLS. `security` is not
/// `Secured` yet.
pub(crate) fn run(
    socket: &mut Stream,
    service: &Service,
    clock: &dyn Clock,
    security: Security,
) -> std::io::Result<Outcome> {
    let Service { exports, limits, .. } = service;
    let seconds = Duration::from_secs(limits.handshake_seconds_max.into());
    let deadline = clock.elapsed() + seconds;
    let mut peer = Peer { socket, clock, deadline, exports, limits, security };
    let Some(greeting) = peer.greet()? else { return Ok(Outcome::Left) };
    let outcome = peer.negotiate(greeting)?;
    socket.limit(None)?;
    Ok(outcome)
}

/// Continues over TLS. Options from before TLS are forgotten, as the protocol demands.
#[cfg(feature = "tls")]
pub(crate) fn resume(
    socket: &mut Stream,
    service: &Service,
    clock: &dyn Clock,
    greeting: Greeting,
) -> std::io::Result<Outcome> {
    let Service { exports, limits, .. } = service;
    let (deadline, security) = (greeting.deadline, Security::Secured);
    let outcome =
        Peer { socket, clock, deadline, exports, limits, security }.negotiate(greeting)?;
    socket.limit(None)?;
    Ok(outcome)
}

struct Peer<'a> {
    socket: &'a mut Stream,
    clock: &'a dyn Clock,
    deadline: Duration,
    exports: &'a [Export],
    limits: &'a NbdLimits,
    security: Security,
}

impl Peer<'_> {
    fn greet(&mut self) -> std::io::Result<Option<Greeting>> {
        let mut hello = Vec::new();
        hello.extend_from_slice(&NBD_MAGIC.to_be_bytes());
        hello.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        hello.extend_from_slice(&(HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES).to_be_bytes());
        self.socket.write_all(&hello)?;
        let flags = u32::from_be_bytes(self.read()?);
        if flags & !u32::from(HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES) != 0 {
            return Ok(None);
        }
        let no_zeroes = flags & u32::from(HANDSHAKE_NO_ZEROES) != 0;
        Ok(Some(Greeting { deadline: self.deadline, no_zeroes }))
    }

    fn negotiate(&mut self, greeting: Greeting) -> std::io::Result<Outcome> {
        let mut session = Session { export: 0, structured: false, contexts: Vec::new() };
        let mut contexts_of = None;
        for _ in 0..OPTIONS_MAX {
            let Some((option, content)) = self.option()? else { return Ok(Outcome::Left) };
            match option {
                OPT_ABORT => {
                    self.reply(option, REP_ACK, &[])?;
                    return Ok(Outcome::Left);
                }
                OPT_STARTTLS if self.security == Security::TlsRequired && content.is_empty() => {
                    self.reply(option, REP_ACK, &[])?;
                    return Ok(Outcome::StartTls(greeting));
                }
                OPT_STARTTLS if self.security != Security::Plain => {
                    self.reply(option, REP_ERR_INVALID, &[])?;
                }
                // The protocol can refuse this option only by ending the connection.
                OPT_EXPORT_NAME if self.security == Security::TlsRequired => {
                    return Ok(Outcome::Left);
                }
                _ if self.security == Security::TlsRequired => {
                    self.reply(option, REP_ERR_TLS_REQD, b"this server speaks TLS only")?;
                }
                OPT_EXPORT_NAME => {
                    let Some(export) = self.find(&content) else { return Ok(Outcome::Left) };
                    session.export = export;
                    if contexts_of != Some(export) {
                        session.contexts.clear();
                    }
                    self.send_export(&session, greeting.no_zeroes)?;
                    return Ok(Outcome::Chosen(session));
                }
                OPT_LIST if content.is_empty() => self.list(option)?,
                OPT_STRUCTURED_REPLY if content.is_empty() => {
                    session.structured = true;
                    self.reply(option, REP_ACK, &[])?;
                }
                OPT_INFO | OPT_GO => {
                    if let Some(export) = self.info(option, &content, session.structured)?
                        && option == OPT_GO
                    {
                        session.export = export;
                        if contexts_of != Some(export) {
                            session.contexts.clear();
                        }
                        return Ok(Outcome::Chosen(session));
                    }
                }
                OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => {
                    let answered = self.contexts(option, &content, session.structured)?;
                    if option == OPT_SET_META_CONTEXT {
                        // It replaces what was set before, even if it was refused.
                        contexts_of = answered.as_ref().map(|(export, _)| *export);
                        session.contexts = answered.map_or(Vec::new(), |(_, chosen)| chosen);
                    }
                }
                OPT_LIST | OPT_STRUCTURED_REPLY => self.reply(option, REP_ERR_INVALID, &[])?,
                _ => self.reply(option, REP_ERR_UNSUP, &[])?,
            }
        }
        Ok(Outcome::Left)
    }

    /// Reads the next option and its content. `None` if it is malformed or too long.
    fn option(&mut self) -> std::io::Result<Option<(u32, Vec<u8>)>> {
        if u64::from_be_bytes(self.read()?) != OPTION_MAGIC {
            return Ok(None);
        }
        let option = u32::from_be_bytes(self.read()?);
        let length = u32::from_be_bytes(self.read()?);
        if length > OPTION_BYTES_MAX {
            self.reply(option, REP_ERR_TOO_BIG, &[])?;
            return Ok(None);
        }
        let mut content = vec![0; length as usize];
        self.read_exact(&mut content)?;
        Ok(Some((option, content)))
    }

    fn read<const N: usize>(&mut self) -> std::io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn read_exact(&mut self, mut bytes: &mut [u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let left = self.deadline.saturating_sub(self.clock.elapsed());
            if left.is_zero() {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            self.socket.limit(Some(left.max(Duration::from_millis(1))))?;
            match self.socket.read(bytes) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => bytes = &mut bytes[count..],
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn reply(&mut self, option: u32, kind: u32, content: &[u8]) -> std::io::Result<()> {
        let mut bytes = Vec::with_capacity(20 + content.len());
        bytes.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        bytes.extend_from_slice(&option.to_be_bytes());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&(content.len() as u32).to_be_bytes());
        bytes.extend_from_slice(content);
        self.socket.write_all(&bytes)
    }

    /// Returns the index of the export with this name. The empty name is the first export.
    fn find(&self, name: &[u8]) -> Option<usize> {
        if let Some(at) = self.exports.iter().position(|export| export.name.as_bytes() == name) {
            return Some(at);
        }
        (name.is_empty() && !self.exports.is_empty()).then_some(0)
    }

    fn list(&mut self, option: u32) -> std::io::Result<()> {
        for export in self.exports {
            let mut content = (export.name.len() as u32).to_be_bytes().to_vec();
            content.extend_from_slice(export.name.as_bytes());
            self.reply(option, REP_SERVER, &content)?;
        }
        self.reply(option, REP_ACK, &[])
    }

    fn send_export(&mut self, session: &Session, no_zeroes: bool) -> std::io::Result<()> {
        let export = &self.exports[session.export];
        let mut bytes = export.backing().size_bytes().to_be_bytes().to_vec();
        bytes.extend_from_slice(&export.flags(session.structured).to_be_bytes());
        if !no_zeroes {
            bytes.extend_from_slice(&[0; 124]);
        }
        self.socket.write_all(&bytes)
    }

    /// Answers INFO or GO. Returns the export if it exists.
    fn info(
        &mut self,
        option: u32,
        content: &[u8],
        structured: bool,
    ) -> std::io::Result<Option<usize>> {
        let parsed = text(content).and_then(|(name, rest)| {
            let (count, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*count)) * 2 == rest.len()).then_some((name, rest))
        });
        let Some((name, wanted)) = parsed else {
            self.reply(option, REP_ERR_INVALID, &[])?;
            return Ok(None);
        };
        let Some(at) = self.find(name) else {
            self.reply(option, REP_ERR_UNKNOWN, b"no export of this name")?;
            return Ok(None);
        };
        let export = &self.exports[at];
        let asked = |info: u16| wanted.chunks_exact(2).any(|pair| pair == info.to_be_bytes());
        let mut info = INFO_EXPORT.to_be_bytes().to_vec();
        info.extend_from_slice(&export.backing().size_bytes().to_be_bytes());
        info.extend_from_slice(&export.flags(structured).to_be_bytes());
        self.reply(option, REP_INFO, &info)?;
        for (kind, text) in [(INFO_NAME, &export.name), (INFO_DESCRIPTION, &export.description)] {
            if asked(kind) {
                let mut info = kind.to_be_bytes().to_vec();
                info.extend_from_slice(text.as_bytes());
                self.reply(option, REP_INFO, &info)?;
            }
        }
        let mut info = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [1, 4096, self.limits.request_bytes_max] {
            info.extend_from_slice(&size.to_be_bytes());
        }
        self.reply(option, REP_INFO, &info)?;
        self.reply(option, REP_ACK, &[])?;
        Ok(Some(at))
    }

    /// Answers a query for contexts. Returns the export and the contexts that match.
    fn contexts(
        &mut self,
        option: u32,
        content: &[u8],
        structured: bool,
    ) -> std::io::Result<Option<(usize, Vec<u32>)>> {
        if !structured {
            self.reply(option, REP_ERR_INVALID, b"structured replies come first")?;
            return Ok(None);
        }
        let Some((name, mut rest)) = text(content) else {
            self.reply(option, REP_ERR_INVALID, &[])?;
            return Ok(None);
        };
        let Some(at) = self.find(name) else {
            self.reply(option, REP_ERR_UNKNOWN, b"no export of this name")?;
            return Ok(None);
        };
        let mut queries = Vec::new();
        let count = rest.split_first_chunk::<4>().map(|(count, after)| {
            rest = after;
            u32::from_be_bytes(*count)
        });
        while let Some((query, after)) = text(rest) {
            queries.push(query);
            rest = after;
        }
        if !rest.is_empty() || count.is_none_or(|count| count as usize != queries.len()) {
            self.reply(option, REP_ERR_INVALID, &[])?;
            return Ok(None);
        }
        let known: Vec<(u32, String)> =
            std::iter::once((ALLOCATION_CONTEXT, "base:allocation".to_owned()))
                .chain(
                    (FIRST_CONTEXT..).zip(self.exports[at].contexts.iter().map(|c| c.name.clone())),
                )
                .collect();
        let listing = option == OPT_LIST_META_CONTEXT;
        let fits = |name: &str| {
            (listing && queries.is_empty())
                || queries.iter().any(|query| {
                    *query == name.as_bytes()
                        || (listing && query.ends_with(b":") && name.as_bytes().starts_with(query))
                })
        };
        let mut chosen = Vec::new();
        for (number, name) in known.iter().filter(|(_, name)| fits(name)) {
            let mut content = if listing { 0 } else { *number }.to_be_bytes().to_vec();
            content.extend_from_slice(name.as_bytes());
            self.reply(option, REP_META_CONTEXT, &content)?;
            chosen.push(*number);
        }
        self.reply(option, REP_ACK, &[])?;
        Ok(Some((at, chosen)))
    }
}

/// Splits off a text that has its length before it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}
