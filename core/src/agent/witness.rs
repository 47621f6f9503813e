//! The witness of the disk, `STATE/witness`: names of the disk that an agent left, and its write
//! counters or times then, which show whether it was written since.
//!
//! Invariants: the file is durable before the dirty map says that the session ended cleanly.
//! Without it, or if it is of another session, only the time of modification is trusted, and only
//! that of a file.
//!
//! Behaviour on failure: a damaged file counts as none.

use super::clean_stop::is_sampled_alike;
use super::disk_names::names_in;
use super::state::{StateDirectory, lines_after};
use crate::capture::CleanStop;
use crate::device::{BlockDevice, Witness, Writes};
use crate::error::{Error, ErrorKind, Result};
use crate::units::Sequence;

const FILE: &str = "witness";
const FIRST_LINE: &str = "hrl witness 1";

/// The moment at which a disk was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Clean stop of the session with this generation of the dirty map.
    Stop(u64),
    /// The disk of an old source followed the volume up to here.
    Followed(Sequence),
}

/// How the disk was left.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Left {
    moment: Moment,
    /// Names in the content.
    names: Vec<String>,
    writes: Writes,
}

/// What the state directory knows of the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    id: Option<String>,
    place: Option<String>,
    left: Option<Left>,
}

/// A disk as it is now, beside what the state directory knows of it.
pub(crate) struct Seen<'a> {
    device: &'a dyn BlockDevice,
    now: Witness,
    known: Known,
}

/// The disk is another one than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OtherDisk {
    expected: String,
    found: String,
}

impl<'a> Seen<'a> {
    /// Looks at the disk, and at what the state directory knows of it.
    pub(crate) fn of(state: &StateDirectory, device: &'a dyn BlockDevice) -> Result<Self> {
        let known = match state.read_text(&state.file(FILE), "the witness of a disk", parse) {
            Err(error) if error.kind() == ErrorKind::Corrupt => Known::default(),
            other => other?.unwrap_or_default(),
        };
        Ok(Self { device, now: device.witness(), known })
    }

    /// Returns how the disk itself differs from that of before. A session that did not end cleanly
    /// knows no more: it may have formatted the disk.
    pub(crate) fn other_disk(&self) -> Option<OtherDisk> {
        let (expected, found) = (self.known.id.as_ref()?, self.now.id.as_ref()?);
        let is_other = kind(expected) == kind(found) && expected != found;
        is_other.then(|| OtherDisk { expected: expected.clone(), found: found.clone() })
    }

    /// Returns how the disk or its content differs from the one that was left at `moment`.
    pub(crate) fn other_than_left(&self, moment: Moment) -> Result<Option<OtherDisk>> {
        if let Some(other) = self.other_disk() {
            return Ok(Some(other));
        }
        let Some(left) = self.left(moment) else { return Ok(None) };
        let same_file = self.now.place.is_some() && self.now.place == self.known.place;
        if same_file || left.names.is_empty() {
            return Ok(None);
        }
        let names = names_in(self.device)?;
        // The content was removed from the same disk.
        let same_disk = self.now.id.is_some() && self.now.id == self.known.id;
        let is_known = names.iter().any(|name| left.names.contains(name));
        if is_known || (names.is_empty() && same_disk) {
            return Ok(None);
        }
        let all = |id: &Option<String>, names: &[String]| {
            let all: Vec<&str> = id.iter().chain(names).map(String::as_str).collect();
            if all.is_empty() { "a disk without a name".to_owned() } else { all.join(", ") }
        };
        Ok(Some(OtherDisk {
            expected: all(&self.known.id, &left.names),
            found: all(&self.now.id, &names),
        }))
    }

