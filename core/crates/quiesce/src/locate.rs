//! Finding the watchdog's program.
//!
//! These places are tried in order: the command given to [`set_watchdog`]; the environment's
//! `HRL_WATCHDOG`; `hrl-watchdog` beside the running program or in the `libexec` beside its
//! directory; `libexec` of the prefix that `libhrl.so` is installed in; `/usr/local/libexec` and
//! `/usr/libexec`; the directories of `PATH`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use hrl::sync::lock::Mutex;
use hrl::{Error, ErrorKind, Result};

const NAME: &str = "hrl-watchdog";
const LIBRARY: &str = "libhrl.so";

static SET: Mutex<Vec<OsString>> = Mutex::new(Vec::new());

/// Sets the command that starts the watchdog from now on in this process: a program that calls
/// [`run_watchdog`](crate::run_watchdog), and its arguments. An empty command restores the search
/// for `hrl-watchdog`.
pub fn set_watchdog(command: impl IntoIterator<Item = impl Into<OsString>>) {
    let command = command.into_iter().map(Into::into).collect();
    *SET.lock() = command;
}

/// Returns the watchdog's command. `NotFound` lists the places that were tried.
pub(crate) fn watchdog_command() -> Result<Vec<OsString>> {
    let set = SET.lock().clone();
    if !set.is_empty() {
        return Ok(set);
    }
    if let Some(path) = std::env::var_os("HRL_WATCHDOG") {
        return Ok(vec![path]);
    }
    let candidates = candidates();
    let found = candidates.iter().find(|path| path.is_file());
    found.map(|path| vec![path.into()]).ok_or_else(|| {
        let tried = candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        Error::new(ErrorKind::NotFound, "find", NAME)
            .message("nothing is quiesced without the watchdog, which releases it again; HRL_WATCHDOG can name it")
            .expected(format_args!("one of {}", tried.join(", ")))
    })
}

fn candidates() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    if let Ok(program) = std::env::current_exe()
        && let Some(directory) = program.parent()
    {
        paths.push(directory.join(NAME));
        paths.extend(libexec(directory));
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    // PREFIX/lib, or PREFIX/lib/TRIPLET.
    if let Some(directory) = library_directory(&maps) {
        paths.extend(libexec(&directory));
        paths.extend(directory.parent().and_then(libexec));
    }
    paths.extend(["/usr/local/libexec", "/usr/libexec"].map(|path| Path::new(path).join(NAME)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    paths.extend(std::env::split_paths(&path).map(|directory| directory.join(NAME)));
    paths
}

fn libexec(directory: &Path) -> Option<PathBuf> {
    Some(directory.parent()?.join("libexec").join(NAME))
}

/// Returns the directory of the loaded `libhrl.so`.
fn library_directory(maps: &str) -> Option<PathBuf> {
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    let mut found = paths.filter(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LIBRARY))
    });
    found.next()?.parent().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaded_library_leads_to_its_prefix() {
        let maps = "7f00-7f01 r-xp 00000000 00:00 0\n\
                    7f02-7f03 r-xp 00000000 08:01 12 /opt/hrl/lib/libhrl.so.0.1.0\n";
        let directory = library_directory(maps).expect("found");
        assert_eq!(libexec(&directory), Some("/opt/hrl/libexec/hrl-watchdog".into()));
        assert_eq!(
            library_directory("7f00-7f01 r-xp 00000000 08:01 12 /usr/lib/libc.so.6\n"),
            None
        );
    }
}
