//! Reads and writes bytes: a bounded cursor for every binary format, hexadecimal and percent
//! decoding.
//!
//! [`Reader`] is total: any bytes give a value or an [`Error`] that identifies the object and the
//! offset in it. It allocates nothing before a length was compared with the bytes that are there
//! and with the format's limit. [`Writer`] adds the matching values to a `Vec<u8>`. Names end in
//! `_le` or `_be`, so that each format shows its byte order. Layouts stay with their formats: this
//! module knows no structure.
#![doc = include_str!("bytes.md")]

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// A bounded cursor over the bytes of an object.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    next: usize,
    /// Where the value that was read last begins.
    last: usize,
    base: u64,
    kind: ErrorKind,
    operation: &'static str,
    object: &'a str,
}

macro_rules! integers {
    ($($name:ident, $put:ident, $type:ty, $from:ident, $to:ident, $order:literal;)*) => {
        /// Integers.
        impl Reader<'_> {
            $(
                #[doc = concat!("Reads a `", stringify!($type), "`, ", $order, ".")]
                #[inline]
                pub fn $name(&mut self) -> Result<$type> {
                    Ok(<$type>::$from(self.array()?))
                }
            )*
        }

        /// Appends values to a `Vec<u8>`; calls can be chained.
        pub trait Writer: sealed::Sealed {
            /// Appends bytes as they are.
            fn put_bytes(&mut self, bytes: &[u8]) -> &mut Self;

            /// Appends zeroes.
            fn put_zeroes(&mut self, count: usize) -> &mut Self;

            /// Appends the CRC-32, little-endian, of all bytes so far.
            fn put_crc32_le(&mut self) -> &mut Self;

            /// Appends one byte.
            #[inline]
            fn put_u8(&mut self, value: u8) -> &mut Self {
                self.put_bytes(&[value])
            }

            $(
                #[doc = concat!("Appends a `", stringify!($type), "`, ", $order, ".")]
                #[inline]
                fn $put(&mut self, value: $type) -> &mut Self {
                    self.put_bytes(&value.$to())
                }
            )*
        }
    };
}

integers! {
    u16_le, put_u16_le, u16, from_le_bytes, to_le_bytes, "little-endian";
    u32_le, put_u32_le, u32, from_le_bytes, to_le_bytes, "little-endian";
    u64_le, put_u64_le, u64, from_le_bytes, to_le_bytes, "little-endian";
    i64_le, put_i64_le, i64, from_le_bytes, to_le_bytes, "little-endian";
    u16_be, put_u16_be, u16, from_be_bytes, to_be_bytes, "big-endian";
    u32_be, put_u32_be, u32, from_be_bytes, to_be_bytes, "big-endian";
    u64_be, put_u64_be, u64, from_be_bytes, to_be_bytes, "big-endian";
}

impl<'a> Reader<'a> {
    /// Starts at the first byte. Errors are [`ErrorKind::Corrupt`] and say that `operation` (such
    /// as "read catalog") failed on `object` (its name).
    pub fn new(bytes: &'a [u8], operation: &'static str, object: &'a str) -> Self {
        Self { bytes, next: 0, last: 0, base: 0, kind: ErrorKind::Corrupt, operation, object }
    }

    /// Sets the offset in the object at which the bytes begin; errors add it. Default: 0.
    #[must_use]
    pub fn at_offset(self, base: u64) -> Self {
        Self { base, ..self }
    }

    /// Sets the kind of the errors, for bytes that were never stored. Default:
    /// [`ErrorKind::Corrupt`].
    #[must_use]
    pub fn failing_as(self, kind: ErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// Returns the number of bytes that were read.
    #[inline]
    pub fn position(&self) -> usize {
        self.next
    }

    /// Returns the bytes that were not read yet.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.next..]
    }

