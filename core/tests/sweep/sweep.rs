//! Goes through all boundaries of a recording and all images of each, and reports those that break
//! a promise.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hrl::{Clock, SystemClock};

use crate::image::{Boundary, Image};
use crate::tape::{Inode, Op};

/// Failures after which a sweep ends.
const FAILURES_MAX: usize = 8;

/// What a machine did, and what was promised when.
pub struct Recording<K> {
    pub name: String,
    pub ops: Vec<Op>,
    /// Whether each inode is a directory.
    pub directories: Vec<bool>,
    /// The disks before the first operation.
    pub disks: Vec<Vec<u8>>,
    /// The first boundary of interest.
    pub first: usize,
    /// What is promised from this operation until the next entry.
    pub known: Vec<(usize, K)>,
}

impl<K> Recording<K> {
    /// One image of a boundary.
    pub fn image(&self, at: usize, number: usize) -> Image {
        let mut boundary = at_first(self);
        while boundary.at < at {
            boundary.advance();
        }
        let recipes = boundary.recipes();
        boundary.image(&recipes[number % recipes.len()])
    }

    /// Returns the kinds of syncs in the recording, see [`kind_of`].
    pub fn syncs(&self) -> BTreeSet<String> {
        let mut names = BTreeMap::new();
        self.ops[..]
            .iter()
            .enumerate()
            .filter_map(|(at, op)| {
                let kind = kind_of(op, &mut names, self.disks.len());
                kind.filter(|_| at >= self.first)
            })
            .collect()
    }

    /// Returns the same life without the syncs of one kind.
    pub fn without(mut self, kind: &str) -> Self {
        let mut names = BTreeMap::new();
        let mut gone = Vec::new();
        for (at, op) in self.ops.iter().enumerate() {
            if kind_of(op, &mut names, self.disks.len()).as_deref() == Some(kind)
                && at >= self.first
            {
                gone.push(at);
            }
        }
        for at in gone {
            // A sync that takes its time and does nothing.
            self.ops[at] = Op::Names(Vec::new());
        }
        self.name = format!("{} without {kind}", self.name);
        self
    }

    pub fn known_at(&self, at: usize) -> &K {
        let after = self.known.partition_point(|(position, _)| *position <= at);
        &self.known[after.max(1) - 1].1
    }
}

/// Returns the kind of a sync: the directory of its inode and, for a file, the end of its name.
fn kind_of(op: &Op, names: &mut BTreeMap<Inode, PathBuf>, disks: usize) -> Option<String> {
    let last = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match op {
        Op::Names(change) => {
            let named = change.iter().filter_map(|(path, inode)| Some(((*inode)?, path.clone())));
            names.extend(named);
            None
        }
        Op::Write { .. } => None,
        Op::Sync { inode, .. } if *inode < disks => Some(format!("sync of disk {inode}")),
        Op::Sync { inode, .. } => {
            let path = names.get(inode)?;
            let name = last(path);
            let name = if name.starts_with(".put-") { "puts" } else { name.as_str() };
            Some(format!("sync of {} in {}", name, last(path.parent()?)))
        }
        Op::SyncDirectory(path) => Some(format!("sync of the names in {}", last(path))),
    }
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics are stored for the report instead of printed at once.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line()));
        let payload = info.payload();
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        PANIC.set(text.unwrap_or_else(|| "a panic".to_owned()) + &place.unwrap_or_default());
    }));
}

/// Runs a check; returns what it found.
pub fn attempt(check: impl FnOnce()) -> Option<String> {
    let result = catch_unwind(AssertUnwindSafe(check));
    result.err().map(|payload| {
        // Anything that the check still owns may be locked.
        std::mem::forget(payload);
        PANIC.take()
    })
}

/// Result of a sweep.
#[derive(Default)]
pub struct Figures {
    boundaries: AtomicUsize,
    images: AtomicUsize,
    same: AtomicUsize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        write!(
            f,
            "{} boundaries, {} images checked, {} more that were the same",
            count(&self.boundaries),
            count(&self.images),
            count(&self.same)
        )
    }
}

/// An image that breaks a promise.
pub struct Failure {
    at: usize,
    number: usize,
    /// Where it is, and what was found.
    pub text: String,
}

