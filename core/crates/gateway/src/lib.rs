//! Gateways: a vault of `hrl` served over HTTPS with client certificates, and the store that their
//! clients see.
//!
//! [`Gateway`] serves any store of [`hrl::store`], optionally with a disk cache that acknowledges
//! segments before the vault has them. [`RemoteStore`] reaches one or several gateways side by side.
//! [`Mirror`] makes one vault follow another. Identities come from the crate `hrl-tls`.

mod cache;
mod client;
mod connection;
mod http;
mod limits;
mod mirror;
mod server;

#[cfg(any(test, feature = "testing"))]
pub use client::GatewayStream;
pub use client::{CONNECTIONS_MAX, GATEWAY_PORT, RemoteStore};
pub use mirror::{Mirror, MirrorOptions, MirroredVolume};
pub use server::{Acknowledge, Gateway, GatewayOptions, GatewayStats};