    /// Reads `length` bytes.
    #[inline]
    pub fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        self.last = self.next;
        let Some(taken) = self.rest().get(..length) else {
            return Err(self.too_short(length));
        };
        self.next += length;
        Ok(taken)
    }

    /// Reads an array, such as an identity or a hash.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.last = self.next;
        let Some(array) = self.rest().first_chunk() else {
            return Err(self.too_short(N));
        };
        self.next += N;
        Ok(*array)
    }

    /// Reads one byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8> {
        self.array().map(|[byte]| byte)
    }

    /// Reads a byte that is 0 or 1.
    pub fn flag(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.invalid("0 or 1", other)),
        }
    }

    /// Reads UTF-8 of `length` bytes, at most `length_max`. Copies nothing.
    pub fn text(&mut self, length: usize, length_max: usize) -> Result<&'a str> {
        if length > length_max {
            let expected = format_args!("a text of at most {length_max} bytes");
            return Err(self.invalid(expected, length));
        }
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|_| self.invalid("UTF-8", "other bytes"))
    }

    /// Checks a count of entries that was read last. Each takes at least `entry_bytes_min` bytes
    /// (not zero), so a count beyond the bytes that are left is refused before anything is
    /// allocated for it.
    pub fn count(&self, count: u32, entry_bytes_min: usize) -> Result<usize> {
        let possible = self.rest().len() / entry_bytes_min.max(1);
        match usize::try_from(count) {
            Ok(count) if count <= possible => Ok(count),
            _ => Err(self.invalid(format_args!("at most {possible} entries"), count)),
        }
    }

    /// Reads the bytes that every object of a format begins with.
    pub fn magic(&mut self, magic: &[u8]) -> Result<()> {
        let found = self.take(magic.len())?;
        if found == magic {
            return Ok(());
        }
        Err(self.invalid(
            format_args!("magic {}", magic.escape_ascii()),
            format_args!("{}", found.escape_ascii()),
        ))
    }

    /// Reads `length` reserved bytes, which must be zero.
    pub fn zeroes(&mut self, length: usize) -> Result<()> {
        let bytes = self.take(length)?;
        let Some(at) = bytes.iter().position(|byte| *byte != 0) else { return Ok(()) };
        self.last += at;
        Err(self.invalid("zero in a reserved field", bytes[at]))
    }

    /// Reads a CRC-32, little-endian, and compares it with that of all bytes before it.
    pub fn crc32_le(&mut self) -> Result<()> {
        let expected = crc32fast::hash(&self.bytes[..self.next]);
        let found = self.u32_le()?;
        self.checksum(expected, found)
    }

    /// Compares the checksum that was read last with the one computed.
    pub fn checksum(&self, expected: u32, found: u32) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        Err(self.invalid(format_args!("checksum {expected:#010x}"), format_args!("{found:#010x}")))
    }

    /// Checks that every byte was read.
    pub fn end(&self) -> Result<()> {
        let left = self.rest().len();
        if left == 0 {
            return Ok(());
        }
        Err(self.error(self.next).expected("the end").found(format_args!("{left} more bytes")))
    }

    /// Returns an error about the value that was read last, at the offset where it begins.
    #[cold]
    pub fn invalid(&self, expected: impl fmt::Display, found: impl fmt::Display) -> Error {
        self.error(self.last).expected(expected).found(found)
    }

    #[cold]
    fn too_short(&self, length: usize) -> Error {
        let left = self.rest().len();
        self.invalid(format_args!("{length} more bytes"), left)
    }

    fn error(&self, at: usize) -> Error {
        Error::new(self.kind, self.operation, self.object).at(self.base.saturating_add(at as u64))
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for Vec<u8> {}
}

impl Writer for Vec<u8> {
    #[inline]
    fn put_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.extend_from_slice(bytes);
        self
    }

    #[inline]
    fn put_zeroes(&mut self, count: usize) -> &mut Self {
        self.resize(self.len() + count, 0);
        self
    }

    fn put_crc32_le(&mut self) -> &mut Self {
        let crc = crc32fast::hash(self);
        self.put_u32_le(crc)
    }
}

/// Overwrites the last four bytes with the CRC-32, little-endian, of the bytes before them. Leaves
/// fewer than four bytes as they are.
pub fn overwrite_crc32_le(bytes: &mut [u8]) {
    if let Some((checked, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32fast::hash(checked).to_le_bytes();
    }
}

/// Displays bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> impl fmt::Display + '_ {
    struct Hex<'a>(&'a [u8]);

    impl fmt::Display for Hex<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        }
    }

    Hex(bytes)
}

/// Parses exactly `2 * N` hexadecimal digits of either case; `None` if the text is anything else.
pub fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    parse_hex_vec(text)?.try_into().ok()
}

/// Parses an even number of hexadecimal digits of either case; `None` if the text is anything else.
pub fn parse_hex_vec(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|pair| hex_byte(*pair)).collect()
}

/// Resolves each `%XX` of a URL's part; `None` if digits are missing or the result is not UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' { hex_byte([rest.next()?, rest.next()?])? } else { byte });
    }
    String::from_utf8(bytes).ok()
}

