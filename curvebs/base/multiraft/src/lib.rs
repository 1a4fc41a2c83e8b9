//! Many Raft groups in one process over one shared log and shared connections.
