//! Images that a power failure may leave of a tape's first operations.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use crate::tape::{Inode, Names, Op, SECTOR};
use crate::world::Random;

/// Up to this many operations that are not durable are each dropped alone and kept alone. Of more,
/// half of this many are the newest, and as many are spread over the others.
const SINGLES_MAX: usize = 16;
/// Number of random subsets at each boundary.
const SUBSETS: usize = 4;

/// Disks, and files by path; `None` is a directory.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Image {
    pub disks: Vec<Vec<u8>>,
    pub files: BTreeMap<PathBuf, Option<Vec<u8>>>,
}

impl Image {
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        Hash::hash(self, &mut hasher);
        hasher.finish()
    }
}

/// Fate of an operation that was not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    Kept,
    Dropped,
    /// Only its first sectors are kept.
    Head(usize),
    /// Only its first sectors are dropped.
    Tail(usize),
    /// It is kept except for one sector, which contains anything.
    Garbage(usize),
}

/// One way for the power to fail at a boundary.
pub struct Recipe {
    pub name: String,
    fates: Vec<Fate>,
}

/// A machine at a boundary: what is durable, and what is not.
pub struct Boundary<'a> {
    ops: &'a [Op],
    directories: &'a [bool],
    disks: usize,
    pub at: usize,
    durable: Vec<Vec<u8>>,
    names: BTreeMap<PathBuf, Inode>,
    pending: Vec<Op>,
}

impl<'a> Boundary<'a> {
    /// Starts before the first operation. The first inodes are disks with this content.
    pub fn new(ops: &'a [Op], directories: &'a [bool], disks: &[Vec<u8>]) -> Self {
        let mut durable = disks.to_vec();
        durable.resize(directories.len(), Vec::new());
        let (names, pending) = (BTreeMap::new(), Vec::new());
        Self { ops, directories, disks: disks.len(), at: 0, durable, names, pending }
    }

    /// Describes the next operation for people.
    pub fn next_op(&self) -> String {
        self.ops.get(self.at).map_or_else(|| "the end".to_owned(), |op| self.describe(op))
    }

    fn describe(&self, op: &Op) -> String {
        let mut names = self.names.clone();
        for op in &self.pending {
            if let Op::Names(change) = op {
                apply(&mut names, change);
            }
        }
        let name = |inode: Inode| {
            let path = names.iter().find(|(_, named)| **named == inode).map(|(path, _)| path);
            path.map_or_else(|| format!("disk or file {inode}"), |path| path.display().to_string())
        };
        match op {
            Op::Write { inode, offset, bytes } => {
                format!("write {} bytes at {offset} of {}", bytes.len(), name(*inode))
            }
            Op::Names(change) => {
                let one = |(path, inode): &(PathBuf, Option<Inode>)| {
                    format!("{}{}", if inode.is_some() { "+" } else { "-" }, path.display())
                };
                format!("names {}", change.iter().map(one).collect::<Vec<_>>().join(" "))
            }
            Op::Sync { inode, .. } => format!("sync {}", name(*inode)),
            Op::SyncDirectory(path) => format!("sync directory {}", path.display()),
        }
    }

    /// Applies one operation.
    pub fn advance(&mut self) {
        let op = self.ops[self.at].clone();
        self.at += 1;
        match op {
            Op::Names(ref change) if change.is_empty() => {}
            Op::Write { .. } | Op::Names(_) => self.pending.push(op),
            Op::Sync { inode, range } => {
                let covers = |op: &Op| {
                    matches!(op, Op::Write { inode: written, offset, bytes }
                    if *written == inode && *offset < range.end && range.start < offset + bytes.len())
                };
                let (now, later) = std::mem::take(&mut self.pending).into_iter().partition(covers);
                self.pending = later;
                for op in now {
                    let Op::Write { offset, bytes, .. } = op else { continue };
                    write(&mut self.durable[inode], offset, &bytes);
                }
            }
            Op::SyncDirectory(directory) => {
                let inside = |op: &Op| {
                    matches!(op, Op::Names(change)
                        if change.iter().any(|(path, _)| path.parent() == Some(&directory)))
                };
                let (now, later) = std::mem::take(&mut self.pending).into_iter().partition(inside);
                self.pending = later;
                for op in now {
                    let Op::Names(change) = op else { continue };
                    apply(&mut self.names, &change);
                }
            }
        }
        self.forget_nameless();
    }

    /// Returns data written to a file that no failure can lose.
    fn forget_nameless(&mut self) {
        let mut named: BTreeSet<Inode> = self.names.values().copied().collect();
        for op in &self.pending {
            if let Op::Names(change) = op {
                named.extend(change.iter().filter_map(|(_, inode)| *inode));
            }
        }
        let disks = self.disks;
        self.pending.retain(|op| match op {
            Op::Write { inode, .. } => *inode < disks || named.contains(inode),
            _ => true,
        });
    }

