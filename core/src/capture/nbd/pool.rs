//! Threads for what a ring cannot do.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

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
                std::thread::Builder::new()
                    .name("hrl-nbd-pool".into())
                    .spawn(move || work(&queue))
                    .ok()
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
