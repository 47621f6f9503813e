//! Finds the names that partition tables and file systems write into the first blocks of a disk.
//!
//! They name the content: a copy of a disk has them too, and formatting changes them.

use crate::bytes::hex;
use crate::device::BlockDevice;
use crate::error::Result;

/// Bytes at the start of a disk that all names are within.
const HEAD_BYTES: u64 = 68 << 10;

/// Where a format puts its magic and the name of the disk.
struct Format {
    kind: &'static str,
    magic_at: usize,
    magic: &'static [u8],
    name_at: usize,
    name_bytes: usize,
}

/// Sources: UEFI 2.10 section 5 (GPT, MBR), `ext4.h`, `xfs_format.h`, `btrfs_tree.h`, `md_p.h`,
/// `swap.h` of Linux, the LUKS2 on-disk format 1.1, and the boot sectors of NTFS and FAT32.
const FORMATS: &[Format] = &[
    format("mbr", 510, b"\x55\xaa", 440, 4),
    format("gpt", 512, b"EFI PART", 512 + 56, 16),
    format("gpt", 4096, b"EFI PART", 4096 + 56, 16),
    format("ext", 1024 + 56, b"\x53\xef", 1024 + 104, 16),
    format("xfs", 0, b"XFSB", 32, 16),
    format("btrfs", 65_536 + 64, b"_BHRfS_M", 65_536 + 32, 16),
    format("luks", 0, b"LUKS\xba\xbe", 168, 36),
    format("lvm", 512, b"LABELONE", 512 + 32, 32),
    format("md", 4096, b"\xfc\x4e\x2b\xa9", 4096 + 16, 16),
    format("swap", 4086, b"SWAPSPACE2", 1036, 16),
    format("ntfs", 3, b"NTFS    ", 72, 8),
    format("fat", 82, b"FAT32   ", 67, 4),
];

const fn format(
    kind: &'static str,
    magic_at: usize,
    magic: &'static [u8],
    name_at: usize,
    name_bytes: usize,
) -> Format {
    Format { kind, magic_at, magic, name_at, name_bytes }
}

/// Returns the names in the content of a disk, as kind and value.
pub(super) fn names_in(device: &dyn BlockDevice) -> Result<Vec<String>> {
    let mut head = vec![0; HEAD_BYTES.min(device.size_bytes()) as usize];
    device.read(0, &mut head)?;
    let part = |at: usize, length: usize| head.get(at..at + length);
    let mut names = Vec::new();
    for format in FORMATS {
        let is_there = part(format.magic_at, format.magic.len()) == Some(format.magic);
        let name = part(format.name_at, format.name_bytes).filter(|_| is_there);
        match name.filter(|name| name.iter().any(|byte| *byte != 0)) {
            // These two write their names as text.
            Some(name) if ["luks", "lvm"].contains(&format.kind) && name.is_ascii() => {
                names.push(format!(
                    "{} {}",
                    format.kind,
                    String::from_utf8_lossy(name).escape_debug()
                ));
            }
            Some(name) => names.push(format!("{} {}", format.kind, hex(name))),
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
        for format in FORMATS {
            let device = MemoryDevice::new(1 << 20);
            put(&device, format.name_at, &vec![0xa7; format.name_bytes]);
            assert_eq!(names_in(&device).expect("read"), [""; 0], "no magic");
            put(&device, format.magic_at, format.magic);
            let expected = format!("{} {}", format.kind, "a7".repeat(format.name_bytes));
            assert_eq!(names_in(&device).expect("read"), [expected]);
            put(&device, format.name_at, &vec![0; format.name_bytes]);
            assert_eq!(names_in(&device).expect("read"), [""; 0], "no name yet");
        }
        assert_eq!(names_in(&MemoryDevice::new(512)).expect("read"), [""; 0]);
    }
}
