//! The contract of a device as a test that embedders can run.
