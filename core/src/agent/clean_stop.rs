//! Samples the disk at a clean stop, so that the next start may find that it changed since.
//!
//! A change that no sample shows is found only by the disk's witness ([`super::witness`]).

use crate::capture::CleanStop;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::units::Sequence;

/// Samples of the disk that are hashed at a clean stop.
const SAMPLES: u64 = 64;
const SAMPLE_BYTES: u64 = 4096;

/// Returns what the dirty map records of the disk at a clean stop.
pub(super) fn clean_stop(device: &dyn BlockDevice, last_sequence: Sequence) -> Result<CleanStop> {
    Ok(CleanStop { last_sequence, modified: device.modified(), sample: sample(device)? })
}

/// Returns whether the samples of the disk are those of the clean stop.
pub(super) fn is_sampled_alike(device: &dyn BlockDevice, stop: &CleanStop) -> Result<bool> {
    Ok(stop.sample == sample(device)?)
}

/// Returns a hash of samples spread evenly over the disk, its first and last block among them.
fn sample(device: &dyn BlockDevice) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let size = device.size_bytes();
    let length = SAMPLE_BYTES.min(size);
    let mut buffer = vec![0; length as usize];
    for number in 0..SAMPLES {
        let at = u128::from(size - length) * u128::from(number) / u128::from(SAMPLES - 1);
        device.read(at as u64 & !511, &mut buffer)?;
        hasher.update(&buffer);
    }
    Ok(*hasher.finalize().as_bytes())
}
