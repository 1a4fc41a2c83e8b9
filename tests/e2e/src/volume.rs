//! A cluster with one volume that is served over NBD.

use std::path::PathBuf;
use std::time::Duration;

use curve_harness::checker::CheckerOptions;
use curve_harness::nbd::NbdClient;
use curve_harness::{Playground, PlaygroundOptions};

/// A cluster, its volume `/vol`, and the socket that serves it.
pub struct Volume {
    /// The cluster.
    pub playground: Playground,
    /// The server's Unix socket.
    pub socket: PathBuf,
    /// The volume's URI.
    pub uri: String,
}

impl Volume {
    /// Three MDSs, three chunkservers, a volume of this size (`1GiB`).
    pub async fn start(size: &str) -> Self {
        Self::start_with(PlaygroundOptions::default(), size).await
    }

    /// The same on a cluster of choice.
    pub async fn start_with(options: PlaygroundOptions, size: &str) -> Self {
        let playground = Playground::start(options).await.unwrap_or_else(|error| panic!("{error}"));
        playground.create("/vol", size).await.unwrap_or_else(|error| panic!("{error}"));
        let socket = playground.serve_nbd(&["/vol"], &[]).await.unwrap_or_else(|error| panic!("{error}"));
        let uri = format!("nbd+unix:///vol?socket={}", socket.display());
        println!("serving {uri}");
        Self { playground, socket, uri }
    }

    /// A connection of the tests' own client.
    pub async fn client(&self) -> NbdClient {
        NbdClient::connect(&self.socket, "vol", true).await.expect("the server accepts connections")
    }

    /// A checker's options for this volume.
    pub fn checker(&self, seed: u64) -> CheckerOptions {
        CheckerOptions::new(self.socket.clone(), "vol", seed)
    }
}

/// A duration from the environment, in whole seconds.
pub fn seconds_from_env(variable: &str, default: u64) -> Duration {
    let seconds = std::env::var(variable).ok().map(|text| text.parse().expect("whole seconds"));
    Duration::from_secs(seconds.unwrap_or(default))
}
