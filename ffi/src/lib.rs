//! C API of hrl.
