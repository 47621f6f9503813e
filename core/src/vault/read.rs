//! Reading the catalogs of a vault's volumes, whole or up to what is lost.

use super::catalog::Catalog;
use super::record::VolumeInfo;
use super::versions::VersionNames;
use super::{Vault, layout};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::KeyRing;

impl Vault {
    /// Reads the catalog of a volume. `Corrupt` if it lists objects of another volume: then the
    /// directory of that one lies here.
    pub(crate) fn catalog(&self, info: &VolumeInfo, keys: &KeyRing) -> Result<Catalog> {
        let mut catalog = Catalog::unread(self, info, keys);
        catalog.refresh()?;
        let own = layout::volume_prefix(&info.name);
        let listed = catalog.published().map(|entry| &entry.object);
        let foreign = listed.chain(catalog.retired().keys()).find(|name| !name.starts_with(&own));
        let Some(foreign) = foreign else { return Ok(catalog) };
        let prefix = layout::catalog_prefix(&info.name);
        Err(Error::new(ErrorKind::Corrupt, "read catalog", prefix)
            .expected(format_args!("a catalog of objects of volume {}", info.name))
            .found(foreign))
    }

    /// Reads the catalog of a volume up to the first version that is missing or follows another.
    pub(crate) fn catalog_up_to_gap(&self, info: &VolumeInfo, keys: &KeyRing) -> Result<Catalog> {
        let mut catalog = Catalog::unread(self, info, keys);
        catalog.read_up_to_gap()?;
        Ok(catalog)
    }

    /// Accepts that versions of a volume's catalog are lost: readers and failovers go on with the last
    /// one before the gap. Nothing is deleted, and the catalog is whole again if the versions return.
    ///
    /// For a vault that went back, or lost objects, after which its source put another version and was
    /// lost itself. Returns the last version before the gap and the newest one; `None` if no version
    /// is missing. `Corrupt` if no version can be read.
    pub fn accept_gap(&self, name: &str) -> Result<Option<(u64, u64)>> {
        let info = self.volume(name)?;
        let prefix = layout::catalog_prefix(&info.name);
        let names = VersionNames::of(&prefix, &self.store.list(&prefix)?);
        let (from, until) = (names.end_before_gap(), names.newest());
        if from == until {
            return Ok(None);
        }
        if from == 0 {
            return Err(Error::new(ErrorKind::Corrupt, "accept the end of", prefix)
                .expected("a version before the gap")
                .found(format_args!("versions up to {until}, none of which can be read")));
        }
        let left = self.catalog_up_to_gap(&info, &self.keys(&info)?)?;
        if left.version() != from {
            return Err(Error::new(ErrorKind::Corrupt, "accept the end of", prefix)
                .expected(format_args!("version {from} that follows those before"))
                .found("one that follows another"));
        }
        self.store.put(&VersionNames::gate(&prefix, from, until), b"")?;
        Ok(Some((from, until)))
    }
}
