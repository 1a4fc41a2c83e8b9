//! `--max-…`: how many connections a server takes.

use std::num::NonZeroUsize;

use clap::Args;

use crate::admission::Limits;

/// Connections that have not proved themselves (no login, no export chosen), if nothing else is asked for.
pub const NEWCOMERS_DEFAULT: usize = 512;

/// How many connections a server takes.
#[derive(Clone, Debug, Default, Args)]
pub struct LimitArguments {
    /// Connections at a time; further ones wait [default: what the server's kind and `ulimit -n` allow].
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub max_connections: Option<NonZeroUsize>,
    /// Connections of one host at a time; further ones are closed [default: half of all].
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub max_connections_per_host: Option<NonZeroUsize>,
    /// Connections that have not logged in or chosen an export; with one more, the oldest of the host that has most of
    /// them is closed [default: 512, at most half of all].
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub max_newcomers: Option<NonZeroUsize>,
}

impl LimitArguments {
    /// The limits, with `usual` connections where descriptors are enough for them. More than `room` are never taken.
    pub fn limits(&self, usual: usize, room: Option<usize>) -> Limits {
        let connections = self.max_connections.map_or(usual, NonZeroUsize::get);
        let connections = connections.min(room.unwrap_or(usize::MAX));
        let newcomers = self.max_newcomers.map_or(NEWCOMERS_DEFAULT, NonZeroUsize::get);
        Limits::new(connections, newcomers).with_share(self.max_connections_per_host.map(NonZeroUsize::get))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_bounded_by_descriptors() {
        let asked = |connections, of_peer, newcomers| LimitArguments {
            max_connections: NonZeroUsize::new(connections),
            max_connections_per_host: NonZeroUsize::new(of_peer),
            max_newcomers: NonZeroUsize::new(newcomers),
        };
        for (arguments, room, expected) in [
            (asked(0, 0, 0), None, [16_384, 8192, 512]),
            (asked(0, 0, 0), Some(896), [896, 448, 448]),
            (asked(5000, 100, 9), Some(896), [896, 100, 9]),
            (asked(20_000, 20_000, 5000), None, [20_000, 20_000, 5000]),
        ] {
            let Limits { connections, of_peer, newcomers } = arguments.limits(16_384, room);
            assert_eq!([connections, of_peer, newcomers], expected);
        }
    }
}