fn hex_byte(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? << 4 | low?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reader(bytes: &[u8]) -> Reader<'_> {
        Reader::new(bytes, "read test", "object")
    }

    #[test]
    fn integers_have_the_byte_order_of_their_names() {
        let mut out = Vec::new();
        out.put_u8(1).put_u16_le(2).put_u16_be(3).put_u32_le(4).put_u32_be(5);
        out.put_u64_le(6).put_u64_be(7).put_i64_le(-8).put_zeroes(2);
        let expected: &[&[u8]] = &[
            &[1, 2, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0, 5],
            &[6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
            &[0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn errors_name_the_object_and_where_the_value_begins() {
        let mut from = reader(&[0, 0, 0, 2, 1, 0]).at_offset(100);
        from.zeroes(3).expect("zeroes");
        let error = from.flag().expect_err("2 is no flag");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.to_string(), reader_error("at offset 103: expected 0 or 1, found 2"));
        let error = from.clone().zeroes(2).expect_err("not zero");
        assert_eq!(error.place(), Some(104));
        let error = from.u32_le().expect_err("only two are left");
        assert_eq!(
            error.to_string(),
            reader_error("at offset 104: expected 4 more bytes, found 2")
        );
        assert_eq!(from.position(), 4);
        let error = from.failing_as(ErrorKind::InvalidInput).end().expect_err("two are left");
        assert_eq!((error.kind(), error.place()), (ErrorKind::InvalidInput, Some(104)));
    }

    fn reader_error(rest: &str) -> String {
        format!("cannot read test object {rest}")
    }

    #[test]
    fn a_count_is_bounded_by_the_bytes_left() {
        let mut from = reader(&[4, 0, 0, 0, 1, 1, 2, 2, 3, 3]);
        let count = from.u32_le().expect("there");
        assert_eq!(from.count(3, 2).expect("three entries of two bytes"), 3);
        assert_eq!(from.count(count, 2).expect_err("four do not fit").place(), Some(0));
        assert!(from.count(u32::MAX, 0).is_err());
    }

    #[test]
    fn texts_are_bounded_and_utf8() {
        assert_eq!(reader(b"abc").text(2, 2).expect("fits"), "ab");
        assert!(reader(b"abc").text(3, 2).is_err());
        assert!(reader(b"abc").text(4, 9).is_err());
        assert!(reader(b"\xff").text(1, 9).is_err());
    }

    #[test]
    fn a_checksum_covers_all_bytes_before_it() {
        let mut out = Vec::new();
        out.put_bytes(b"MAGIC").put_u64_le(7).put_crc32_le();
        let check = |bytes: &[u8]| {
            let mut from = reader(bytes);
            from.magic(b"MAGIC")?;
            from.u64_le()?;
            from.crc32_le()?;
            from.end()
        };
        check(&out).expect("as written");
        for at in 0..out.len() {
            let mut altered = out.clone();
            altered[at] ^= 1;
            assert!(check(&altered).is_err(), "byte {at}");
            assert!(check(&out[..at]).is_err(), "cut at {at}");
        }
        out[7] ^= 1;
        overwrite_crc32_le(&mut out);
        check(&out).expect("right again");
        overwrite_crc32_le(&mut out[..3]);
    }

    #[test]
    fn hexadecimal_digits_are_of_either_case_and_complete() {
        assert_eq!(parse_hex("00abCD"), Some([0, 0xab, 0xcd]));
        for text in ["00abc", "00abcg", "00abcde", "+0abcd", "äbcd"] {
            assert_eq!(parse_hex::<3>(text), None, "{text}");
        }
        assert_eq!(hex(&[0, 0xab, 0xcd]).to_string(), "00abcd");
    }

    #[test]
    fn percent_encoding_is_resolved_or_refused() {
        assert_eq!(percent_decode("a%26b%3f/%c3%A4").as_deref(), Some("a&b?/ä"));
        for text in ["%", "%2", "%zz", "%+1", "%ff"] {
            assert_eq!(percent_decode(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn encoded_bytes_are_decoded_to_the_same(bytes: [u8; 9], text: String) {
            prop_assert_eq!(parse_hex(&hex(&bytes).to_string()), Some(bytes));
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(percent_decode(&encoded), Some(text));
        }

        /// Promise 11: any bytes and any lengths give a value or an error, and the position stays
        /// within the bytes.
        #[test]
        fn any_bytes_give_a_value_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..40),
            steps in prop::collection::vec((0..11_u8, any::<u32>()), 0..20),
        ) {
            let mut from = reader(&bytes).at_offset(u64::MAX - 5);
            for (step, number) in steps {
                let before = from.position();
                let length = if number % 3 == 0 { number as usize } else { number as usize % 8 };
                let read = match step {
                    0 => from.u8().map(|_| 1),
                    1 => from.u16_be().map(|_| 2),
                    2 => from.u32_le().map(|_| 4),
                    3 => from.i64_le().map(|_| 8),
                    4 => from.array::<3>().map(|_| 3),
                    5 => from.take(length).map(<[u8]>::len),
                    6 => from.text(length, 5).map(str::len),
                    7 => from.flag().map(|_| 1),
                    8 => from.count(number, length).map(|_| 0),
                    9 => from.crc32_le().map(|()| 4),
                    _ => from.zeroes(length).map(|()| length),
                };
                match read {
                    Ok(length) => prop_assert_eq!(from.position(), before + length),
                    Err(error) => prop_assert!(error.place().is_some()),
                }
                prop_assert!(from.position() <= bytes.len());
                prop_assert_eq!(from.rest(), &bytes[from.position()..]);
            }
        }
    }
}
