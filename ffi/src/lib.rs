//! The C API of hrl. `include/hrl.h` is generated from the comments here. `include/hrl.hpp` wraps
//! it for C++.
//!
//! Every function goes through `boundary`, which catches panics and keeps the last error of the
//! thread. The types of `handle` stand for pointers in signatures, and alone read and write through
//! them. `report` declares the structures that the library fills. Each other file is about one kind
//! of handle.

#![allow(non_camel_case_types, reason = "names of C")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the header states once, at its top, the rules of every pointer"
)]
#![allow(unsafe_code, reason = "functions for C")]

mod attach;
mod boundary;
mod buffer;
mod callbacks;
mod device;
mod failover;
mod group;
mod handle;
mod journal;
mod keys;
mod maintenance;
#[cfg(feature = "mirror")]
mod mirror;
mod nbd;
#[cfg(feature = "plan")]
mod plan;
mod points;
mod protection;
mod quiesce;
mod replica;
mod report;
mod retention;
mod store;
mod tap;
mod tracker;
mod vault;

use boundary::{HRL_VERSION_MAJOR, HRL_VERSION_MINOR, HRL_VERSION_PATCH};

/// Returns the version of the library as text, such as "0.1.0". Static; never NULL. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hrl_version() -> *const std::ffi::c_char {
    const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    TEXT.as_ptr().cast()
}

/// Returns the version of the library: major * 1,000,000 + minor * 1,000 + patch. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hrl_version_number() -> u32 {
    HRL_VERSION_MAJOR * 1_000_000 + HRL_VERSION_MINOR * 1_000 + HRL_VERSION_PATCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_macros_are_those_of_the_crate() {
        let macros = format!("{HRL_VERSION_MAJOR}.{HRL_VERSION_MINOR}.{HRL_VERSION_PATCH}");
        assert_eq!(macros, env!("CARGO_PKG_VERSION"));
    }
}
