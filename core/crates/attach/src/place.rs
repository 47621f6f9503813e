//! Where files lie and file systems are mounted: what is on the attached disk, and what is not.
//!
//! A file of the agent on the attached disk would make work of its own work. A file system on the
//! disk can be frozen.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use hrl::{Error, ErrorKind, Result};

use crate::disk::Disk;

/// Major and minor number of a block device.
type Number = (u32, u32);

/// A mounted file system.
struct Mount {
    number: Number,
    at: PathBuf,
    source: PathBuf,
}

/// Refuses what the agent writes on the attached disk, or on what lies on it.
pub(crate) fn check_elsewhere(disk: &Disk, what: &str, path: &Path) -> Result<()> {
    let Some(there) = path.ancestors().find_map(|path| fs::canonicalize(path).ok()) else {
        return Ok(());
    };
    let Ok(metadata) = fs::metadata(&there) else { return Ok(()) };
    let number = number_of(metadata.dev());
    let found = match mounts().into_iter().find(|mount| mount.number == number) {
        Some(mount) => devices_of(&mount),
        None => BTreeSet::from([number]),
    };
    if !own(disk).is_some_and(|disk| found.iter().any(|device| lies_on(*device, disk, 0))) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "attach", disk.path.display())
        .message(format_args!(
            "{what} {} lies on the disk itself, so each point would make changes for the next; put it on another \
             disk, or on a tmpfs for a disk that is compared after each boot anyway",
            path.display()
        )))
}

/// Returns where the file systems of the disk and of its partitions are mounted, each once.
pub(crate) fn mounted(disk: &Disk) -> Vec<PathBuf> {
    let Some(disk) = own(disk) else { return Vec::new() };
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for mount in mounts() {
        let on_disk = devices_of(&mount).iter().any(|device| lies_on(*device, disk, 0));
        if on_disk && seen.insert(mount.number) {
            found.push(mount.at);
        }
    }
    found
}

/// Returns the numbers of the disk or partition itself.
fn own(disk: &Disk) -> Option<Number> {
    fs::metadata(&disk.path).ok().map(|metadata| number_of(metadata.rdev()))
}

fn number_of(device: u64) -> Number {
    (libc::major(device), libc::minor(device))
}

/// Returns the devices of a mounted file system. One with a device number of its own, such as Btrfs,
/// names one of them as its source.
fn devices_of(mount: &Mount) -> BTreeSet<Number> {
    let mut devices = BTreeSet::from([mount.number]);
    if let Ok(metadata) = fs::metadata(&mount.source)
        && metadata.file_type().is_block_device()
    {
        devices.insert(number_of(metadata.rdev()));
    }
    devices
}

/// Returns whether a device is the disk, a partition of it, or made of such: by the device mapper or
/// MD, or as a loop device over a file.
fn lies_on(device: Number, disk: Number, depth: u32) -> bool {
    if device == disk {
        return true;
    }
    if depth > 8 {
        return false;
    }
    let Ok(directory) = fs::canonicalize(format!("/sys/dev/block/{}:{}", device.0, device.1))
    else {
        return false;
    };
    let mut below: Vec<Number> = Vec::new();
    if directory.join("partition").exists() {
        below.extend(directory.parent().and_then(number_in));
    }
    if let Ok(slaves) = fs::read_dir(directory.join("slaves")) {
        below.extend(slaves.flatten().filter_map(|slave| number_in(&slave.path())));
    }
    if let Ok(file) = fs::read_to_string(directory.join("loop/backing_file"))
        && let Ok(metadata) = fs::metadata(file.trim_end())
    {
        below.push(number_of(metadata.dev()));
    }
    below.into_iter().any(|device| lies_on(device, disk, depth + 1))
}

fn number_in(directory: &Path) -> Option<Number> {
    let text = fs::read_to_string(directory.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(parse).collect()
}

/// Parses a line of `/proc/self/mountinfo`.
fn parse(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(2);
    let (major, minor) = fields.next()?.split_once(':')?;
    let at = unescaped(fields.nth(1)?);
    let source = unescaped(after.split(' ').nth(1)?);
    Some(Mount { number: (major.parse().ok()?, minor.parse().ok()?), at, source })
}

/// Replaces octal escapes such as `\040`.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'\\')
            .then(|| std::str::from_utf8(after.get(..3)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_spaces_in_their_names() {
        let line =
            r"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let mount = parse(line).expect("a mount");
        assert_eq!(mount.number, (98, 0));
        assert_eq!(mount.at, Path::new("/mnt 2"));
        assert_eq!(mount.source, Path::new("/dev/root"));
        assert!(parse("36 35 98:0 /").is_none());
    }
}
