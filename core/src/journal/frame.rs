//! Reads frames of a segment: checks, decrypts and decompresses them.
//!
//! A frame is returned only if its checksum, its number and (with a key) its tag are right. Its
//! records are checked when they are decoded.

use std::borrow::Cow;
use std::fmt;

use super::cipher::SegmentCipher;
use super::format::{
    Aead, Codec, Descriptor, EXTENT_RECORDS_MAX, FRAME_HEADER_BYTES, FRAME_RAW_BYTES_MAX,
    FrameHeader, FrameKind, HEADER_BYTES, Header, IndexEntry, RECORD_BYTES,
};
use super::source::SegmentSource;
use super::{KeyRing, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{KeyId, Sequence};

/// A decoded frame.
pub struct Frame {
    pub(super) header: FrameHeader,
    /// The header as stored.
    pub(super) head: [u8; FRAME_HEADER_BYTES],
    pub(super) raw: Vec<u8>,
    device_bytes: u64,
    name: String,
    at: u64,
}

impl Frame {
    /// Decodes the records, in order.
    pub fn records(&self) -> impl Iterator<Item = Result<Record<'_>>> + '_ {
        self.descriptors().map(|item| {
            let (descriptor, data_at) = item?;
            let data = &self.data()[data_at..data_at + descriptor.data_bytes as usize];
            descriptor.record(data, &self.name, self.at)
        })
    }

    /// Returns the data area, as index entries address it.
    pub fn data(&self) -> &[u8] {
        &self.raw[..self.raw.len() - self.table_bytes()]
    }

    /// Returns data from an offset on that an index entry names; `Corrupt` if the frame does not
    /// contain it.
    pub fn data_at(&self, data_offset: u32, length: usize) -> Result<&[u8]> {
        let start = data_offset as usize;
        let found = start.checked_add(length).and_then(|end| self.data().get(start..end));
        found.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "read frame of", &self.name)
                .at(self.at)
                .expected(format_args!("{length} bytes at {start} of its data"))
                .found(format_args!("{} bytes of data", self.data().len()))
        })
    }

    /// Returns the memory that the frame takes, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.raw.capacity() + size_of::<Self>()
    }

    /// Decodes the descriptors of the records, each with the checked place of its data in the data
    /// area.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = Result<(Descriptor, usize)>> + '_ {
        let data_bytes = self.data().len();
        let mut next = 0;
        self.raw[data_bytes..].chunks_exact(RECORD_BYTES).map(move |bytes| {
            let descriptor = Descriptor::decode(bytes, self.device_bytes, &self.name, self.at)?;
            let start = next;
            next += descriptor.data_bytes as usize;
            if next > data_bytes {
                return Err(Error::new(ErrorKind::Corrupt, "read frame of", &self.name)
                    .at(self.at)
                    .expected(format_args!("data up to {next}"))
                    .found(format_args!("{data_bytes} bytes of data")));
            }
            Ok((descriptor, start))
        })
    }

    /// Adds index entries of the records whose sequence is `wanted`; `Corrupt` if they are more
    /// than a segment may contain.
    pub(super) fn collect(
        &self,
        wanted: impl Fn(Sequence) -> bool,
        pieces: &mut Vec<IndexEntry>,
    ) -> Result<()> {
        for item in self.descriptors() {
            let (descriptor, data_at) = item?;
            if let Some(kind) = descriptor.index_kind().filter(|_| wanted(descriptor.sequence)) {
                if pieces.len() as u64 >= EXTENT_RECORDS_MAX {
                    return Err(Error::new(ErrorKind::Corrupt, "read frame of", &self.name)
                        .at(self.at)
                        .expected(format_args!("at most {EXTENT_RECORDS_MAX} changes in a segment"))
                        .found("more"));
                }
                pieces.push(IndexEntry {
                    extent: descriptor.extent,
                    kind,
                    sequence: descriptor.sequence,
                    frame: self.header.number,
                    data_offset: data_at as u32,
                });
            }
        }
        Ok(())
    }

    fn table_bytes(&self) -> usize {
        match self.header.kind {
            FrameKind::Data => self.header.count as usize * RECORD_BYTES,
            FrameKind::Index | FrameKind::Notes => 0,
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} of {})", self.header.number, self.name)
    }
}

/// Reads and decrypts the frames of one segment.
pub(super) struct Opener {
    cipher: Option<SegmentCipher>,
    pub(super) key_id: Option<KeyId>,
    codec: Codec,
    device_bytes: u64,
}

impl Opener {
    /// Reads the header and finds the key.
    pub(super) fn open(source: &dyn SegmentSource, keys: &KeyRing) -> Result<(Self, Header)> {
        let name = source.name();
        let bytes = source.read(0..source.length().min(HEADER_BYTES as u64))?;
        let header = Header::decode(&bytes, &name)?;
        let (codec, device_bytes) = (header.codec, header.device_bytes);
        let opener = match header.aead {
            Aead::None => Self { cipher: None, key_id: None, codec, device_bytes },
            aead => {
                let key =
                    keys.find(header.key_id).ok_or_else(|| {
                        let newest = keys.newest();
                        Error::new(ErrorKind::WrongKey, "open segment", &name)
                            .expected(format_args!("key {}", header.key_id))
                            .found(newest.map_or_else(
                                || "no key".to_owned(),
                                |key| format!("key {}", key.id()),
                            ))
                    })?;
                let cipher = SegmentCipher::new(&key, &bytes, aead);
                Self { cipher, key_id: Some(header.key_id), codec, device_bytes }
            }
        };
        Ok((opener, header))
    }

