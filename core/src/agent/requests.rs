//! The queue of requests to the tasks.
//!
//! Callers and tasks ask a task to act before it would by itself. The task takes the request in one
//! of its next steps, so a simulation decides when. A stop and an end are for all tasks: nobody
//! takes them, and they wake the threads that sleep.

use std::collections::VecDeque;
use std::task::Waker;

use crate::sync::lock::Mutex;

/// A request to one task, or to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// To the journal: close the open segment now, whatever the policy's interval.
    Close,
    /// To shipping: publish now what is in the vault, whatever the policy's interval.
    Publish,
    /// To all: take no more points and begin no resync. Journal and shipping finish what there is.
    Stop,
    /// To all: return.
    End,
}

impl Request {
    const fn is_for_all(self) -> bool {
        matches!(self, Self::Stop | Self::End)
    }
}

#[derive(Default)]
struct RequestsState {
    waiting: VecDeque<Request>,
    /// Wakers of the threads that run tasks.
    threads: Vec<Waker>,
}

/// Requests that wait for their tasks, each at most once.
#[derive(Default)]
pub(super) struct Requests(Mutex<RequestsState>);

impl Requests {
    /// Queues `request`, unless it waits already.
    pub fn ask(&self, request: Request) {
        let mut state = self.0.lock();
        if !state.waiting.contains(&request) {
            state.waiting.push_back(request);
        }
        if request.is_for_all() {
            state.threads.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Takes `request` out of the queue. Returns whether it waited there.
    pub fn take(&self, request: Request) -> bool {
        assert!(!request.is_for_all(), "a request to all tasks stays for the others");
        let waiting = &mut self.0.lock().waiting;
        let found = waiting.iter().position(|asked| *asked == request);
        found.is_some_and(|at| waiting.remove(at).is_some())
    }

    /// Asks to close and publish now, for a caller that waits. Once its wait `is_done`, withdraws
    /// both.
    pub fn hurry_until(&self, is_done: bool) {
        for request in [Request::Close, Request::Publish] {
            if is_done {
                self.take(request);
            } else {
                self.ask(request);
            }
        }
    }

    /// Returns whether a stop or an end was asked for.
    pub fn is_stopping(&self) -> bool {
        self.0.lock().waiting.iter().any(|asked| asked.is_for_all())
    }

    /// Returns whether the end was asked for.
    pub fn has_ended(&self) -> bool {
        self.0.lock().waiting.contains(&Request::End)
    }

    /// Adds a thread to wake at a stop and at the end.
    pub fn add_thread(&self, waker: Waker) {
        self.0.lock().threads.push(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_once_until_its_task_takes_it() {
        let requests = Requests::default();
        requests.ask(Request::Close);
        requests.ask(Request::Publish);
        requests.ask(Request::Close);
        assert!(requests.take(Request::Close));
        assert!(!requests.take(Request::Close), "it was queued once");
        requests.hurry_until(true);
        assert!(!requests.take(Request::Publish), "it was withdrawn");
    }

    #[test]
    fn a_stop_stays_for_all_tasks_and_an_end_is_a_stop() {
        let requests = Requests::default();
        assert!(!requests.is_stopping());
        requests.ask(Request::Stop);
        assert!(requests.is_stopping() && requests.is_stopping());
        assert!(!requests.has_ended());
        let requests = Requests::default();
        requests.ask(Request::End);
        assert!(requests.is_stopping() && requests.has_ended());
    }
}
