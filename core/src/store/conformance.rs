//! The contract of a store as a test that embedders can run.
