//! enforcement
