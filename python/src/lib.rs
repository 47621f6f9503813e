//! Python package hrl.
