#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
pub struct DirtyMap; pub struct DirtyMapParams; pub struct DirtyMapState;
