//! A machine with a disk, an agent, and a vault in a directory: as it runs, and as a power failure
//! left it.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, Files, Unmap};
use hrl::journal::{PointKind, WrappingKey};
use hrl::replica::{At, Replica, ViewOptions};
use hrl::store::{DirStore, Store};
use hrl::vault::Vault;
use hrl::{
    Clock, Extent, Mode, PlacedPoint, PointId, Policy, ProtectionOptions, ProtectionStats,
    Sequence, SteppedProtection, SteppedTask,
};

use crate::files::FileSystem;
use crate::image::Image;
use crate::tape::{Tape, TapedDisk, TapedFiles};
use crate::world::{Incarnation, World};

pub const VAULT: &str = "/vault";
pub const STATE: &str = "/agent/state";

/// Turns after which something that has not ended never will.
const TURNS_MAX: usize = 3000;
const TURN: Duration = Duration::from_millis(5);

/// How a volume is protected.
#[derive(Clone)]
pub struct Setup {
    pub policy: Policy,
    pub key: Option<WrappingKey>,
}

pub struct Machine {
    pub world: Rc<World>,
    pub files: Arc<dyn Files>,
    pub disk: Arc<TapedDisk>,
    /// The disk of another site, if there is one.
    away: Option<Arc<TapedDisk>>,
    pub setup: Setup,
}

impl Machine {
    /// Makes a machine whose changes are recorded on a tape, at an empty vault. Its disks are the
    /// first inodes of the tape.
    pub fn taped(disks: &[Vec<u8>], setup: Setup) -> (Self, Arc<Tape>) {
        let world = World::enter(1, false);
        let tape = Arc::new(Tape::default());
        let inner = FileSystem::new().mount(&Incarnation::start());
        let (disk, away) = attached(disks, Some(&tape));
        let files = Arc::new(TapedFiles { inner, tape: tape.clone() });
        files.create_directory(Path::new(VAULT)).expect("directory");
        let machine = Self { world, files, disk, away, setup };
        // Creating a vault probes the store with threads.
        machine.store().put("hrl-vault", b"hrl vault 1\n").expect("vault");
        (machine, tape)
    }

    /// As [`Machine::found`], with a tape for the changes from now on.
    pub fn taped_from(image: &Image, setup: Setup, time: Duration) -> (Self, Arc<Tape>) {
        let found = Self::found(image, setup, time);
        let tape = Arc::new(Tape::default());
        let (disk, away) = attached(&image.disks, Some(&tape));
        let inner = FileSystem::new().mount(&Incarnation::start());
        let files = Arc::new(TapedFiles { inner, tape: tape.clone() });
        fill(&*files, image);
        (Self { files, disk, away, ..found }, tape)
    }

    /// Returns what a power failure at this time left, a second later.
    pub fn found(image: &Image, setup: Setup, time: Duration) -> Self {
        SteppedProtection::stay_on_this_thread();
        let world = World::enter(image.hash(), false);
        world.clock.advance(time + Duration::from_secs(1));
        let files = FileSystem::new().mount(&Incarnation::start());
        fill(&*files, image);
        let (disk, away) = attached(&image.disks, None);
        Self { world, files, disk, away, setup }
    }

    pub fn clock(&self) -> Arc<dyn Clock> {
        self.world.clock.clone()
    }

    pub fn store(&self) -> Arc<dyn Store> {
        let store = DirStore::open_in(self.files.clone(), Path::new(VAULT));
        Arc::new(store.expect("promise 5: the vault's directory is there"))
    }

    pub fn vault(&self) -> hrl::Result<Vault> {
        Vault::open(self.store(), self.setup.key.clone(), self.clock())
    }

    pub fn replica(&self) -> hrl::Result<Replica> {
        self.vault()?.replica("disk")
    }

    pub fn protect(&self) -> hrl::Result<Agent> {
        self.protect_with(self.disk.clone(), STATE)
    }

    /// Opens an agent with this disk and state directory.
    pub fn protect_with(&self, disk: Arc<TapedDisk>, state: &str) -> hrl::Result<Agent> {
        let options = ProtectionOptions::new("disk", disk, self.vault()?, state)
            .policy(self.setup.policy.clone())
            .clock(self.clock())
            .files(self.files.clone());
        Ok(Agent::of(SteppedProtection::open(options)?, self.world.clone()))
    }

    /// Returns the disk of the other site.
    pub fn away(&self) -> Arc<TapedDisk> {
        self.away.clone().expect("there is another site")
    }

