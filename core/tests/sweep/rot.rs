//! Bit rot and misdirected writes: one byte or one sector of one synced file differs from what was
//! written.

use std::path::{Path, PathBuf};

use hrl::replica::At;
use hrl::{Error, Mode, Sequence};

use crate::image::Image;
use crate::life::{History, Known, same};
use crate::machine::{Machine, Setup, content};
use crate::sweep::attempt;
use crate::tape::SECTOR;
use crate::world::Random;

/// One way to damage a file.
#[derive(Clone, Copy, Debug)]
pub enum Damage {
    /// This bit is inverted.
    Bit(usize),
    /// This sector contains the data of another place, which the number selects.
    Sector(usize, u64),
    /// The file ends here.
    Cut(usize),
}

/// Returns the damages of a file of this length: a bit in each of so many, and for each sector the
/// next one, one of another file, and the end of the file before it.
pub fn damages(length: usize, bytes: usize) -> Vec<Damage> {
    let bits = (0..length).step_by(bytes).map(|at| Damage::Bit(8 * at + at % 7));
    let sectors = (0..length.div_ceil(SECTOR)).flat_map(|sector| {
        [0, 1]
            .map(|choice| Damage::Sector(sector, choice))
            .into_iter()
            .chain([Damage::Cut(sector * SECTOR)])
    });
    bits.chain(sectors).collect()
}

/// Returns the image with this damage; `None` if the damage changes nothing.
pub fn damaged(image: &Image, path: &Path, damage: Damage) -> Option<Image> {
    let before = image.files[path].as_ref()?;
    let mut after = before.clone();
    match damage {
        Damage::Bit(bit) => after[bit / 8] ^= 1 << (bit % 8),
        Damage::Cut(length) => after.truncate(length),
        Damage::Sector(sector, choice) => {
            let at = sector * SECTOR;
            let end = after.len().min(at + SECTOR);
            let other = if choice == 0 {
                another_place(before, sector)
            } else {
                another_file(image, path, sector)
            };
            let length = (end - at).min(other.len());
            after[at..at + length].copy_from_slice(&other[..length]);
        }
    }
    (after != *before).then(|| {
        let mut image = image.clone();
        image.files.insert(path.to_owned(), Some(after));
        image
    })
}

fn another_place(content: &[u8], sector: usize) -> Vec<u8> {
    let count = content.len().div_ceil(SECTOR);
    let at = (sector + 1) % count * SECTOR;
    content[at..content.len().min(at + SECTOR)].to_vec()
}

fn another_file(image: &Image, path: &Path, sector: usize) -> Vec<u8> {
    let others: Vec<&Vec<u8>> = image
        .files
        .iter()
        .filter(|(other, content)| {
            *other != path && content.as_ref().is_some_and(|c| c.len() >= SECTOR)
        })
        .filter_map(|(_, content)| content.as_ref())
        .collect();
    let random = Random::new(sector as u64);
    let other = random.pick(&others);
    let at = random.below((other.len() / SECTOR) as u64) as usize * SECTOR;
    other[at..at + SECTOR].to_vec()
}

/// Returns the files of an image, by path.
pub fn files(image: &Image) -> Vec<PathBuf> {
    let files =
        image.files.iter().filter(|(_, content)| content.as_ref().is_some_and(|c| !c.is_empty()));
    files.map(|(path, _)| path.clone()).collect()
}

/// Checks that a reader and the agent get the right bytes, or an error that names the damaged file.
pub fn check(image: &Image, path: &Path, known: &Known, history: &History, setup: &Setup) {
    let machine = Machine::found(image, setup.clone(), known.time);
    let last = read(&machine, path, history, None);
    let mut agent = match machine.protect() {
        Ok(agent) => agent,
        Err(error) => return named(&error, path),
    };
    let found = agent.found_sequence();
    // A damaged vault may prevent this for ever.
    for _ in 0..400 {
        let stats = agent.stats();
        if stats.mode == Mode::Ordered && stats.replicated_sequence == stats.last_sequence {
            break;
        }
        agent.turn(&[]);
    }
    let stats = agent.stats();
    let whole = stats.mode == Mode::Ordered && stats.replicated_sequence == stats.last_sequence;
    read(&machine, path, history, Some(last.min(found)));
    if !whole {
        return;
    }
    let newest = machine.replica().and_then(|replica| content(&replica, &At::Newest));
    match newest {
        Ok(newest) => same("promise 4: the newest state", &machine.disk.content(), &newest),
        Err(error) => named(&error, path),
    }
}

/// Checks that all points up to `last`, or of the whole vault, are intact or give an error.
fn read(machine: &Machine, path: &Path, history: &History, last: Option<u64>) -> u64 {
    let replica = match machine.replica() {
        Ok(replica) => replica,
        Err(error) => {
            named(&error, path);
            return 0;
        }
    };
    let last = last.unwrap_or(replica.catalog().last_sequence().0);
    for point in replica.points().iter().filter(|point| point.sequence.0 <= last) {
        let Sequence(sequence) = point.sequence;
        match content(&replica, &At::Sequence(point.sequence)) {
            Ok(found) => {
                same(
                    &format!("the view at {sequence}, unnoticed,"),
                    &history.state_at(sequence),
                    &found,
                );
            }
            Err(error) => named(&error, path),
        }
    }
    last
}

/// Returns whether the error names the file.
fn named(error: &Error, path: &Path) {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &cause.to_string();
        source = cause.source();
    }
    let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(text.contains(name), "promise 11: the error does not name {name}: {text}");
}

/// Damages each file in each way. Returns what breaks a promise.
pub fn sweep(
    image: &Image,
    bytes: usize,
    what: impl Fn(&Path) -> bool,
    check: &(dyn Fn(&Image, &Path) + Sync),
) -> (usize, Vec<String>) {
    let mut work = Vec::new();
    for path in files(image).into_iter().filter(|path| what(path)) {
        let length = image.files[&path].as_ref().map_or(0, Vec::len);
        work.extend(damages(length, bytes).into_iter().map(|damage| (path.clone(), damage)));
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failures = std::sync::Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some((path, damage)) = work.get(at) else { return };
                    let Some(image) = damaged(image, path, *damage) else { continue };
                    if let Some(found) = attempt(|| check(&image, path)) {
                        let text = format!("{} with {damage:?}: {found}", path.display());
                        failures.lock().expect("not poisoned").push(text);
                    }
                }
            });
        }
    });
    (work.len(), failures.into_inner().expect("not poisoned"))
}
