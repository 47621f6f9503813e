//! Loop devices over files, and slow ones, removed at the end.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hrl::Extent;
use hrl::device::Buffer;

pub const BLOCK: u64 = 4096;

/// A loop device.
pub struct Loop {
    pub path: PathBuf,
    /// The file below it.
    pub file: PathBuf,
    slow: Vec<Child>,
    directory: tempfile::TempDir,
}

impl Loop {
    /// Makes a loop device over a sparse file; `None` where that is not possible.
    pub fn new(bytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("disk");
        File::create(&file).and_then(|file| file.set_len(bytes)).expect("file");
        Self::over(file, Vec::new(), directory, &["--partscan"])
    }

    /// Makes a loop device whose writes take effect `delay_ms` after they were submitted.
    pub fn slow(bytes: u64, delay_ms: u32) -> Option<Self> {
        let directory = tempfile::tempdir().expect("directory");
        std::fs::create_dir(directory.path().join("fuse")).expect("directory");
        let file = directory.path().join("fuse/disk");
        let socket = directory.path().join("socket");
        let mut server = Command::new("nbdkit");
        server.args(["--foreground", "--unix"]).arg(&socket);
        server.args(["--filter=delay", "memory"]);
        server.args([bytes.to_string(), format!("wdelay={delay_ms}ms")]);
        let mut slow = vec![server.stdin(Stdio::null()).spawn().ok()?];
        wait_for(&socket);
        let mut fuse = Command::new("nbdfuse");
        fuse.arg(&file).arg(format!("nbd+unix:///?socket={}", socket.display()));
        slow.extend(fuse.spawn());
        wait_for(&file);
        Self::over(file, slow, directory, &["--direct-io=on"])
    }

    fn over(
        file: PathBuf,
        slow: Vec<Child>,
        directory: tempfile::TempDir,
        options: &[&str],
    ) -> Option<Self> {
        let mut it = Self { path: PathBuf::new(), file, slow, directory };
        let mut losetup = Command::new("losetup");
        let made = losetup.args(["--find", "--show"]).args(options).arg(&it.file).output().ok()?;
        it.path = String::from_utf8(made.stdout).ok()?.trim().into();
        (!it.path.as_os_str().is_empty()).then_some(it)
    }

    /// Returns the node of a partition, made where nobody else makes it.
    pub fn partition(&self, number: u32) -> Option<PathBuf> {
        let name = format!("{}p{number}", self.path.file_name()?.to_str()?);
        // A kernel that does not read such tables is told.
        let numbers = format!("/sys/class/block/{name}/dev");
        if !Path::new(&numbers).exists() {
            let _ = Command::new("partx").arg("--add").arg(&self.path).status();
        }
        let numbers = std::fs::read_to_string(numbers).ok()?;
        let path = self.directory.path().join(&name);
        let (major, minor) = numbers.trim().split_once(':')?;
        let made = Command::new("mknod").arg(&path).args(["b", major, minor]).status().ok()?;
        made.success().then_some(path)
    }

    /// Returns a directory for whatever a test keeps.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = Command::new("partx").arg("--delete").arg(&self.path).output();
            let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
        }
        // The file system ends when it is unmounted, its server when it is killed.
        if let Some(mut fuse) = self.slow.pop() {
            let mount = self.directory.path().join("fuse");
            if self.slow.is_empty() {
                let _ = fuse.kill();
            } else {
                let _ = Command::new("umount").arg(&mount).status();
            }
            let _ = fuse.wait();
        }
        if let Some(mut server) = self.slow.pop() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn wait_for(path: &Path) {
    for _ in 0..500 {
        if path.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Opens a disk with direct I/O.
pub fn direct(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).expect("open")
}

/// Writes a block that has a number all over.
pub fn write_block(file: &File, block: u64, number: u64) {
    let mut bytes = Buffer::zeroed(BLOCK as usize);
    bytes.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&number.to_le_bytes()));
    file.write_all_at(&bytes, block * BLOCK).expect("write");
}

/// Returns the extent of some blocks.
pub fn blocks(first: u64, count: u64) -> Extent {
    Extent { offset: first * BLOCK, length: count * BLOCK }
}
