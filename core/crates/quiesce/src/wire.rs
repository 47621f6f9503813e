//! Messages between agent and watchdog: lines of a word and a text, over a socket pair.
//!
//! The agent sends `hrl-watchdog 1`, `volume`, `label`, `limit` (milliseconds), one `provider` for
//! each application, and `start`. After `ready` it sends `quiesce`, and in the end `release`.
//!
//! The watchdog sends `ready`, `taking N` before it quiesces provider N, `quiesced`, `failed` with
//! an error's kind and sentence, `expired` with its current provider *before* it releases at the
//! limit, and `released` with the microseconds since the first was quiesced. When a process ends,
//! its socket closes, which the peer notices.

use std::io::{ErrorKind as Os, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hrl::{Error, ErrorKind, Result};

/// The first line, with the version.
pub(crate) const GREETING: (&str, &str) = ("hrl-watchdog", "1");
/// Longest line.
const LINE_BYTES_MAX: usize = 64 << 10;
/// How long a line may wait to be accepted.
const SEND_LIMIT: Duration = Duration::from_millis(500);

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub word: String,
    pub text: String,
}

/// One end of the socket pair.
pub(crate) struct Channel {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Channel {
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_write_timeout(Some(SEND_LIMIT)).map_err(|error| failed("open", error))?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Returns a second handle, for sending.
    pub(crate) fn sender(&self) -> Result<Self> {
        Self::new(self.stream.try_clone().map_err(|error| failed("open", error))?)
    }

    pub(crate) fn send(&mut self, word: &str, text: &str) -> Result<()> {
        let line = encode(word, text);
        if line.len() > LINE_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, "send to the watchdog", word)
                .expected(format_args!("at most {LINE_BYTES_MAX} bytes"))
                .found(line.len()));
        }
        self.stream.write_all(line.as_bytes()).map_err(|error| failed("write to", error))
    }

    /// Returns the next line; `None` if none came within `limit` (without one, waits forever).
    /// Fails if the peer is gone.
    pub(crate) fn receive(&mut self, limit: Option<Duration>) -> Result<Option<Message>> {
        let limit = limit.map(|limit| limit.max(Duration::from_millis(1)));
        self.stream.set_read_timeout(limit).map_err(|error| failed("read from", error))?;
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return decode(&line[..end]).map(Some);
            }
            if self.received.len() >= LINE_BYTES_MAX {
                return Err(gone().expected("a line").found("more bytes than a line has"));
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(gone()),
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == Os::Interrupted => {}
                Err(error) if matches!(error.kind(), Os::WouldBlock | Os::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(failed("read from", error)),
            }
        }
    }

    /// Returns whether the peer is connected and has sent nothing. Never waits.
    pub(crate) fn is_silent(&self) -> bool {
        use rustix::net::{RecvFlags, recv};
        let mut byte = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let found = recv(&self.stream, &mut byte, flags);
        self.received.is_empty() && matches!(found, Err(rustix::io::Errno::AGAIN))
    }
}

fn encode(word: &str, text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\n', "\\n");
    format!("{word} {escaped}\n")
}

/// Decodes a line of agent or watchdog and encodes it again, without its end. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn reprint_watchdog_line(line: &[u8]) -> Result<String> {
    let message = decode(line)?;
    let mut line = encode(&message.word, &message.text);
    line.pop();
    Ok(line)
}

fn decode(line: &[u8]) -> Result<Message> {
    let line =
        std::str::from_utf8(line).map_err(|error| gone().expected("UTF-8").caused_by(error))?;
    let (word, escaped) = line.split_once(' ').unwrap_or((line, ""));
    let mut text = String::with_capacity(escaped.len());
    let mut characters = escaped.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.push(if characters.next() == Some('n') { '\n' } else { '\\' }),
            other => text.push(other),
        }
    }
    Ok(Message { word: word.to_owned(), text })
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "receive from", "the other side of the watchdog's socket")
}

fn failed(operation: &'static str, error: std::io::Error) -> Error {
    Error::io(operation, "the watchdog's socket", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> (Channel, Channel) {
        let (a, b) = UnixStream::pair().expect("pair");
        (Channel::new(a).expect("channel"), Channel::new(b).expect("channel"))
    }

    proptest! {
        #[test]
        fn any_text_arrives_as_it_was(texts in proptest::collection::vec(".{0,200}", 1..8)) {
            let (mut a, mut b) = pair();
            for text in &texts {
                a.send("word", text).expect("send");
            }
            for text in &texts {
                let message = b.receive(None).expect("receive").expect("message");
                prop_assert_eq!((message.word.as_str(), &message.text), ("word", text));
            }
        }

        #[test]
        fn promise_11_any_bytes_are_messages_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let (mut a, mut b) = pair();
            a.stream.write_all(&bytes).expect("write");
            drop(a);
            while b.receive(None).is_ok() {}
        }
    }

    #[test]
    fn a_word_and_the_peers_end_break_the_silence() {
        let (mut a, b) = pair();
        assert!(b.is_silent());
        a.send("expired", "").expect("send");
        assert!(!b.is_silent());
        let (a, b) = pair();
        drop(a);
        assert!(!b.is_silent());
    }

    #[test]
    fn promise_12_an_endless_line_is_refused() {
        let (mut a, mut b) = pair();
        let feeder = std::thread::spawn(move || while a.stream.write_all(&[b'x'; 4096]).is_ok() {});
        assert!(b.receive(None).is_err());
        drop(b);
        feeder.join().expect("feeder");
    }
}
