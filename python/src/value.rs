//! Structs of the crate as small frozen Python classes: the one place that says how a value of the crate looks in Python.
//!
//! `mirror!` lists the fields of a class beside their docs. A field takes the field of that name of the crate's struct, or
//! what stands behind `=`, and [`Shown`] turns it into the type that Python sees. Every class has attributes, a `repr`, `==`
//! and access by name (`report["segments"]`, `dict(report)`). An `unpacking` one can be taken apart as a tuple.

use std::path::PathBuf;
use std::time::Duration;

use hrl::journal::PointKind;
use hrl::replica::{GoodBecause, KeepReason};
use hrl::vault::{Stage, StepKind, VerdictKind};
use hrl::{Cause, ChainHash, Epoch, KeyId, Mode, PointId, Sequence, Timestamp, VolumeId};
use pyo3::exceptions::{PyIndexError, PyKeyError};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyTuple};

/// Turns a value of the crate into what Python sees of it.
pub(crate) trait Shown<T> {
    /// The value for Python.
    fn shown(self) -> T;
}

macro_rules! shown_as_it_is {
    ($($type:ty),+) => { $(impl Shown<$type> for $type {
        fn shown(self) -> $type {
            self
        }
    })+ };
}
shown_as_it_is!(bool, u16, u32, u64, usize, i64, f64, String, &'static str, PathBuf);

macro_rules! shown_as_text {
    ($($type:ty),+) => { $(impl Shown<String> for $type {
        fn shown(self) -> String {
            self.to_string()
        }
    })+ };
}
shown_as_text!(ChainHash, KeyId, PointId, Timestamp, VolumeId);

macro_rules! shown_by_name {
    ($($type:ty),+) => { $(impl Shown<&'static str> for $type {
        fn shown(self) -> &'static str {
            self.name()
        }
    })+ };
}
shown_by_name!(Cause, GoodBecause, KeepReason, Mode, PointKind, Stage, StepKind, VerdictKind);

impl Shown<u64> for Sequence {
    fn shown(self) -> u64 {
        self.0
    }
}

impl Shown<u32> for Epoch {
    fn shown(self) -> u32 {
        self.0
    }
}

/// Nanoseconds since 1970.
impl Shown<i64> for Timestamp {
    fn shown(self) -> i64 {
        self.0
    }
}

/// Seconds.
impl Shown<f64> for Duration {
    fn shown(self) -> f64 {
        self.as_secs_f64()
    }
}

impl<A: Shown<B>, B> Shown<Option<B>> for Option<A> {
    fn shown(self) -> Option<B> {
        self.map(Shown::shown)
    }
}

impl<T: Shown<B>, B> Shown<Vec<B>> for Vec<T> {
    fn shown(self) -> Vec<B> {
        self.into_iter().map(Shown::shown).collect()
    }
}

/// The `repr` of a value: its class and the fields `names`.
pub(crate) fn repr(value: &Bound<'_, PyAny>, names: &[&str]) -> PyResult<String> {
    let fields = names
        .iter()
        .map(|name| Ok(format!("{name}={}", value.getattr(*name)?.repr()?)))
        .collect::<PyResult<Vec<_>>>()?;
    Ok(format!("{}({})", value.get_type().name()?, fields.join(", ")))
}

/// A field by its name; by its place, too, where `places` is set.
pub(crate) fn item<'py>(
    value: &Bound<'py, PyAny>,
    names: &[&'static str],
    key: &Bound<'py, PyAny>,
    places: bool,
) -> PyResult<Bound<'py, PyAny>> {
    if places && let Ok(place) = key.extract::<isize>() {
        let from_start = if place < 0 { place + names.len().cast_signed() } else { place };
        let name = usize::try_from(from_start).ok().and_then(|at| names.get(at));
        return value.getattr(*name.ok_or_else(|| PyIndexError::new_err(place))?);
    }
    let wanted = key.extract::<String>().ok();
    match names.iter().find(|name| wanted.as_deref() == Some(**name)) {
        Some(name) => value.getattr(*name),
        None => Err(PyKeyError::new_err(key.clone().unbind())),
    }
}

/// The fields `names` of a value as a tuple.
pub(crate) fn tuple<'py>(
    value: &Bound<'py, PyAny>,
    names: &[&str],
) -> PyResult<Bound<'py, PyTuple>> {
    let values = names.iter().map(|name| value.getattr(*name)).collect::<PyResult<Vec<_>>>()?;
    PyTuple::new(value.py(), values)
}

/// Iterates over the fields `names` of a value.
pub(crate) fn iterate<'py>(
    value: &Bound<'py, PyAny>,
    names: &[&str],
) -> PyResult<Bound<'py, PyIterator>> {
    tuple(value, names)?.try_iter()
}

