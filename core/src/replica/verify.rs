#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use crate::error::Error;
#[derive(Debug)]
pub struct Finding {
    pub object: String,
    pub error: Error,
}
#[derive(Debug)]
pub struct VerifyReport {
    pub segments: u64,
    pub bytes: u64,
    pub points: u64,
    pub findings: Vec<Finding>,
}
impl VerifyReport {
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}
