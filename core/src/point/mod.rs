#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