    /// Reads frame `number`, which begins at `at`. If `end` is known, one read suffices instead of
    /// two. Returns the frame and the place after it.
    pub(super) fn read_frame(
        &self,
        source: &dyn SegmentSource,
        at: u64,
        end: Option<u64>,
        number: u32,
    ) -> Result<(Frame, u64)> {
        let name = source.name();
        let content_at = at.saturating_add(FRAME_HEADER_BYTES as u64);
        let end = if let Some(end) = end {
            end
        } else {
            let header = FrameHeader::decode(&source.read(at..content_at)?, &name, at)?;
            content_at.saturating_add(u64::from(header.stored_bytes))
        };
        let bad = |at: u64| Error::new(ErrorKind::Corrupt, "read segment", &name).at(at);
        if end.saturating_sub(content_at) > FRAME_RAW_BYTES_MAX as u64 {
            return Err(bad(at)
                .expected(format_args!("a frame of at most {FRAME_RAW_BYTES_MAX} bytes"))
                .found(format_args!("one that ends at {end}")));
        }
        let whole = source.read(at..end)?;
        let header = FrameHeader::decode(&whole, &name, at)?;
        let (head, stored) = whole.split_at(FRAME_HEADER_BYTES);
        if stored.len() != header.stored_bytes as usize {
            return Err(bad(at + 12)
                .expected(format_args!("a frame of {} bytes", stored.len()))
                .found(header.stored_bytes));
        }
        FrameHeader::check_content(head, stored, &name, at)?;
        if header.number != number {
            return Err(bad(at)
                .expected(format_args!("frame {number}"))
                .found(format_args!("frame {}", header.number)));
        }
        if header.codec == Codec::Zstd && self.codec == Codec::Stored {
            return Err(bad(at + 9).expected("no compression, as the header says").found("zstd"));
        }
        let head = head.try_into().expect("split at its length");
        let next = at + whole.len() as u64;
        let raw = self.decode(&header, whole, &name, at)?;
        let table = u64::from(header.count) * RECORD_BYTES as u64;
        if header.kind == FrameKind::Data && table > raw.len() as u64 {
            return Err(bad(at + 20)
                .expected(format_args!("{} records", header.count))
                .found(format_args!("{} bytes", raw.len())));
        }
        let device_bytes = self.device_bytes;
        Ok((Frame { header, head, raw, device_bytes, name, at }, next))
    }

    /// Returns whether `tag` authenticates `aad` in the place `number`; without a key it must be
    /// zero.
    pub(super) fn authenticates(&self, number: u32, aad: &[u8], tag: &[u8; 16]) -> bool {
        match &self.cipher {
            Some(cipher) => cipher.decrypt(number, aad, &mut [], tag),
            None => *tag == [0; 16],
        }
    }

    /// Returns the content of a frame before it was compressed and encrypted. `whole` has its
    /// header, too.
    fn decode(
        &self,
        header: &FrameHeader,
        whole: Cow<'_, [u8]>,
        name: &str,
        at: u64,
    ) -> Result<Vec<u8>> {
        let bad = || Error::new(ErrorKind::Corrupt, "read segment", name).at(at);
        let plain = match &self.cipher {
            None if header.tag != [0; 16] => {
                return Err(bad().expected("no tag, as nothing is encrypted").found("one"));
            }
            None if header.codec == Codec::Stored => return Ok(content_of(whole)),
            None => whole,
            Some(cipher) => {
                let mut content = content_of(whole);
                if !cipher.decrypt(header.number, &header.encode_aad(), &mut content, &header.tag) {
                    return Err(bad().expected("the frame that was written here").found(
                        "another: the frame, its place or the segment's header was altered",
                    ));
                }
                if header.codec == Codec::Stored {
                    return Ok(content);
                }
                Cow::Owned(content)
            }
        };
        let skipped = if self.cipher.is_some() { 0 } else { FRAME_HEADER_BYTES };
        let raw = zstd::bulk::decompress(&plain[skipped..], header.raw_bytes as usize)
            .map_err(|error| bad().message("the frame does not decompress").caused_by(error))?;
        if raw.len() != header.raw_bytes as usize {
            return Err(bad()
                .expected(format_args!("{} bytes", header.raw_bytes))
                .found(raw.len()));
        }
        Ok(raw)
    }
}

/// Returns the content of a frame that was read with its header.
fn content_of(whole: Cow<'_, [u8]>) -> Vec<u8> {
    match whole {
        Cow::Borrowed(whole) => whole[FRAME_HEADER_BYTES..].to_vec(),
        Cow::Owned(mut whole) => {
            whole.drain(..FRAME_HEADER_BYTES);
            whole
        }
    }
}

/// Makes the error of a sound frame of the wrong kind.
pub(super) fn misplaced(name: &str, at: u64, expected: FrameKind, found: &FrameHeader) -> Error {
    Error::new(ErrorKind::Corrupt, "read segment", name)
        .at(at)
        .expected(format_args!("a frame of kind {expected:?}"))
        .found(format_args!("kind {:?}, frame {}", found.kind, found.number))
}
