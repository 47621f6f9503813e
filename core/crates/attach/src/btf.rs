//! The kernel's description of its own types: offsets of fields, and ids of tracepoints.
//!
//! The format is that of `Documentation/bpf/btf.rst`. A field inside an anonymous struct or union
//! counts as a field of the one around it, as in C.

use std::collections::HashMap;

use hrl::{Error, ErrorKind, Result};

pub(crate) const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const TYPE_BYTES: usize = 12;

const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;

/// A struct, union or typedef.
struct Type {
    kind: u32,
    kind_flag: bool,
    members: usize,
    /// Where its members begin.
    at: usize,
}

/// The types of a kernel.
pub(crate) struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    types: HashMap<u32, Type>,
    names: HashMap<(u32, String), u32>,
}

impl Btf {
    /// Reads the types of the running kernel. `Unsupported` if it does not have them.
    pub(crate) fn of_kernel() -> Result<Self> {
        let bytes = std::fs::read(PATH).map_err(|error| {
            Error::io("read types of the kernel", PATH, error)
                .message("a kernel built with CONFIG_DEBUG_INFO_BTF is needed, 5.12 or newer")
        })?;
        Self::parse(bytes).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "read types of the kernel", PATH)
                .expected("BTF of version 1")
                .found("something else")
        })
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let header = |at: usize| read(&bytes, at).map(|value| value as usize);
        if u16::from_le_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let start = header(4)?;
        let (mut at, end) = (start + header(8)?, start + header(8)? + header(12)?);
        let strings = start + header(16)?;
        let mut found = Self { strings, types: HashMap::new(), names: HashMap::new(), bytes };
        let mut id = 1;
        while at < end {
            let (name, info) = (read(&found.bytes, at)?, read(&found.bytes, at + 4)?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let next = at + TYPE_BYTES;
            if matches!(kind, STRUCT | UNION | TYPEDEF) {
                let name = found.text(name)?.to_owned();
                found.names.entry((kind, name)).or_insert(id);
                let kind_flag = info >> 31 == 1;
                found.types.insert(id, Type { kind, kind_flag, members: count, at: next });
            }
            at = next
                + match kind {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    STRUCT | UNION | 15 | 19 => 12 * count,
                    6 | 13 => 8 * count,
                    _ => 0,
                };
            id += 1;
        }
        Some(found)
    }

    /// Returns the id of the type that programs on a tracepoint are attached to.
    pub(crate) fn tracepoint(&self, name: &str) -> Result<u32> {
        let wanted = format!("btf_trace_{name}");
        self.names.get(&(TYPEDEF, wanted)).copied().ok_or_else(|| missing("tracepoint", name))
    }

    /// Returns the offset in bytes of a struct's field; `None` if it has no such field.
    pub(crate) fn offset_if(&self, of: &str, field: &str) -> Option<i16> {
        let id = self.names.get(&(STRUCT, of.to_owned()))?;
        self.bits(*id, field).and_then(|bits| i16::try_from(bits / 8).ok())
    }

    /// Returns the offset in bytes of a struct's field.
    pub(crate) fn offset(&self, of: &str, field: &str) -> Result<i16> {
        self.offset_if(of, field).ok_or_else(|| missing("field", &format!("{of}.{field}")))
    }

    fn bits(&self, id: u32, field: &str) -> Option<u32> {
        let of = self.types.get(&id).filter(|of| of.kind != TYPEDEF)?;
        (0..of.members).find_map(|number| {
            let at = of.at + 12 * number;
            let part = |more: usize| read(&self.bytes, at + more);
            let offset = if of.kind_flag { part(8)? & 0x00ff_ffff } else { part(8)? };
            match self.text(part(0)?)? {
                name if name == field => Some(offset),
                "" => self.bits(part(4)?, field).map(|inner| offset + inner),
                _ => None,
            }
        })
    }

    fn text(&self, offset: u32) -> Option<&str> {
        let bytes = self.bytes.get(self.strings + offset as usize..)?;
        std::str::from_utf8(&bytes[..bytes.iter().position(|byte| *byte == 0)?]).ok()
    }
}

fn read(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn missing(what: &str, name: &str) -> Error {
    Error::new(ErrorKind::Unsupported, "find in types of the kernel", PATH)
        .expected(format_args!("the {what} {name}"))
        .found("none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_types_are_refused() {
        assert!(Btf::parse(Vec::new()).is_none());
        assert!(Btf::parse(b"\x9f\xeb\x01\0\xff\xff\xff\xff".to_vec()).is_none());
        assert!(Btf::parse(vec![0; 64]).is_none());
    }

    #[test]
    fn this_kernel_describes_its_requests() {
        let Ok(btf) = Btf::of_kernel() else { return };
        assert!(btf.tracepoint("block_rq_issue").is_ok());
        assert!(btf.offset("request", "__sector").expect("a field") > 0);
        assert!(btf.offset("request", "no such field").is_err());
    }
}
