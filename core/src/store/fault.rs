#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
pub struct FaultStore;
pub enum StoreFault {}
