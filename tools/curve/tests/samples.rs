//! The annotated configuration samples in `deploy/` are made from the doc comments and defaults of the configuration
//! structs. `CURVE_UPDATE_SAMPLES=1 cargo test -p curve --test samples` writes them anew.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use curve_types::ByteSize;
use serde::de::DeserializeOwned;

/// What a sample says for a key whose default means nothing to a reader.
const EXAMPLES: [(&str, &str); 3] = [
    ("mds_addresses", r#"["10.0.0.1:8101", "10.0.0.2:8101", "10.0.0.3:8101"]"#),
    (
        "members",
        r#"[
    { id = 1, data_address = "10.0.0.1:8100", grpc_address = "10.0.0.1:8101" },
    { id = 2, data_address = "10.0.0.2:8100", grpc_address = "10.0.0.2:8101" },
    { id = 3, data_address = "10.0.0.3:8100", grpc_address = "10.0.0.3:8101" },
]"#,
    ),
    ("advertise_address", r#""10.0.0.1:8200""#),
];

#[test]
fn samples_are_current_and_load() {
    check::<curve_mds::MdsConfig>("mds.toml", "curvebs/mds/src/config.rs", "MdsConfig", "An MDS");
    check::<curve_chunkserver::ChunkserverConfig>(
        "chunkserver.toml",
        "curvebs/chunkserver/src/config.rs",
        "ChunkserverConfig",
        "A chunkserver",
    );
    check::<curvefs_metaserver::MetaserverConfig>(
        "metaserver.toml",
        "curvefs/metaserver/src/config.rs",
        "MetaserverConfig",
        "A metaserver",
    );
    check::<curvefs_objectstore::ObjectStoreConfig>(
        "s3.toml",
        "curvefs/objectstore/src/config.rs",
        "ObjectStoreConfig",
        "An embedded object store",
    );
    check::<curve_client::ClientConfig>(
        "curve.toml",
        "curvebs/client/src/config.rs",
        "ClientConfig",
        "A client",
    );
}

fn check<T: Default + Debug + DeserializeOwned>(sample: &str, source: &str, name: &str, who: &str) {
    let path = root().join("deploy").join(sample);
    let text = fs::read_to_string(root().join(source)).expect("the source is there");
    let fresh = render(who, &fields(&text, name), &format!("{:#?}", T::default()));
    if std::env::var_os("CURVE_UPDATE_SAMPLES").is_some() {
        fs::write(&path, &fresh).expect("writable");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == fresh,
        "deploy/{sample} is old: CURVE_UPDATE_SAMPLES=1 cargo test -p curve --test samples"
    );
    curve_config::load::<T>(&path).unwrap_or_else(|error| panic!("{error}"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the crate is in tools/curve")
        .to_path_buf()
}

/// Names and doc comments of a struct's fields, in order.
fn fields(source: &str, name: &str) -> Vec<(String, Vec<String>)> {
    let begin = source.find(&format!("pub struct {name} {{")).expect("the struct is in the source");
    let mut fields = Vec::new();
    let mut docs = Vec::new();
    for line in source[begin..].lines().skip(1).map(str::trim).take_while(|line| *line != "}") {
        if let Some(doc) = line.strip_prefix("///") {
            docs.push(doc.trim().replace('`', ""));
        } else if let Some(field) = line.strip_prefix("pub ").and_then(|line| line.split_once(':')) {
            fields.push((field.0.to_owned(), std::mem::take(&mut docs)));
        }
    }
    fields
}

/// Optional keys and those that have a default are commented out; the examples are what a file must say.
fn render(who: &str, fields: &[(String, Vec<String>)], defaults: &str) -> String {
    let mut text =
        format!("# {who}. Every key has the default shown, except the addresses, which are examples.\n");
    for (name, docs) in fields {
        text.push('\n');
        for doc in docs {
            text.push_str(&format!("# {doc}\n"));
        }
        let example = EXAMPLES.iter().find(|(key, _)| key == name).map(|(_, value)| (*value).to_owned());
        match (example, default(name, defaults)) {
            (Some(value), None) => text.push_str(&format!("# {name} = {value}\n")),
            (Some(value), Some(_)) => text.push_str(&format!("{name} = {value}\n")),
            (None, Some(value)) => text.push_str(&format!("{name} = {value}\n")),
            (None, None) => text.push_str(&format!("# {name} =\n")),
        }
    }
    text
}

/// A field's default as TOML, read from the struct's `Debug` text; `None` for a key that is absent.
fn default(name: &str, defaults: &str) -> Option<String> {
    let prefix = format!("    {name}: ");
    let from = defaults.find(&format!("\n{prefix}"))? + 1 + prefix.len();
    let rest = &defaults[from..];
    let mut lines = rest.lines();
    let first = lines.next()?.trim_end_matches(',');
    let inner = || lines.clone().next().map(|line| line.trim().trim_end_matches(',').to_owned());
    match first {
        "None" => None,
        "ByteSize(" => Some(format!("\"{}\"", ByteSize(inner()?.parse().ok()?))),
        "HumanDuration(" => Some(format!("\"{}\"", inner()?.replace("0ns", "0s"))),
        "Some(" => inner(),
        plain => Some(plain.to_owned()),
    }
}
