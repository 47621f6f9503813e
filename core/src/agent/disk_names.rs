//! Finds the names that partition tables and file systems write into the first blocks of a disk.
//!
//! They name the content: a copy of a disk has them too, and formatting changes them.

use crate::bytes::hex;
use crate::device::BlockDevice;
use crate::error::Result;

/// Bytes at the start of a disk that all names are within.
const HEAD_BYTES: u64 = 68 << 10;

/// Kind, offset and bytes of the magic, offset and length of the disk's name.
type Format = (&'static str, usize, &'static [u8], usize, usize);

/// Sources: UEFI 2.10 section 5 (GPT, MBR), `ext4.h`, `xfs_format.h`, `btrfs_tree.h`, `md_p.h`,
/// `swap.h` of Linux, the LUKS2 on-disk format 1.1, and the boot sectors of NTFS and FAT32.
const FORMATS: &[Format] = &[
    ("mbr", 510, b"\x55\xaa", 440, 4),
    ("gpt", 512, b"EFI PART", 512 + 56, 16),
    ("gpt", 4096, b"EFI PART", 4096 + 56, 16),
    ("ext", 1024 + 56, b"\x53\xef", 1024 + 104, 16),
    ("xfs", 0, b"XFSB", 32, 16),
    ("btrfs", 65_536 + 64, b"_BHRfS_M", 65_536 + 32, 16),
    ("luks", 0, b"LUKS\xba\xbe", 168, 36),
    ("lvm", 512, b"LABELONE", 512 + 32, 32),
    ("md", 4096, b"\xfc\x4e\x2b\xa9", 4096 + 16, 16),
    ("swap", 4086, b"SWAPSPACE2", 1036, 16),
    ("ntfs", 3, b"NTFS    ", 72, 8),
    ("fat", 82, b"FAT32   ", 67, 4),
];

/// Returns the names in the content of a disk, as kind and value.
pub(super) fn names_in(device: &dyn BlockDevice) -> Result<Vec<String>> {
    let mut head = vec![0; HEAD_BYTES.min(device.size_bytes()) as usize];
    device.read(0, &mut head)?;
    let part = |at: usize, length: usize| head.get(at..at + length);
    let mut names = Vec::new();
    for (kind, magic_at, magic, name_at, name_bytes) in FORMATS {
        let is_there = part(*magic_at, magic.len()) == Some(*magic);
        let name = part(*name_at, *name_bytes).filter(|_| is_there);
        match name.filter(|name| name.iter().any(|byte| *byte != 0)) {
            // These two write their names as text.
            Some(name) if ["luks", "lvm"].contains(kind) && name.is_ascii() => {
                let name = String::from_utf8_lossy(name);
                names.push(format!("{kind} {}", name.escape_debug()));
            }
            Some(name) => names.push(format!("{kind} {}", hex(name))),
            None => {}
        }
    }
    // A boot sector of a file system ends like a partition table, and has code where that has its
    // name.
    if names.iter().any(|name| name.starts_with("ntfs ") || name.starts_with("fat ")) {
        names.retain(|name| !name.starts_with("mbr "));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Durability, MemoryDevice};

    #[test]
    fn a_disk_is_known_by_the_names_in_its_first_blocks() {
        let put = |device: &MemoryDevice, at: usize, data: &[u8]| {
            device.write(at as u64, data, Durability::Cached).expect("write");
        };
        for (kind, magic_at, magic, name_at, name_bytes) in FORMATS {
            let device = MemoryDevice::new(1 << 20);
            put(&device, *name_at, &vec![0xa7; *name_bytes]);
            assert_eq!(names_in(&device).expect("read"), [""; 0], "no magic");
            put(&device, *magic_at, magic);
            let expected = format!("{kind} {}", "a7".repeat(*name_bytes));
            assert_eq!(names_in(&device).expect("read"), [expected]);
            put(&device, *name_at, &vec![0; *name_bytes]);
            assert_eq!(names_in(&device).expect("read"), [""; 0], "no name yet");
        }
        assert_eq!(names_in(&MemoryDevice::new(512)).expect("read"), [""; 0]);
    }
}
