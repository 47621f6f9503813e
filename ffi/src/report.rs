//! Structures that the library fills for C, and how values of the crate appear in them.
//!
//! `report!` lists the fields of a structure once: name, type in C, doc, and the value behind `=`.
//! Without `=` a field takes the field of its name. [`Shown`] converts a value to the type in C.
//! `tests/header.rs` reads the same lines, so each field stands on a line of its own.
//!
//! Every structure begins with `struct_bytes`, the size that its reader knows. A structure grows at
//! its end, in the block `later`: programs of the first release give and get the fields before it.

use std::ffi::c_char;
use std::time::Duration;

use engine::{ChainHash, Epoch, PointId, Sequence, Timestamp, VolumeId};

use crate::handle::fixed_text;

/// Converts a value of the crate to its type in C.
pub(crate) trait Shown<T> {
    /// Returns the value for C.
    fn shown(&self) -> T;
}

macro_rules! shown_as_it_is {
    ($($type:ty),+) => { $(impl Shown<$type> for $type {
        fn shown(&self) -> $type {
            *self
        }
    })+ };
}
shown_as_it_is!(bool, u32, u64, usize, i32, i64);

macro_rules! shown_as_digits {
    ($($type:ty),+) => { $(impl<const N: usize> Shown<[c_char; N]> for $type {
        fn shown(&self) -> [c_char; N] {
            fixed_text(&self.to_string())
        }
    })+ };
}
shown_as_digits!(ChainHash, PointId, VolumeId);

impl<T> Shown<*const T> for *const T {
    fn shown(&self) -> *const T {
        *self
    }
}

impl Shown<u64> for Sequence {
    fn shown(&self) -> u64 {
        self.0
    }
}

impl Shown<u32> for Epoch {
    fn shown(&self) -> u32 {
        self.0
    }
}

/// Nanoseconds since 1970 in UTC.
impl Shown<i64> for Timestamp {
    fn shown(&self) -> i64 {
        self.0
    }
}

/// The text, cut at a character if it does not fit.
impl<const N: usize> Shown<[c_char; N]> for &str {
    fn shown(&self) -> [c_char; N] {
        fixed_text(self)
    }
}

/// As for `&str`.
impl<const N: usize> Shown<[c_char; N]> for String {
    fn shown(&self) -> [c_char; N] {
        fixed_text(self)
    }
}

/// The digits, or empty text.
impl<const N: usize> Shown<[c_char; N]> for Option<PointId> {
    fn shown(&self) -> [c_char; N] {
        self.as_ref().map_or([0; N], Shown::shown)
    }
}

/// The number of elements.
impl<T> Shown<u64> for Vec<T> {
    fn shown(&self) -> u64 {
        self.len() as u64
    }
}

/// Returns a duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a duration in microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Declares a structure that shows a value of the crate.
///
/// ```text
/// report! {
///     /// Reports what a restore did.
///     pub struct hrl_restore_report from done: RestoreReport {
///         /// Sequence of the restored state.
///         sequence: u64,
///         /// Size of the volume in MiB.
///         volume_mib: u64 = done.volume_bytes >> 20,
///     } later {
///         /// Segments read. Since 0.2.
///         segments: u64,
///     }
/// }
/// ```
macro_rules! report {
    (
        $(#[$about:meta])*
        pub struct $name:ident from $from:tt: $source:ty {
            $($(#[$doc:meta])* $field:ident: $type:ty $(= $value:expr)?,)+
        } $(later {
            $($(#[$new_doc:meta])* $new:ident: $new_type:ty $(= $new_value:expr)?,)+
        })?
    ) => {
        $(#[$about])*
        #[repr(C)]
        #[derive(Clone, Copy)]
        pub struct $name {
            pub struct_bytes: usize,
            $($(#[$doc])* pub $field: $type,)+
            $($($(#[$new_doc])* pub $new: $new_type,)+)?
        }

        $crate::handle::versioned!($name);

        const _: () = {
            #[repr(C)]
            #[allow(dead_code, reason = "its size is all that is asked")]
            struct First {
                struct_bytes: usize,
                $($field: $type,)+
            }

            impl $crate::handle::Report for $name {
                const FIRST_BYTES: usize = size_of::<First>();
            }

            // By its size a program could not know of a new field in old padding.
            $($(assert!(std::mem::offset_of!($name, $new) >= size_of::<First>());)+)?
        };

        impl From<&$source> for $name {
            fn from($from: &$source) -> Self {
                Self {
                    struct_bytes: size_of::<Self>(),
                    $($field: $crate::report::Shown::shown(
                        $crate::report::report!(@value $from $field $($value)?)
                    ),)+
                    $($($new: $crate::report::Shown::shown(
                        $crate::report::report!(@value $from $new $($new_value)?)
                    ),)+)?
                }
            }
        }
    };
    (@value $from:tt $field:ident) => { &$from.$field };
    (@value $from:tt $field:ident $value:expr) => { &$value };
}
pub(crate) use report;

#[cfg(test)]
mod tests {
    use crate::handle::{Report as _, Room};

    struct Figures {
        reads: Vec<u8>,
        writes: u64,
    }

    report! {
        /// Grew by a field.
        pub struct hrl_figures from figures: Figures {
            reads: u64,
            small: bool = figures.writes < 10,
        } later {
            writes: u64,
        }
    }

    fn full() -> hrl_figures {
        hrl_figures::from(&Figures { reads: vec![0; 3], writes: 7 })
    }

    fn filled(struct_bytes: usize) -> hrl_figures {
        let mut out = hrl_figures { struct_bytes, reads: 99, small: false, writes: 99 };
        Room::from_mut(&mut out).needed("out").expect("room").fill(full());
        out
    }

    #[test]
    fn a_program_of_the_first_release_gets_the_fields_that_it_knows() {
        let first = hrl_figures::FIRST_BYTES;
        assert_eq!(first, size_of::<usize>() + 16);
        let out = filled(first);
        assert_eq!((out.struct_bytes, out.reads, out.small, out.writes), (first, 3, true, 99));
    }

    #[test]
    fn a_later_program_learns_how_much_was_filled() {
        let known = size_of::<hrl_figures>();
        assert_eq!((filled(known).writes, full().struct_bytes), (7, known));
        assert_eq!(filled(known + 8).struct_bytes, known);
    }

    #[test]
    fn room_below_the_first_release_is_refused_and_stays_untouched() {
        for struct_bytes in [0, 8, hrl_figures::FIRST_BYTES - 1] {
            let mut out = hrl_figures { struct_bytes, ..full() };
            out.reads = 99;
            let error = Room::from_mut(&mut out).needed("out").err().expect("refused").to_string();
            let expected = format!("at least {} bytes", hrl_figures::FIRST_BYTES);
            let found = format!("found {struct_bytes}");
            for part in ["hrl_figures.struct_bytes", &expected, &found] {
                assert!(error.contains(part), "{error}");
            }
            assert!(Room::from_mut(&mut out).optional().is_err());
            assert_eq!((out.struct_bytes, out.reads), (struct_bytes, 99));
        }
        assert!(Room::<hrl_figures>::none().needed("out").is_err());
        Room::<hrl_figures>::none().optional().expect("may be NULL").fill(full());
    }
}
