//! The threads of a gateway: they accept connections, watch over them, and forward the cache.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hrl_audit::Entry;

use crate::revoked::LIST_EVERY;
use crate::shared::Shared;
use crate::sockets::{Place, Sockets};

/// How long tasks wait before they look whether the gateway stops.
pub(crate) const POLL: Duration = Duration::from_millis(200);
/// How often open connections are compared with what their clients may do now.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Gives each connection a thread that runs `serve`, up to the limits.
pub(crate) fn accept(
    shared: &Arc<Shared>,
    listener: &TcpListener,
    sockets: &Arc<Sockets>,
    serve: impl Fn(&Arc<Shared>, TcpStream, &Place) -> io::Result<()> + Sync,
) {
    let serve = &serve;
    std::thread::scope(|scope| {
        loop {
            let accepted = listener.accept();
            if shared.is_stopping() {
                return;
            }
            let Ok((socket, _)) = accepted else {
                std::thread::sleep(POLL);
                continue;
            };
            let Some(place) = sockets.admit(&socket) else {
                shared.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let thread = std::thread::Builder::new().name("hrl-gw-conn".into());
            // If there is no thread, the place is given back.
            let _ = thread.spawn_scoped(scope, move || {
                // A failure concerns only the client of the connection.
                let _ = serve(shared, socket, &place);
            });
        }
    });
}

/// Ends connections whose clients are enrolled or permitted as before no more, and appends to the
/// audit log what is due.
pub(crate) fn watch(shared: &Arc<Shared>) {
    let clock = &shared.options.clock;
    let (mut looked, mut listed) = (clock.elapsed(), clock.elapsed());
    while !shared.is_stopping() {
        std::thread::sleep(POLL);
        // It goes on with the next try; nothing is deleted meanwhile.
        let _ = shared.audit.tick();
        let now = clock.elapsed();
        if now.saturating_sub(listed) >= LIST_EVERY {
            listed = now;
            // What was read last stays in force.
            let _ = shared.revoked.read(&*shared.vault);
        }
        if now.saturating_sub(looked) >= LOOK_EVERY {
            looked = now;
            end_revoked(shared);
        }
    }
}

fn end_revoked(shared: &Shared) {
    let known = shared.sockets.known();
    if known.is_empty() {
        return;
    }
    // If they cannot be read, nobody is known to be revoked.
    let Ok(enrolled) = shared.enrolled() else { return };
    for (number, known) in known {
        let found = shared.find_among(&enrolled, &known.certificate);
        if found.as_ref().is_ok_and(|client| *client == known.client) {
            continue;
        }
        shared.sockets.end(number);
        let name = &known.client.name;
        let why = match found {
            Ok(_) => "its rights have changed".to_owned(),
            Err(error) => error.to_string(),
        };
        shared.refusals.line(name, &format!("a connection of {name} was ended: {why}"));
    }
}

/// Forwards the content of the cache to the vault.
pub(crate) fn forward(shared: &Arc<Shared>) {
    let Some(cache) = &shared.cache else { return };
    let counters = &shared.counters;
    while !shared.is_stopping() {
        let forwarded = cache.forward(&shared.vault, POLL);
        counters.forwarded_objects.fetch_add(forwarded.objects, Ordering::Relaxed);
        counters.forwarded_puts.fetch_add(forwarded.puts, Ordering::Relaxed);
        if forwarded.failure.is_some() || forwarded.puts > 0 {
            counters.vault_unavailable.store(forwarded.failure.is_some(), Ordering::Relaxed);
        }
        for conflict in forwarded.conflicts {
            counters.conflicts.fetch_add(1, Ordering::Relaxed);
            let (now, objects) = (shared.audit.now(), [conflict.name]);
            let entry = Entry::new(now, "gateway", "", "forward", &objects);
            shared.audit.record(entry.failed(&conflict.error));
            shared.refusals.line("gateway", &conflict.error.to_string());
        }
    }
}
