//! Gateways and mirrors: what moves segments between two stores.

#[cfg(feature = "gateway")]
pub(crate) mod gateway;
pub(crate) mod mirror;