    /// Returns the regions of the dirty map; `None` if there is none.
    pub fn marked(&self) -> Option<Vec<bool>> {
        let bytes = self.files.read(&Path::new(STATE).join("dirty")).ok()?;
        let regions = self.disk.size_bytes() / self.setup.policy.region_bytes;
        let bits = bytes.get(4096..)?;
        Some((0..regions as usize).map(|at| bits[at / 8] >> (at % 8) & 1 == 1).collect())
    }
}

/// Returns the disk of a machine, and that of another site.
fn attached(
    disks: &[Vec<u8>],
    tape: Option<&Arc<Tape>>,
) -> (Arc<TapedDisk>, Option<Arc<TapedDisk>>) {
    let attach = |content: &Vec<u8>| {
        let tape = tape.map(|tape| (tape.clone(), tape.new_inode(false)));
        TapedDisk::new(content.clone(), tape)
    };
    (attach(&disks[0]), disks.get(1).map(attach))
}

/// Writes the files of an image, durably.
fn fill(files: &dyn Files, image: &Image) {
    for (path, content) in &image.files {
        match content {
            None => files.make_directory(path).expect("directory"),
            Some(content) => {
                let mut file = files.create(path).expect("file");
                file.append(content).and_then(|()| file.sync()).expect("file");
            }
        }
        files.sync_directory(path.parent().expect("a path of the image")).expect("sync");
    }
}

/// Returns what a view shows of a whole volume.
pub fn content(replica: &Replica, at: &At) -> hrl::Result<Vec<u8>> {
    let view = replica.view(at, &ViewOptions::default())?;
    let mut bytes = vec![0; view.size_bytes() as usize];
    view.read(0, &mut bytes)?;
    Ok(bytes)
}

/// An agent whose tasks step in turns.
pub struct Agent {
    pub protection: SteppedProtection,
    tasks: Vec<SteppedTask>,
    world: Rc<World>,
}

impl Agent {
    pub fn of(mut protection: SteppedProtection, world: Rc<World>) -> Self {
        Self { tasks: protection.take_tasks(), protection, world }
    }

    pub fn stats(&self) -> ProtectionStats {
        self.protection.stats()
    }

    /// Last sequence found at the start.
    pub fn found_sequence(&self) -> u64 {
        let stats = self.stats();
        stats.last_sequence.0 - u64::from(stats.mode != Mode::Ordered)
    }

    /// Steps each task that is not held back once, and lets some time pass.
    pub fn turn(&mut self, held: &[&str]) {
        for task in self.tasks.iter_mut().filter(|task| !held.contains(&task.name())) {
            task.step();
        }
        self.world.clock.advance(TURN);
    }

    pub fn run(&mut self, until: impl Fn(&SteppedProtection) -> bool) {
        for _ in 0..TURNS_MAX {
            if until(&self.protection) {
                return;
            }
            self.turn(&[]);
        }
        panic!("promise 4: it does not come to its end: {:?}", self.stats());
    }

    /// Steps until source and replica are the same.
    pub fn settle(&mut self) {
        self.run(|protection| {
            let stats = protection.stats();
            stats.mode == Mode::Ordered && stats.replicated_sequence == stats.last_sequence
        });
    }

    /// Changes the disk, once its region is set dirty. `None` is zeroes.
    pub fn change(&mut self, extent: Extent, data: Option<&[u8]>) {
        let volume = self.protection.volume().clone();
        let tap = volume.tap().expect("it is protected");
        loop {
            match tap.begin(extent, Waker::noop()) {
                Poll::Ready(ticket) => break tap.cancel(ticket.expect("within the volume")),
                Poll::Pending => {
                    let keeper = self.tasks.iter_mut().find(|task| task.name() == "keeper");
                    keeper.expect("a keeper").step();
                }
            }
        }
        match data {
            Some(data) => volume.write(extent.offset, data, Durability::Cached).expect("write"),
            None => volume.zero(extent, Unmap::Allowed, Durability::Cached).expect("zero"),
        }
    }

    pub fn place(&self) -> PlacedPoint {
        self.protection.place(PointKind::Crash, "").expect("a point")
    }

    /// Returns the point once it is durable.
    pub fn confirmed(&self, placed: &PlacedPoint) -> Option<(PointId, Sequence)> {
        let outcome = self.protection.outcome(placed)?;
        let point = outcome.expect("promise 5: a point becomes durable");
        Some((point.id, point.sequence))
    }

    pub fn stop(mut self) {
        self.protection.begin_stop().expect("stop");
        while !self.protection.is_journaled() {
            self.turn(&[]);
        }
        self.tasks.clear();
        self.protection.end_stop().expect("stop");
    }
}
