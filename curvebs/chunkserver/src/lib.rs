//! Copyset state machine over the chunk store; I/O service; heartbeats.
