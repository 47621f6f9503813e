//! Threads for requests that may wait.

use std::sync::{Arc, PoisonError};
#[cfg(not(all(test, shuttle)))]
use std::{
    sync::{
        Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
};

#[cfg(all(test, shuttle))]
use shuttle::{
    sync::{
        Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
};

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads. The requests in flight of all clients bound the jobs.
pub struct Pool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` threads of this name. Those that the system refuses are missing.
    pub fn start(name: &str, threads: usize) -> Self {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let threads = (0..threads)
            .filter_map(|_| {
                let queue = queue.clone();
                thread::Builder::new().name(name.into()).spawn(move || work(&queue)).ok()
            })
            .collect();
        Self { jobs: Some(jobs), threads }
    }

    /// Runs a job on one of the threads.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
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

/// A model of the pool that shuttle schedules: `make concurrency`.
#[cfg(all(test, shuttle))]
mod concurrency {
    use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
    use shuttle::sync::atomic::{AtomicU64, Ordering};
    use shuttle::{Config, Runner};

    use super::*;

    /// Schedules by each scheduler, unless `SCHEDULES` says otherwise.
    const SCHEDULES: usize = 1_000;
    /// Changes of priority in a schedule of PCT.
    const DEPTH: usize = 4;
    const STACK_BYTES: usize = 512 << 10;

    fn run(scheduler: impl Scheduler + 'static) {
        let mut config = Config::new();
        config.stack_size = STACK_BYTES;
        Runner::new(scheduler, config).run(model);
    }

    #[test]
    fn every_job_runs_once_before_the_end_and_none_waits_for_one_that_waits() {
        let number = std::env::var("SCHEDULES").ok().and_then(|number| number.parse().ok());
        let number = number.unwrap_or(SCHEDULES);
        run(RandomScheduler::new_from_seed(0, number));
        run(PctScheduler::new_from_seed(0, DEPTH, number));
    }

    fn model() {
        let pool = Pool::start("pool", 8);
        let (sender, receiver) = channel();
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
    }
}
