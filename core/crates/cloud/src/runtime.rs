//! The runtime of the HTTP client on its own thread, so that callers simply block.
//!
//! Requests are sent to the thread and awaited on a channel, so a caller may itself be a task of
//! some runtime. Dropping the runtime ends the thread and everything under way.

use std::future::Future;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A thread that drives requests.
pub(super) struct Runtime {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    pub(super) fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("hrl-store".into()).spawn(move || {
            // Both a message and a dropped sender mean the end.
            let _ = runtime.block_on(stopped);
            // Name resolution on a blocking thread is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Runs `work` on the thread and waits for it; `None` if it panicked.
    pub(super) fn run<F>(&self, work: F) -> Option<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (answer, answered) = mpsc::sync_channel(1);
        self.handle.spawn(async move {
            let output = work.await;
            // The caller waits below.
            let _ = answer.send(output);
        });
        answered.recv().ok()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
