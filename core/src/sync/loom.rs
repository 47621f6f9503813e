//! The primitives of a model that loom explores: atomics, locks and what is initialised once. Threads are std's: no model of
//! loom's reaches a module that uses them.

pub(crate) use std::{thread, thread_local};

pub(crate) use ::loom::sync::{MutexGuard, atomic};

/// As [`super::lock::Mutex`]: a model ends with its first panic.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(::loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(::loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("a model ends with its first panic")
    }
}

/// As [`super::lock::Condvar`].
#[derive(Debug, Default)]
pub(crate) struct Condvar(::loom::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(guard).expect("a model ends with its first panic")
    }
}

/// As std's, which loom lacks.
#[derive(Debug, Default)]
pub(crate) struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    /// These tell the model that whoever finds the value sees what was done before.
    is_set: atomic::AtomicBool,
    setting: Mutex<()>,
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> Self {
        Self {
            value: std::sync::OnceLock::new(),
            is_set: atomic::AtomicBool::new(false),
            setting: Mutex::new(()),
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        if self.is_set.load(atomic::Ordering::Acquire) { self.value.get() } else { None }
    }

    pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
        if let Some(value) = self.get() {
            return value;
        }
        let _one = self.setting.lock();
        let value = self.value.get_or_init(init);
        self.is_set.store(true, atomic::Ordering::Release);
        value
    }
}

/// Preemptions in one schedule at most; what is between is tried in full (Musuvathi and Qadeer 2007).
const PREEMPTIONS: usize = 3;

/// Runs a model with every order of its steps and every value that a load may see.
pub(crate) fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(PREEMPTIONS));
    builder.check(model);
}