/// Whether `other` is a tuple of the fields `names` of a value.
pub(crate) fn is_tuple(
    value: &Bound<'_, PyAny>,
    names: &[&str],
    other: &Bound<'_, PyAny>,
) -> PyResult<bool> {
    tuple(value, names)?.eq(other)
}

/// Declares a Python class that mirrors a struct of the crate.
///
/// ```text
/// mirror! {
///     /// Describes what a restore wrote.
///     RestoreReport(report: hrl::replica::RestoreReport) {
///         /// Sequence of the restored state.
///         sequence: u64,
///         /// Size of the volume in MiB.
///         mib: u64 = report.volume_bytes >> 20,
///     }
/// }
/// ```
///
/// `shows a b;` behind the fields names those in the `repr`, which are all by default. `same by id;` behind that compares and
/// hashes values by one field. `unpacking` before the class makes a value iterable, and equal to a tuple of its fields.
macro_rules! mirror {
    ($(#[$about:meta])* unpacking $class:ident $($rest:tt)+) => {
        $crate::value::mirror! { @class true $(#[$about])* $class $($rest)+ }

        #[pyo3::pymethods]
        impl $class {
            fn __iter__<'py>(
                slf: &pyo3::Bound<'py, Self>,
            ) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::types::PyIterator>> {
                $crate::value::iterate(slf, Self::FIELDS)
            }

            fn __len__(&self) -> usize {
                Self::FIELDS.len()
            }
        }
    };
    (
        @class $unpacks:literal $(#[$about:meta])* $class:ident($from:ident: $core:ty) {
            $($(#[$doc:meta])* $field:ident: $type:ty $(= $value:expr)?,)+
        }
        $(shows $($shown:ident)+;)?
        $(same by $id:ident;)?
    ) => {
        $(#[$about])*
        #[pyo3::pyclass(frozen, get_all, module = "hrl")]
        #[derive(Clone)]
        pub(crate) struct $class {
            $($(#[$doc])* pub(crate) $field: $type,)+
        }

        impl $class {
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),+];
        }

        impl $crate::value::Shown<$class> for $core {
            fn shown(self) -> $class {
                let $from = self;
                $class { $($field: $crate::value::mirror!(@value $from $field $($value)?),)+ }
            }
        }

        $crate::value::mirror! { @same $class [$($field)+] $($id)? }

        #[pyo3::pymethods]
        impl $class {
            fn __repr__(slf: &pyo3::Bound<'_, Self>) -> pyo3::PyResult<String> {
                $crate::value::repr(slf, $crate::value::mirror!(@shown [$($field)+] $($($shown)+)?))
            }

            fn __eq__(slf: &pyo3::Bound<'_, Self>, other: &pyo3::Bound<'_, pyo3::PyAny>) -> pyo3::PyResult<bool> {
                if let Ok(other) = other.cast::<Self>() {
                    return Ok(slf.get() == other.get());
                }
                Ok($unpacks && $crate::value::is_tuple(slf, Self::FIELDS, other)?)
            }

            fn __getitem__<'py>(
                slf: &pyo3::Bound<'py, Self>,
                name: &pyo3::Bound<'py, pyo3::PyAny>,
            ) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                $crate::value::item(slf, Self::FIELDS, name, $unpacks)
            }

            /// Returns the names of its fields, so that `dict(value)` and `{**value}` work.
            fn keys(&self) -> Vec<&'static str> {
                Self::FIELDS.to_vec()
            }
        }
    };
    (@value $from:ident $field:ident) => { $crate::value::Shown::shown($from.$field) };
    (@value $from:ident $field:ident $value:expr) => { $crate::value::Shown::shown($value) };
    (@shown [$($all:ident)+]) => { Self::FIELDS };
    (@shown [$($all:ident)+] $($shown:ident)+) => { &[$(stringify!($shown)),+] };
    (@same $class:ident [$($all:ident)+]) => {
        impl PartialEq for $class {
            fn eq(&self, other: &Self) -> bool {
                true $(&& self.$all == other.$all)+
            }
        }
    };
    (@same $class:ident [$($all:ident)+] $id:ident) => {
        impl PartialEq for $class {
            fn eq(&self, other: &Self) -> bool {
                self.$id == other.$id
            }
        }

        #[pyo3::pymethods]
        impl $class {
            fn __hash__(&self) -> u64 {
                let mut hasher = std::hash::DefaultHasher::new();
                std::hash::Hash::hash(&self.$id, &mut hasher);
                std::hash::Hasher::finish(&hasher)
            }
        }
    };
    ($(#[$about:meta])* $class:ident $($rest:tt)+) => {
        $crate::value::mirror! { @class false $(#[$about])* $class $($rest)+ }
    };
}
pub(crate) use mirror;
