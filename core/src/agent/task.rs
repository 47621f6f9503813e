//! Tasks: step functions that run beside the writers.
//!
//! A step does what there is to do now and returns when to call it again. It never sleeps and never
//! waits for another task, so a simulation can call steps in any order. In an agent, each task has
//! a thread that calls its steps and sleeps in between. A step that comes too early does no harm.

use std::sync::Arc;
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use super::crowding::Crowding;
use super::next::Next;
use super::shared::Shared;
use crate::capture::thread_waker;

/// Scheduling priority of the tasks, below that of writers.
const TASK_NICENESS: i32 = 10;

/// One of the tasks of a protection.
pub(super) trait Task: Send {
    /// Returns the name of its thread, without `hrl-`.
    fn name(&self) -> &'static str;
    /// Does what there is to do now. Whatever the step cannot wait for calls `waker` later.
    fn step(&mut self, shared: &Shared, waker: &Waker) -> Next;
    /// Returns whether the task does less while its thread has to wait for a processor. Default:
    /// no.
    fn gives_way(&self) -> bool {
        false
    }
    /// Sets whether the thread of a task that gives way has to wait for a processor. Never called
    /// in a simulation.
    fn set_crowded(&mut self, _yes: bool) {}
    /// Waits until there is work, for at most `limit`. Default: until the waker is called.
    fn wait_for_work(&self, _shared: &Shared, limit: Duration) {
        std::thread::park_timeout(limit);
    }
}

/// Runs a task on its own thread until it ends. A stop and an end wake the thread.
pub(super) fn spawn(shared: &Arc<Shared>, mut task: Box<dyn Task>) -> JoinHandle<()> {
    let shared = shared.clone();
    std::thread::Builder::new()
        .name(format!("hrl-{}", task.name()))
        .spawn(move || {
            // On a busy machine the journal falls behind rather than the writer. If the system
            // refuses, all threads are equal.
            let this_thread = Some(rustix::thread::gettid());
            let _ = rustix::process::setpriority_process(this_thread, TASK_NICENESS);
            let waker = thread_waker();
            shared.requests.add_thread(waker.clone());
            let gives_way = task.gives_way().then(|| shared.clock.elapsed());
            let mut crowding = gives_way.and_then(Crowding::of_this_thread);
            loop {
                if let Some(changed) =
                    crowding.as_mut().and_then(|c| c.look(shared.clock.elapsed()))
                {
                    task.set_crowded(changed);
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
