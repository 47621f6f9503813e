//! Threads for what a ring cannot do.

use std::sync::{Arc, PoisonError};

use crate::sync::Mutex;
use crate::sync::mpsc::{Receiver, Sender, channel};
use crate::sync::thread::{self, JoinHandle};

/// Threads of a server.
const THREADS: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads. Jobs are bounded by the requests in flight of all connections.
pub(super) struct Pool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(super) fn start() -> Self {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let threads = (0..THREADS)
            .filter_map(|_| {
                let queue = queue.clone();
                thread::Builder::new().name("hrl-nbd-pool".into()).spawn(move || work(&queue)).ok()
            })
            .collect();
        Self { jobs: Some(jobs), threads }
    }

    /// Runs a job on one of the threads.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            // The threads live as long as the pool, so the channel is open.
            let _ = jobs.send(Box::new(job));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        job();
    }
}

#[cfg(all(test, shuttle))]
mod concurrency {
    use super::*;
    use crate::sync::atomic::{AtomicU64, Ordering};
    use crate::sync::explore;

    #[test]
    fn every_job_runs_once_before_the_end_and_none_waits_for_one_that_waits() {
        explore(|| {
            let pool = Pool::start();
            let (sender, receiver) = crate::sync::mpsc::channel();
            let runs = Arc::new(AtomicU64::new(0));
            let count = || {
                let runs = runs.clone();
                move || runs.fetch_add(1, Ordering::Relaxed)
            };
            let (first, second, third) = (count(), count(), count());
            pool.run(move || {
                receiver.recv().expect("the second job sends");
                first();
            });
            pool.run(move || {
                second();
                sender.send(()).expect("the first job waits");
            });
            pool.run(move || {
                third();
            });
            drop(pool);
            assert_eq!(runs.load(Ordering::Relaxed), 3);
        });
    }
}
