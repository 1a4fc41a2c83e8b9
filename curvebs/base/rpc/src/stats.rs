//! What an `RpcNetwork` has done so far, as plain counters.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of an `RpcNetwork` since it was made; `*_open` are current values.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct RpcStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The same, being counted.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            pub(crate) fn view(&self) -> RpcStats {
                RpcStats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl RpcStats {
            /// Every counter with its name, for an exporter.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Connections to servers that are open now.
    client_connections_open,
    /// Connections from clients that are open now.
    server_connections_open,
    /// Connections made to servers.
    connects,
    /// Attempts to connect that failed.
    connect_failures,
    /// Connections that ended by an error or a silent peer.
    connections_broken,
    /// Connections from clients refused: too many, wrong version, no TLS.
    connections_refused,
    /// Requests sent.
    requests_sent,
    /// Requests received.
    requests_received,
    /// Requests received that came too late and were not looked at.
    requests_late,
    /// Replies sent.
    replies_sent,
    /// Replies received.
    replies_received,
    /// Calls whose deadline passed.
    deadlines_passed,
    /// Times that a server's clock went on while this machine's stood still, counted by each connection that noticed.
    clock_leaps,
    /// Bytes written to sockets.
    bytes_sent,
    /// Bytes read from sockets.
    bytes_received,
    /// Writes to sockets; `requests_sent / socket_writes` is how well frames are coalesced.
    socket_writes,
    /// Reads from sockets.
    socket_reads,
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
