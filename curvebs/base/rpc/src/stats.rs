//! What an `RpcNetwork` has done so far, as plain counters, and as `curve_rpc_*_total` for a recorder that is installed before it is made.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, counter};

/// A counter that `/metrics` shows, too, where there is one.
#[derive(Debug)]
pub(crate) struct Counted {
    here: AtomicU64,
    shown: Counter,
}

impl Counted {
    fn new(name: &str) -> Self {
        Self { here: AtomicU64::new(0), shown: counter!(format!("curve_rpc_{name}_total")) }
    }

    pub(crate) fn get(&self) -> u64 {
        self.here.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of an `RpcNetwork` since it was made; `*_open` are current values.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct RpcStats {
            /// Connections to servers that are open now.
            pub client_connections_open: u64,
            /// Connections from clients that are open now.
            pub server_connections_open: u64,
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The same, being counted.
        #[derive(Debug)]
        pub(crate) struct Counters {
            pub(crate) client_connections_open: AtomicU64,
            pub(crate) server_connections_open: AtomicU64,
            $(pub(crate) $name: Counted,)*
        }

        impl Default for Counters {
            fn default() -> Self {
                Self {
                    client_connections_open: AtomicU64::new(0),
                    server_connections_open: AtomicU64::new(0),
                    $($name: Counted::new(stringify!($name)),)*
                }
            }
        }

        impl Counters {
            pub(crate) fn view(&self) -> RpcStats {
                RpcStats {
                    client_connections_open: self.client_connections_open.load(Ordering::Relaxed),
                    server_connections_open: self.server_connections_open.load(Ordering::Relaxed),
                    $($name: self.$name.get(),)*
                }
            }
        }
    };
}

counters! {
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
pub(crate) fn count(counter: &Counted, by: u64) {
    counter.here.fetch_add(by, Ordering::Relaxed);
    counter.shown.increment(by);
}
