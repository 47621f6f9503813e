//! One queue: takes requests, and answers them in order.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vhost_user_backend::{VringRwLock, VringT};
use virtio_queue::{DescriptorChain, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

use crate::request::{self, Action, Memory, Outcome};
use crate::service::Service;

/// The requests of one queue that are under way.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// A request was answered.
    answered: Condvar,
}

#[derive(Default)]
struct State {
    /// Whether the client was told that there may be answers it has not heard of.
    has_signalled: bool,
    /// Number of the next request that is taken.
    taken: u64,
    /// Number of the next request that is answered.
    next: u64,
    /// Requests that are done, before their turn.
    done: BTreeMap<u64, Done>,
    /// Bytes of the requests under way.
    bytes: u64,
}

impl State {
    /// Returns the request whose turn it is, if it is done.
    fn take_next(&mut self) -> Option<Done> {
        self.done.remove(&self.next)
    }
}

/// A request that is done.
struct Done {
    chain: DescriptorChain<Memory>,
    memory: Memory,
    outcome: Outcome,
    /// Bytes that it was counted with.
    bytes: u64,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all requests that the client has made available. Returns once there are no more; then
    /// the client notifies of the next.
    pub(crate) fn take_all(
        self: &Arc<Self>,
        service: &Arc<Service>,
        vring: &VringRwLock,
        memory: &GuestMemoryAtomic<GuestMemoryMmap>,
    ) {
        if !std::mem::replace(&mut self.lock().has_signalled, true) {
            // A server that was killed may have answered without a signal.
            let _ = vring.signal_used_queue();
        }
        loop {
            if vring.disable_notification().is_err() {
                return;
            }
            loop {
                let memory = memory.memory();
                let chain = vring.get_mut().get_queue_mut().pop_descriptor_chain(memory.clone());
                let Some(chain) = chain else { break };
                self.take(service, vring, chain, memory);
            }
            match vring.enable_notification() {
                Ok(true) => {}
                // A ring that cannot be read is looked at again when its client kicks.
                Ok(false) | Err(_) => return,
            }
        }
    }

    fn take(
        self: &Arc<Self>,
        service: &Arc<Service>,
        vring: &VringRwLock,
        chain: DescriptorChain<Memory>,
        memory: Memory,
    ) {
        let size = request::bytes_of(&chain, service.limits.request_bytes_max.into());
        let bytes = size.as_ref().map_or(0, |bytes| *bytes);
        let number = self.begin(bytes, service.limits.backlog_bytes_max);
        let (queue, vring, shared) = (self.clone(), vring.clone(), service.clone());
        service.pool.run(move || {
            let action = match size {
                Ok(_) => request::read(chain.clone(), &memory),
                Err(error) => Action::Refused(error),
            };
            let outcome = request::run(action, &shared);
            queue.end(&shared, &vring, number, Done { chain, memory, outcome, bytes });
        });
    }

    /// Waits until there is room for the bytes of a request, and gives it its number.
    fn begin(&self, bytes: u64, bytes_max: u64) -> u64 {
        let mut state = self.lock();
        while state.bytes > 0 && state.bytes + bytes > bytes_max {
            state = self.answered.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.bytes += bytes;
        state.taken += 1;
        state.taken - 1
    }

    /// Answers a request that is done, and those after it, once all before it are answered.
    fn end(&self, service: &Service, vring: &VringRwLock, number: u64, done: Done) {
        let mut state = self.lock();
        state.done.insert(number, done);
        let mut answered = 0;
        while let Some(done) = state.take_next() {
            let head = done.chain.head_index();
            let written = request::answer(done.chain, &done.memory, &done.outcome);
            // A ring that its client has taken away gets no answer.
            let _ = vring.add_used(head, written);
            let Outcome { data, written: changed, is_change, .. } = &done.outcome;
            let is_done = done.outcome.is_done();
            service.counters.count(is_done, data.len() as u64, *changed, *is_change);
            state.next += 1;
            state.bytes -= done.bytes;
            answered += 1;
        }
        // Under the lock: the next answer must see that this one was told of.
        if answered > 0 && vring.needs_notification().unwrap_or(true) {
            let _ = vring.signal_used_queue();
        }
        drop(state);
        self.answered.notify_all();
    }

    /// Waits until every request that was taken is answered.
    pub(crate) fn drain(&self) {
        let mut state = self.lock();
        while state.next < state.taken {
            state = self.answered.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
