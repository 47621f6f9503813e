//! The files of a state directory: what is tracked, and one file for each checkpoint.
//!
//! A file is lines of text, `key value`, and ends with `end` and the CRC-32 of all before. A change
//! set is the lines `changed OFFSET LENGTH`. A file is complete under its name, or it is not there.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use hrl::{Error, ErrorKind, Extent, ExtentSet, Result, Timestamp};

/// Why a change set is the whole disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Everything {
    /// The kernel completed this many sectors that the programs did not see.
    Missed(u64),
    /// Operations were completed that may change anything.
    Unknown,
    /// The disk was never quiet for the microseconds that an audit takes.
    Unproven,
    /// The disk or partition has another size than before.
    Resized,
}

impl std::fmt::Display for Everything {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missed(sectors) => {
                write!(f, "the audit found {sectors} sectors that nobody saw change")
            }
            Self::Unknown => f.write_str("operations were completed that may change anything"),
            Self::Unproven => f.write_str("the disk was never quiet enough to audit the changes"),
            Self::Resized => f.write_str("the size of the disk has changed"),
        }
    }
}

/// What is tracked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub boot: String,
    /// Number of this observation, which is in the pinned maps too.
    pub number: u64,
    /// Number that the kernel gives to no other disk until it boots.
    pub disk: u64,
    pub start: u64,
    pub bytes: u64,
    pub since: Timestamp,
}

/// A checkpoint, and what changed between the one before and it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub number: u64,
    pub name: String,
    pub session: u64,
    pub time: Timestamp,
    /// Epoch of the maps that began with it.
    pub epoch: u64,
    /// Size of the disk.
    pub bytes: u64,
    pub everything: Option<Everything>,
    pub changed: ExtentSet,
}

const SESSION: &str = "hrl-track 1";
const CHECKPOINT: &str = "hrl-checkpoint 1";

impl Session {
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = format!(
            "{SESSION}\nboot {}\nsession {}\ndisk {}\nstart {}\nbytes {}\nsince {}\n",
            self.boot, self.number, self.disk, self.start, self.bytes, self.since.0
        );
        write(path, text)
    }

    /// Returns the session of a file; `None` if there is no file.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        let Some(text) = read(path, SESSION)? else { return Ok(None) };
        let fields = Fields { text: &text, path };
        Ok(Some(Self {
            boot: fields.text("boot")?.to_owned(),
            number: fields.number("session")?,
            disk: fields.number("disk")?,
            start: fields.number("start")?,
            bytes: fields.number("bytes")?,
            since: Timestamp(fields.number("since")?),
        }))
    }
}

impl Record {
    pub(crate) fn file_name(number: u64) -> String {
        format!("checkpoint-{number:010}")
    }

    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        let mut text = format!(
            "{CHECKPOINT}\nnumber {}\nname {}\nsession {}\ntime {}\nepoch {}\nbytes {}\n",
            self.number, self.name, self.session, self.time.0, self.epoch, self.bytes
        );
        let why = match self.everything {
            None => "",
            Some(Everything::Missed(sectors)) => &format!("missed {sectors}"),
            Some(Everything::Unknown) => "unknown",
            Some(Everything::Unproven) => "unproven",
            Some(Everything::Resized) => "resized",
        };
        if !why.is_empty() {
            let _ = writeln!(text, "everything {why}");
        }
        for extent in self.changed.iter() {
            let _ = writeln!(text, "changed {} {}", extent.offset, extent.length);
        }
        write(&directory.join(Self::file_name(self.number)), text)
    }

    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        let Some(text) = read(path, CHECKPOINT)? else { return Ok(None) };
        let fields = Fields { text: &text, path };
        let everything = match fields.text("everything").ok().map(|text| text.split_once(' ')) {
            None => None,
            Some(Some(("missed", sectors))) => {
                Some(Everything::Missed(sectors.parse().map_err(|_| corrupt(path))?))
            }
            Some(_) => match fields.text("everything")? {
                "unknown" => Some(Everything::Unknown),
                "unproven" => Some(Everything::Unproven),
                "resized" => Some(Everything::Resized),
                _ => return Err(corrupt(path)),
            },
        };
        let mut changed = ExtentSet::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("changed ")) {
            let numbers = line.split_once(' ').ok_or_else(|| corrupt(path))?;
            let parsed = (numbers.0.parse(), numbers.1.parse());
            let (Ok(offset), Ok(length)) = parsed else { return Err(corrupt(path)) };
            changed.insert(Extent::new(offset, length)?);
        }
        Ok(Some(Self {
            number: fields.number("number")?,
            name: fields.text("name")?.to_owned(),
            session: fields.number("session")?,
            time: Timestamp(fields.number("time")?),
            epoch: fields.number("epoch")?,
            bytes: fields.number("bytes")?,
            everything,
            changed,
        }))
    }
}

