//! Tasks: what runs beside the writers, as steps.
//!
//! A step does what there is to do now and says when it wants to come again. It never sleeps and never waits for another
//! task, so a simulation calls steps in an order of its own; here a thread for each task calls them and sleeps in between.
//! A step that comes too early, or for nothing, does no harm.

use std::sync::Arc;
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use super::Shared;
use super::crowding::Crowding;
use crate::capture::thread_waker;

/// Scheduling priority of the tasks, below that of writers.
const TASK_NICENESS: i32 = 10;

/// When a task wants to step again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// At once.
    Now,
    /// When there is work, or after this time.
    Work(Duration),
    /// After this time, or when its waker was called.
    Later(Duration),
    /// Never.
    Ended,
}

/// One of the tasks of a protection.
pub(super) trait Task: Send {
    /// Name of its thread, after `hrl-`.
    fn name(&self) -> &'static str;
    /// Does what there is to do now. `waker` is for those that it would have to wait for.
    fn step(&mut self, shared: &Shared, waker: &Waker) -> Next;
    /// It wants to be told when its thread has to wait for a processor. Default: no.
    fn gives_way(&self) -> bool {
        false
    }
    /// Its thread had to wait for a processor, or no longer has to, if it wants to know. Steps that others call are never
    /// told.
    fn note_crowded(&mut self, _yes: bool) {}
    /// Waits until there is work, for at most `limit`. Default: for all of it.
    fn wait_for_work(&self, _shared: &Shared, limit: Duration) {
        std::thread::park_timeout(limit);
    }
}

/// Runs a task on a thread of its own until it ended. Unpark the thread to make it step at once.
pub(super) fn spawn(shared: &Arc<Shared>, mut task: Box<dyn Task>) -> JoinHandle<()> {
    let shared = shared.clone();
    std::thread::Builder::new()
        .name(format!("hrl-{}", task.name()))
        .spawn(move || {
            // The writer's threads go first: on a busy machine the journal falls behind rather than the writer. Where
            // the system refuses, all are equal.
            let this_thread = Some(rustix::thread::gettid());
            let _ = rustix::process::setpriority_process(this_thread, TASK_NICENESS);
            let waker = thread_waker();
            let mut crowding = if task.gives_way() {
                Crowding::of_this_thread(shared.clock.elapsed())
            } else {
                None
            };
            loop {
                if let Some(changed) =
                    crowding.as_mut().and_then(|c| c.look(shared.clock.elapsed()))
                {
                    task.note_crowded(changed);
                }
                match task.step(&shared, &waker) {
                    Next::Now => {}
                    Next::Work(limit) => task.wait_for_work(&shared, limit),
                    Next::Later(pause) => std::thread::park_timeout(pause),
                    Next::Ended => return,
                }
            }
        })
        .expect("the system can start a thread")
}
