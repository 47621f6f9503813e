#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use super::*;
use std::path::Path;
/// A directory as a store.
pub struct DirStore {
    root: PathBuf,
}
impl DirStore {
    /// Opens an existing directory. `NotFound` when it is absent.
    pub fn open(root: &Path) -> Result<Self> {
        todo!()
    }
    /// Opens the directory, creating it (and its parents) durably when absent.
    pub fn create(root: &Path) -> Result<Self> {
        todo!()
    }
}
impl Store for DirStore {
    fn name(&self) -> String {
        todo!()
    }
    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        todo!()
    }
    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        todo!()
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        todo!()
    }
    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        todo!()
    }
    fn delete(&self, name: &str) -> Result<()> {
        todo!()
    }
}