    /// Returns why the disk may have been written since the clean stop; `None` if it was not.
    pub(crate) fn touched(&self, generation: u64, stop: &CleanStop) -> Result<Option<String>> {
        let left = self.left(Moment::Stop(generation));
        let touched = match (left.map(|left| &left.writes), &self.now.writes) {
            (Some(Writes::Counted(before)), now) => touched(before, now),
            (None | Some(Writes::Unknown), Writes::Unknown) => touched_file(self.device, stop),
            // The session before was of a version that knew nothing of witnesses.
            (None, Writes::Counted(_)) if self.device.modified().is_some() => {
                touched_file(self.device, stop)
            }
            _ => Some("nothing shows that it was not written since its agent stopped".to_owned()),
        };
        if touched.is_some() || is_sampled_alike(self.device, stop)? {
            return Ok(touched);
        }
        Ok(Some("its content is not that of the clean stop".to_owned()))
    }

    /// Returns why the disk of an old source may have been written since it followed the volume up
    /// to `at`; `None` if that is not known.
    pub(crate) fn touched_since_followed(&self, at: Sequence) -> Option<String> {
        match self.left(Moment::Followed(at)).map(|left| &left.writes) {
            Some(Writes::Counted(before)) => touched(before, &self.now.writes),
            _ => None,
        }
    }

    /// Returns the error of an operation that needs the disk of before.
    pub(crate) fn refused(
        &self,
        operation: &'static str,
        other: OtherDisk,
        instead: &str,
    ) -> Error {
        Error::new(ErrorKind::Changed, operation, self.device.name())
            .message(format_args!("it is another disk than the one that was protected; {instead}"))
            .expected(other.expected)
            .found(other.found)
    }

    /// Records which disk it is, durably.
    pub(crate) fn begin(&self, state: &StateDirectory) -> Result<()> {
        if self.known.id == self.now.id && self.known.place == self.now.place {
            return Ok(());
        }
        write(state, &self.now, None)
    }

    fn left(&self, moment: Moment) -> Option<&Left> {
        self.known.left.as_ref().filter(|left| left.moment == moment)
    }
}

/// Records how the disk is left, durably. Everything written must have been flushed.
pub(crate) fn leave(
    state: &StateDirectory,
    device: &dyn BlockDevice,
    moment: Moment,
) -> Result<()> {
    let names = names_in(device)?;
    let now = device.witness();
    let left = Left { moment, names, writes: now.writes.clone() };
    write(state, &now, Some(left))
}

/// Records that the disk is about to be written outside a session.
pub(crate) fn unleave(state: &StateDirectory, device: &dyn BlockDevice) -> Result<()> {
    write(state, &device.witness(), None)
}

/// Forgets the disk, durably: another one takes its place.
pub(crate) fn forget(state: &StateDirectory) -> Result<()> {
    state.remove_durably(&state.file(FILE))
}

fn touched(before: &str, now: &Writes) -> Option<String> {
    match now {
        Writes::Counted(now) if now == before => None,
        Writes::Counted(now) if boot(now) != boot(before) => Some(
            "the machine has booted since its agent stopped, so nothing shows that it was not written"
                .to_owned(),
        ),
        Writes::Counted(_) => Some("it was written since its agent stopped".to_owned()),
        _ => Some("nothing shows that it was not written since its agent stopped".to_owned()),
    }
}

/// Returns why a file may have been written, by its time of modification.
fn touched_file(device: &dyn BlockDevice, stop: &CleanStop) -> Option<String> {
    let is_same = stop.modified == device.modified();
    (!is_same).then(|| "it was written since its agent stopped".to_owned())
}

/// Returns the boot that counters are of.
fn boot(counted: &str) -> Option<&str> {
    counted.strip_prefix("boot ")?.split(' ').next()
}

fn kind(id: &str) -> Option<&str> {
    id.split(' ').next()
}

fn write(state: &StateDirectory, now: &Witness, left: Option<Left>) -> Result<()> {
    let known = Known { id: now.id.clone(), place: now.place.clone(), left };
    state.write_text(&state.file(FILE), print(&known))
}

