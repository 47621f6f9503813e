//! Gateways: a vault of `hrl` served over HTTPS with client certificates, and the store that their
//! clients see.
//!
//! [`Gateway`] serves any store of [`hrl::store`], optionally with a disk cache that acknowledges
//! segments before the vault has them. [`RemoteStore`] reaches one or several gateways side by side.
//! [`Mirror`] makes one vault follow another. Identities and roles come from the crate `hrl-tls`,
//! the audit log from `hrl-audit`.

mod cache;
mod client;
mod connection;
mod continuation;
mod http;
mod limits;
mod mirror;
mod newness;
mod options;
mod quota;
mod refusals;
mod revoked;
mod rights;
mod server;
mod shared;
mod sockets;
mod tasks;

#[cfg(any(test, feature = "testing"))]
pub use client::GatewayStream;
pub use client::{CONNECTIONS_MAX, GATEWAY_PORT, RemoteStore};
pub use mirror::{Mirror, MirrorOptions, MirroredVolume};
pub use options::{Acknowledge, GatewayOptions};
pub use refusals::RefusalSink;
pub use revoked::{revocations, revoke};
pub use server::Gateway;
pub use shared::GatewayStats;
