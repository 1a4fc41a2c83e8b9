//! Framed data-plane RPC: multiplexed connections, deadlines, bounded queues, TLS.
