//! Configuration files: any text gives a configuration or an error that names a line.

use curve_chunkserver::ChunkserverConfig;
use curve_client::ClientConfig;
use curve_mds::MdsConfig;
use curvefs_metaserver::MetaserverConfig;
use rand::Rng;
use rand::rngs::StdRng;

use crate::damage::damage;

const SAMPLES: [&str; 4] = [
    include_str!("../../../deploy/mds.toml"),
    include_str!("../../../deploy/chunkserver.toml"),
    include_str!("../../../deploy/metaserver.toml"),
    include_str!("../../../deploy/curve.toml"),
];

pub fn case(random: &mut StdRng) -> &'static str {
    let which = random.random_range(0..SAMPLES.len());
    let mut bytes = SAMPLES[which].as_bytes().to_vec();
    damage(random, &mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let refused = match which {
        0 => curve_config::parse::<MdsConfig>(&text, "fuzz").map(|config| drop(config.check())).err(),
        1 => curve_config::parse::<ChunkserverConfig>(&text, "fuzz").map(drop).err(),
        2 => curve_config::parse::<MetaserverConfig>(&text, "fuzz").map(drop).err(),
        _ => curve_config::parse::<ClientConfig>(&text, "fuzz").map(drop).err(),
    };
    match refused {
        None => "accepted",
        Some(error) => {
            assert!(error.to_string().contains("fuzz:"), "a refusal names its place: {error}");
            "refused"
        }
    }
}
