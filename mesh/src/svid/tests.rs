//! Handshakes between two identities, in memory.