fn print(known: &Known) -> String {
    let mut lines = vec![FIRST_LINE.to_owned()];
    let mut line = |name: &str, value: &str| {
        let value = value.replace(|c: char| c.is_control(), " ");
        lines.push(format!("{name}={value}"));
    };
    line("id", known.id.as_deref().unwrap_or(""));
    line("place", known.place.as_deref().unwrap_or(""));
    if let Some(left) = &known.left {
        match left.moment {
            Moment::Stop(generation) => line("stop", &generation.to_string()),
            Moment::Followed(at) => line("followed", &at.0.to_string()),
        }
        match &left.writes {
            Writes::Unknown => line("writes", "unknown"),
            Writes::Untraced => line("writes", "untraced"),
            Writes::Counted(counted) => line("writes", &format!("counted {counted}")),
        }
        left.names.iter().for_each(|name| line("name", name));
    }
    lines.join("\n") + "\n"
}

/// Parses the text of `STATE/witness` and prints it again; `None` if it is not valid. Feature
/// `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn reprint_witness(text: &str) -> Option<String> {
    parse(text).map(|known| print(&known))
}

fn parse(text: &str) -> Option<Known> {
    let mut lines = lines_after(FIRST_LINE, text)?;
    let filled = |value: &str| Some(value.to_owned()).filter(|value| !value.is_empty());
    let id = filled(lines.next()?.strip_prefix("id=")?);
    let place = filled(lines.next()?.strip_prefix("place=")?);
    let Some(moment) = lines.next() else { return Some(Known { id, place, left: None }) };
    let moment = match moment.split_once('=')? {
        ("stop", generation) => Moment::Stop(generation.parse().ok()?),
        ("followed", at) => Moment::Followed(Sequence(at.parse().ok()?)),
        _ => return None,
    };
    let writes = match lines.next()?.strip_prefix("writes=")? {
        "unknown" => Writes::Unknown,
        "untraced" => Writes::Untraced,
        counted => Writes::Counted(counted.strip_prefix("counted ")?.to_owned()),
    };
    let names = lines.map(|line| line.strip_prefix("name=").map(str::to_owned));
    let names = names.collect::<Option<_>>()?;
    Some(Known { id, place, left: Some(Left { moment, names, writes }) })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::agent::clean_stop::clean_stop;
    use crate::device::{Discarded, Durability, MemoryDevice, SystemFiles, Unmap};
    use crate::extent::Extent;

    /// A disk in memory with any witness.
    struct Disk {
        content: MemoryDevice,
        witness: Witness,
    }

    impl Disk {
        fn new(id: &str, counted: &str) -> Self {
            let writes = match counted {
                "untraced" => Writes::Untraced,
                "unknown" => Writes::Unknown,
                counted => Writes::Counted(counted.to_owned()),
            };
            let id = Some(id.to_owned()).filter(|id| !id.is_empty());
            let witness = Witness { id, place: None, writes };
            Self { content: MemoryDevice::new(1 << 20), witness }
        }

        fn named(self, name: u8) -> Self {
            self.write(1024 + 56, b"\x53\xef", Durability::Cached).expect("write");
            self.write(1024 + 104, &[name; 16], Durability::Cached).expect("write");
            self
        }
    }

    impl BlockDevice for Disk {
        fn name(&self) -> String {
            "disk".to_owned()
        }
        fn size_bytes(&self) -> u64 {
            self.content.size_bytes()
        }
        fn block_bytes(&self) -> u32 {
            512
        }
        fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            self.content.read(offset, buffer)
        }
        fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
            self.content.write(offset, data, durability)
        }
        fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
            self.content.zero(extent, unmap, durability)
        }
        fn discard(&self, extent: Extent) -> Result<Discarded> {
            self.content.discard(extent)
        }
        fn flush(&self) -> Result<()> {
            self.content.flush()
        }
        fn witness(&self) -> Witness {
            self.witness.clone()
        }
    }

    /// Leaves one disk, and looks at another: as what it counts, and as which disk.
    fn left_and_found(before: &Disk, after: &Disk) -> (Option<String>, Option<OtherDisk>) {
        let directory = tempfile::tempdir().expect("directory");
        let state = StateDirectory::open(Arc::new(SystemFiles), directory.path()).expect("state");
        leave(&state, before, Moment::Stop(3)).expect("leave");
        let stop = clean_stop(before, Sequence(9)).expect("stop");
        let seen = Seen::of(&state, after).expect("look");
        let touched = seen.touched(3, &stop).expect("read");
        (touched, seen.other_than_left(Moment::Stop(3)).expect("read"))
    }

    #[test]
    fn only_equal_counters_of_one_boot_prove_a_disk_untouched() {
        let why = |before: &str, after: &str| {
            let touched = left_and_found(&Disk::new("", before), &Disk::new("", after)).0;
            touched.unwrap_or_else(|| "untouched".to_owned())
        };
        assert_eq!(why("boot a disk 1", "boot a disk 1"), "untouched");
        assert!(why("boot a disk 1", "boot a disk 2").contains("it was written"));
        assert!(why("boot a disk 1", "boot b disk 1").contains("has booted"));
        for (before, after) in [
            ("boot a disk 1", "untraced"),
            ("untraced", "untraced"),
            ("untraced", "boot a disk 1"),
            ("unknown", "boot a disk 1"),
            ("boot a disk 1", "unknown"),
        ] {
            assert!(why(before, after).contains("nothing shows"), "{before}, {after}");
        }
        assert_eq!(why("unknown", "unknown"), "untouched", "samples decide");
        let sampled = Disk::new("", "boot a disk 1");
        sampled.write(0, &[1; 512], Durability::Cached).expect("write");
        assert!(left_and_found(&Disk::new("", "boot a disk 1"), &sampled).0.is_some());
    }

    #[test]
    fn counters_of_another_session_prove_nothing() {
        let directory = tempfile::tempdir().expect("directory");
        let state = StateDirectory::open(Arc::new(SystemFiles), directory.path()).expect("state");
        let disk = Disk::new("", "boot a disk 1");
        leave(&state, &disk, Moment::Stop(3)).expect("leave");
        let stop = clean_stop(&disk, Sequence(9)).expect("stop");
        let seen = Seen::of(&state, &disk).expect("look");
        assert_eq!(seen.touched(3, &stop).expect("read"), None);
        assert!(seen.touched(4, &stop).expect("read").is_some());
        std::fs::write(state.file(FILE), "damaged").expect("write");
        let seen = Seen::of(&state, &disk).expect("look");
        assert!(seen.touched(3, &stop).expect("read").is_some());
    }

    #[test]
    fn another_disk_is_known_by_its_own_name_or_by_those_in_its_content() {
        let is_other = |before: &Disk, after: &Disk| {
            let other = left_and_found(before, after).1;
            if let Some(other) = &other {
                assert_ne!(other.expected, other.found);
            }
            other.is_some()
        };
        let disk = |id| Disk::new(id, "boot a disk 1");
        assert!(is_other(&disk("wwid 1"), &disk("wwid 2")));
        assert!(is_other(&disk("wwid 1").named(1), &disk("wwid 2").named(1)));
        assert!(!is_other(&disk("wwid 1"), &disk("wwid 1")));
        assert!(!is_other(&disk("wwid 1"), &disk("serial 2")), "another kind of name");
        assert!(!is_other(&disk(""), &disk("wwid 2")), "nothing was known");
        assert!(is_other(&disk("").named(1), &disk("").named(2)));
        assert!(is_other(&disk("").named(1), &disk("")));
        assert!(
            is_other(&disk("wwid 1").named(1), &disk("wwid 1").named(2)),
            "formatted, or a slot"
        );
        assert!(!is_other(&disk("wwid 1").named(1), &disk("wwid 1")), "its content was removed");
        assert!(!is_other(&disk("").named(1), &disk("").named(1)));
        assert!(!is_other(&disk(""), &disk("").named(2)), "formatted for the first time");
    }

    #[test]
    fn what_is_known_of_a_disk_is_read_as_it_was_written() {
        let left = |moment, writes| Left { moment, names: vec!["ext 11".to_owned()], writes };
        for left in [
            None,
            Some(left(Moment::Stop(7), Writes::Untraced)),
            Some(left(Moment::Followed(Sequence(8)), Writes::Unknown)),
            Some(left(Moment::Stop(0), Writes::Counted("boot a = b".to_owned()))),
        ] {
            let known = Known { id: Some("wwid 1".to_owned()), place: None, left };
            assert_eq!(parse(&print(&known)), Some(known));
        }
    }
}
