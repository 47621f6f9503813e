//! A proxy before a server, which loses, delays, refuses and counts.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to the next requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server carries out the request, and the connection is cut before the answer.
    AnswerLost,
    /// The proxy answers 503 without asking the server.
    Overload,
    /// The answer comes late.
    Slow(Duration),
    /// No answer ever comes.
    Silence,
    /// The answer is cut in the middle.
    CutAnswer,
}

#[derive(Default)]
struct State {
    fault: Mutex<Option<(Fault, u64)>>,
    requests: AtomicU64,
    bytes_out: AtomicU64,
    ended: AtomicBool,
}

pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

impl Proxy {
    pub fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("address").port();
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), shared) = (client, shared.clone()) else { continue };
                std::thread::spawn(move || {
                    // If the server is down, the client's connection closes.
                    if let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)) {
                        serve(client, upstream, &shared);
                    }
                });
            }
        });
        Self { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Applies a fault to the next `count` requests.
    pub fn fail(&self, fault: Fault, count: u64) {
        *self.state.fault.lock().expect("lock") = Some((fault, count));
    }

    /// Returns requests seen and bytes of answers since the last call.
    pub fn take_counts(&self) -> (u64, u64) {
        let take = |count: &AtomicU64| count.swap(0, Ordering::SeqCst);
        (take(&self.state.requests), take(&self.state.bytes_out))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl State {
    fn take_fault(&self) -> Option<Fault> {
        let mut fault = self.fault.lock().expect("lock");
        let (kind, left) = (*fault)?;
        *fault = (left > 1).then_some((kind, left - 1));
        Some(kind)
    }
}

/// Forwards requests one after the other, as the client sends them; each begins with its head.
fn serve(mut client: TcpStream, upstream: TcpStream, state: &Arc<State>) {
    let fault: Arc<Mutex<Option<Fault>>> = Arc::default();
    let answers = {
        let (mut from, mut to) =
            (upstream.try_clone().expect("socket"), client.try_clone().expect("socket"));
        let (state, fault) = (state.clone(), fault.clone());
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let (count, cut) = match *fault.lock().expect("lock") {
                    Some(Fault::AnswerLost) => break,
                    Some(Fault::CutAnswer) => (count - count / 3, true),
                    Some(Fault::Slow(delay)) => {
                        std::thread::sleep(delay);
                        (count, false)
                    }
                    _ => (count, false),
                };
                state.bytes_out.fetch_add(count as u64, Ordering::SeqCst);
                if to.write_all(&buffer[..count]).is_err() || cut {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        })
    };
    let mut upstream = upstream;
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        if begins_request(&buffer[..count]) {
            state.requests.fetch_add(1, Ordering::SeqCst);
            let next = state.take_fault();
            *fault.lock().expect("lock") = next;
            match next {
                Some(Fault::Overload) => {
                    let text = "<Error><Code>SlowDown</Code><Message>Wait.</Message></Error>";
                    let answer = format!(
                        "HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
                        text.len()
                    );
                    let _ = client.write_all(answer.as_bytes());
                    // Read what the client still sends, or it would see a reset instead of the
                    // answer.
                    let _ = client.shutdown(Shutdown::Write);
                    while let Ok(1..) = client.read(&mut buffer) {}
                    break;
                }
                Some(Fault::Silence) => {
                    while let Ok(1..) = client.read(&mut buffer) {}
                    break;
                }
                _ => {}
            }
        }
        if upstream.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = upstream.shutdown(Shutdown::Both);
    let _ = answers.join();
}

fn begins_request(bytes: &[u8]) -> bool {
    ["PUT /", "GET /", "HEAD /", "DELETE /", "POST /"]
        .iter()
        .any(|start| bytes.starts_with(start.as_bytes()))
}
