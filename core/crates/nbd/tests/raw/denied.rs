//! Systems that deny io_uring, as the default profiles of Docker and containerd do.

#![allow(unsafe_code, reason = "a filter of system calls between fork and exec")]
#![allow(dead_code, reason = "each test uses a part")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use hrl_nbd::{NbdEngine, NbdServer};

const EXPECTED: &str = "HRL_TEST_ENGINE";

/// Runs every test of this program but `this` again, in a process that gets `errno` for io_uring.
pub fn run_all_but(this: &str, errno: i32) {
    let mut again = Command::new(std::env::current_exe().expect("this program"));
    again.args(["--skip", this]).env(EXPECTED, NbdEngine::Threads.name());
    // SAFETY: the closure makes system calls only, and takes no memory.
    unsafe { again.pre_exec(move || deny_io_uring(errno)) };
    assert!(again.status().expect("run").success(), "with errno {errno} for io_uring");
}

/// Checks that a server runs on the engine that this process can have.
pub fn check_engine(server: &NbdServer) {
    if let Some(expected) = std::env::var_os(EXPECTED) {
        assert_eq!(server.engine().name(), expected.to_str().expect("a name"));
    }
}

/// Lets `io_uring_setup` fail in this thread, what it starts, and what it executes.
fn deny_io_uring(errno: i32) -> io::Result<()> {
    let number = libc::SYS_io_uring_setup as u32;
    let statement = |code: u32, yes: u8, no: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: yes,
        jf: no,
        k,
    };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        statement(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | errno.cast_unsigned(),
        ),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the filter, which lives until the call returns.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}