/// Checks images of all boundaries: those with everything and with nothing that was not durable,
/// and every `stride`th of the others, from a different start at each boundary. Panics with what
/// was found.
pub fn sweep<K: Sync>(
    recording: &Recording<K>,
    stride: usize,
    check: &(dyn Fn(&Image, &K) + Sync),
) {
    quiet_panics();
    if let Some((name, at, number)) = wanted() {
        if name == recording.name {
            one(recording, at, number, check);
        }
        return;
    }
    let clock = SystemClock::default();
    let start = clock.elapsed();
    let (figures, mut failures) = failures(recording, stride, FAILURES_MAX, check);
    let took = clock.elapsed().saturating_sub(start);
    println!("{}: {figures}, in {took:.1?}", recording.name);
    failures.sort_by_key(|failure| (failure.at, failure.number));
    for Failure { at, number, text } in failures.iter().take(FAILURES_MAX) {
        println!("{text}");
        println!(
            "replay: SWEEP={}:{at}:{number} cargo test -p hrl --test sweep -- --include-ignored --nocapture\n",
            recording.name
        );
    }
    assert!(failures.is_empty(), "{}: {} images do not hold", recording.name, failures.len());
}

/// As [`sweep`], up to this many failing images.
pub fn failures<K: Sync>(
    recording: &Recording<K>,
    stride: usize,
    failures_max: usize,
    check: &(dyn Fn(&Image, &K) + Sync),
) -> (Figures, Vec<Failure>) {
    quiet_panics();
    let (figures, seen) = (Figures::default(), Mutex::new(HashSet::new()));
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (figures, seen, failures) = (&figures, &seen, &failures);
            scope.spawn(move || {
                let mut boundary = at_first(recording);
                loop {
                    if boundary.at % threads == thread {
                        let found = look(recording, &boundary, stride, figures, seen, check);
                        failures.lock().expect("not poisoned").extend(found);
                    }
                    let enough = failures.lock().expect("not poisoned").len() >= failures_max;
                    if boundary.at == recording.ops.len() || enough {
                        return;
                    }
                    boundary.advance();
                }
            });
        }
    });
    (figures, failures.into_inner().expect("not poisoned"))
}

fn at_first<K>(recording: &Recording<K>) -> Boundary<'_> {
    let mut boundary = Boundary::new(&recording.ops, &recording.directories, &recording.disks);
    while boundary.at < recording.first {
        boundary.advance();
    }
    boundary
}

fn look<K>(
    recording: &Recording<K>,
    boundary: &Boundary<'_>,
    stride: usize,
    figures: &Figures,
    seen: &Mutex<HashSet<(u64, usize)>>,
    check: &(dyn Fn(&Image, &K) + Sync),
) -> Vec<Failure> {
    figures.boundaries.fetch_add(1, Ordering::Relaxed);
    let known = recording.known_at(boundary.at);
    let age = recording.known.partition_point(|(position, _)| *position <= boundary.at);
    let mut failures = Vec::new();
    for (number, recipe) in boundary.recipes().iter().enumerate() {
        if number >= 2 && !(number + boundary.at).is_multiple_of(stride) {
            continue;
        }
        let image = boundary.image(recipe);
        if !seen.lock().expect("not poisoned").insert((image.hash(), age)) {
            figures.same.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        figures.images.fetch_add(1, Ordering::Relaxed);
        if let Some(found) = attempt(|| check(&image, known)) {
            let (at, next) = (boundary.at, boundary.next_op());
            let text = format!(
                "{}, before operation {at} ({next}), image {number} ({}): {found}",
                recording.name, recipe.name
            );
            failures.push(Failure { at, number, text });
        }
    }
    failures
}

/// Returns the one image in `SWEEP=NAME:BOUNDARY:IMAGE`.
fn wanted() -> Option<(String, usize, usize)> {
    let text = std::env::var("SWEEP").ok()?;
    let mut parts = text.split(':');
    Some((parts.next()?.to_owned(), parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn one<K>(recording: &Recording<K>, at: usize, number: usize, check: &(dyn Fn(&Image, &K) + Sync)) {
    let _ = std::panic::take_hook();
    let mut boundary = at_first(recording);
    while boundary.at < at {
        println!("{:>5} {}", boundary.at, boundary.next_op());
        boundary.advance();
    }
    let recipe = &boundary.recipes()[number];
    println!("before {at} ({}): {}", boundary.next_op(), recipe.name);
    let image = boundary.image(recipe);
    for (path, content) in &image.files {
        println!("  {} {:?}", path.display(), content.as_ref().map(Vec::len));
    }
    check(&image, recording.known_at(at));
}
