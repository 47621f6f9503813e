//! TLS identities of a server and its clients, as directories of PEM files.
//!
//! ```text
//! PKI/authority.pem, PKI/authority.key       signs; the key stays where clients are enrolled
//! PKI/server.pem, PKI/server.key             the server
//! PKI/clients/NAME                           a client's fingerprints and its volumes
//! BUNDLE/authority.pem client.pem client.key what a client needs, with links that GnuTLS looks for
//! ```
//! A client is admitted if the authority signed its certificate *and* its fingerprint is pinned.
//! The certificate says what the client may do: its [`Role`], and its volumes. Removing its file
//! under `clients` locks it out. The provider is ring; no global default is installed.

mod address;
#[cfg(feature = "authority")]
mod authority;
mod config;
mod enrolled;
mod reload;
mod rights;

pub use address::ServerAddress;
#[cfg(feature = "authority")]
pub use authority::{
    Enrollment, create_authority, enroll_client, renew_server, request_client, revoke_client,
};
#[cfg(feature = "testing")]
pub use authority::{enroll_without_role, let_client_expire, reissue_server};
pub use config::{client_config, server_config};
pub use enrolled::{Enrolled, EnrolledClient, find_client, fingerprint};
pub use rights::{ALL_VOLUMES, CertificateRights, Role};
pub use rustls;