    /// Returns the ways for the power to fail here that are tried; the first two keep all and drop
    /// all.
    pub fn recipes(&self) -> Vec<Recipe> {
        let count = self.pending.len();
        let mut recipes = Recipes::default();
        let all = vec![Fate::Kept; count];
        let none = vec![Fate::Dropped; count];
        recipes.add("all kept".to_owned(), all.clone());
        recipes.add("all dropped".to_owned(), none.clone());
        for at in singles(count) {
            let what = self.describe(&self.pending[at]);
            recipes.add(format!("dropped alone: {what}"), with(&all, at, Fate::Dropped));
            recipes.add(format!("kept alone: {what}"), with(&none, at, Fate::Kept));
        }
        self.tear_last(&mut recipes, &all);
        self.change_names(&mut recipes);
        let random = Random::new(self.at as u64);
        for number in 0..SUBSETS {
            let one = |_| if random.one_in(2) { Fate::Kept } else { Fate::Dropped };
            recipes.add(format!("subset {number}"), (0..count).map(one).collect());
        }
        recipes.found
    }

    /// The last write, torn at each sector.
    fn tear_last(&self, recipes: &mut Recipes, all: &[Fate]) {
        let last = self.pending.iter().rposition(|op| matches!(op, Op::Write { .. }));
        let Some(at) = last else { return };
        let Op::Write { inode, offset, bytes } = &self.pending[at] else { return };
        let sectors = bytes.len().div_ceil(SECTOR);
        for cut in 1..sectors {
            recipes.add(
                format!("last write torn after {cut} sectors"),
                with(all, at, Fate::Head(cut)),
            );
            recipes.add(
                format!("last write torn before {cut} sectors"),
                with(all, at, Fate::Tail(cut)),
            );
        }
        for sector in 0..sectors {
            if self.durable[*inode].len() <= offset + sector * SECTOR {
                recipes.add(
                    format!("garbage in sector {sector}"),
                    with(all, at, Fate::Garbage(sector)),
                );
            }
        }
    }

    /// Names before and after the data, in order and not.
    fn change_names(&self, recipes: &mut Recipes) {
        let is_name: Vec<bool> = self.pending.iter().map(|op| matches!(op, Op::Names(_))).collect();
        let total = is_name.iter().filter(|name| **name).count();
        for kept in 0..=total {
            for (data, what) in [(Fate::Kept, "with"), (Fate::Dropped, "without")] {
                for (first, which) in [(true, "first"), (false, "last")] {
                    let mut number = 0;
                    let fate = |name: &bool| {
                        if !name {
                            return data;
                        }
                        number += 1;
                        let keep = if first { number <= kept } else { number > total - kept };
                        if keep { Fate::Kept } else { Fate::Dropped }
                    };
                    let name =
                        format!("the {which} {kept} of {total} changes of names, {what} the data");
                    recipes.add(name, is_name.iter().map(fate).collect());
                }
            }
        }
    }

    /// Returns the image.
    pub fn image(&self, recipe: &Recipe) -> Image {
        let mut contents = self.durable.clone();
        let mut names = self.names.clone();
        for (op, fate) in self.pending.iter().zip(&recipe.fates) {
            match op {
                Op::Names(change) if *fate == Fate::Kept => apply(&mut names, change),
                Op::Write { inode, offset, bytes } => {
                    tear(&mut contents[*inode], *offset, bytes, *fate);
                }
                _ => {}
            }
        }
        let mut files = BTreeMap::new();
        for (path, inode) in names {
            let above = path.parent().filter(|above| above.parent().is_some());
            // A directory whose own name was lost contains nothing. Paths come after those of their
            // directories.
            if above.is_none_or(|above| files.contains_key(above)) {
                let is_directory = self.directories[inode];
                files.insert(path, (!is_directory).then(|| contents[inode].clone()));
            }
        }
        contents.truncate(self.disks);
        Image { disks: contents, files }
    }
}

#[derive(Default)]
struct Recipes {
    found: Vec<Recipe>,
    seen: HashSet<Vec<Fate>>,
}

impl Recipes {
    fn add(&mut self, name: String, fates: Vec<Fate>) {
        if self.seen.insert(fates.clone()) {
            self.found.push(Recipe { name, fates });
        }
    }
}

fn with(fates: &[Fate], at: usize, fate: Fate) -> Vec<Fate> {
    let mut fates = fates.to_vec();
    fates[at] = fate;
    fates
}

fn singles(count: usize) -> Vec<usize> {
    if count <= SINGLES_MAX {
        return (0..count).collect();
    }
    let half = SINGLES_MAX / 2;
    let older = count - half;
    (0..half).map(|number| number * older / half).chain(older..count).collect()
}

fn apply(names: &mut BTreeMap<PathBuf, Inode>, change: &Names) {
    for (path, inode) in change {
        match inode {
            Some(inode) => drop(names.insert(path.clone(), *inode)),
            None => drop(names.remove(path)),
        }
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    content.resize(content.len().max(offset + bytes.len()), 0);
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn tear(content: &mut Vec<u8>, offset: usize, bytes: &[u8], fate: Fate) {
    match fate {
        Fate::Kept => write(content, offset, bytes),
        Fate::Dropped => {}
        Fate::Head(sectors) => write(content, offset, &bytes[..sectors * SECTOR]),
        Fate::Tail(sectors) => {
            let skipped = sectors * SECTOR;
            write(content, offset + skipped, &bytes[skipped..]);
        }
        Fate::Garbage(sector) => {
            let random = Random::new((offset + sector) as u64);
            let mut bytes = bytes.to_vec();
            let end = bytes.len().min((sector + 1) * SECTOR);
            bytes[sector * SECTOR..end].fill_with(|| random.next() as u8);
            write(content, offset, &bytes);
        }
    }
}