/// The lines of a file.
struct Fields<'a> {
    text: &'a str,
    path: &'a Path,
}

impl<'a> Fields<'a> {
    fn text(&self, key: &str) -> Result<&'a str> {
        let found = self.text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        found.ok_or_else(|| corrupt(self.path).expected(format_args!("a line \"{key}\"")))
    }

    fn number<N: std::str::FromStr>(&self, key: &str) -> Result<N> {
        let text = self.text(key)?;
        text.parse().map_err(|_| corrupt(self.path).expected("a number").found(text))
    }
}

fn corrupt(path: &Path) -> Error {
    Error::new(ErrorKind::Corrupt, "read", path.display())
}

/// Returns the text of a file without its last line, which proves the rest.
fn read(path: &Path, first_line: &str) -> Result<Option<String>> {
    let mut text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Err(corrupt(path).expected("text"));
        }
        Err(error) => return Err(Error::io("read", path.display(), error)),
    };
    if text.lines().next() != Some(first_line) {
        return Err(corrupt(path)
            .expected(format_args!("\"{first_line}\""))
            .found(text.lines().next().unwrap_or("nothing").to_owned()));
    }
    let end = text.trim_end_matches('\n').rfind('\n').map_or(0, |at| at + 1);
    let expected = last_line(&text[..end]);
    if text[end..] != expected {
        return Err(corrupt(path)
            .expected(expected.trim_end().to_owned())
            .found(text[end..].trim_end().to_owned()));
    }
    text.truncate(end);
    Ok(Some(text))
}

fn last_line(text: &str) -> String {
    format!("end {:08x}\n", crc32fast::hash(text.as_bytes()))
}

/// Writes a file that is durable, and complete under its name.
fn write(path: &Path, mut text: String) -> Result<()> {
    let io = |error| Error::io("write", path.display(), error);
    text += &last_line(&text);
    let new = path.with_extension("new");
    let mut file = File::create(&new).map_err(io)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
    fs::rename(&new, path).map_err(io)?;
    sync_directory(path.parent().unwrap_or(Path::new("/")))
}

/// Makes new and removed names of a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| Error::io("write", path.display(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let mut changed = ExtentSet::new();
        changed.insert(Extent { offset: 4096, length: 8192 });
        changed.insert(Extent { offset: 1 << 40, length: 512 });
        Record {
            number: 7,
            name: "after the backup".to_owned(),
            session: 3,
            time: Timestamp(-1),
            epoch: 9,
            bytes: 1 << 41,
            everything: None,
            changed,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().expect("directory");
        for everything in [
            None,
            Some(Everything::Missed(16)),
            Some(Everything::Unknown),
            Some(Everything::Unproven),
            Some(Everything::Resized),
        ] {
            let record = Record { everything, ..record() };
            record.write(directory.path()).expect("write");
            let path = directory.path().join(Record::file_name(7));
            assert_eq!(Record::read(&path).expect("read"), Some(record));
        }
        assert_eq!(Record::read(&directory.path().join("none")).expect("none"), None);
    }

    #[test]
    fn each_flipped_or_missing_byte_of_a_record_is_found() {
        let directory = tempfile::tempdir().expect("directory");
        record().write(directory.path()).expect("write");
        let path = directory.path().join(Record::file_name(7));
        let whole = fs::read(&path).expect("read");
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            for bytes in [&flipped[..], &whole[..at]] {
                fs::write(&path, bytes).expect("write");
                let error = Record::read(&path).expect_err("damage");
                assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
            }
        }
    }
}
