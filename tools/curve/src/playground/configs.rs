//! The members' configuration files. Written once: what an operator edits in `D/etc` survives.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use curve_chunkserver::ChunkserverConfig;
use curve_mds::MdsConfig;
use curvefs_metaserver::MetaserverConfig;
use curvefs_objectstore::ObjectStoreConfig;
use rand::TryRngCore;
use rand::rngs::OsRng;
use toml::{Table, Value};

use crate::api::config_failure;
use crate::cli::StartArgs;
use crate::failure::{Code, Failure};
use crate::playground::layout::{Layout, replace_file};
use crate::playground::plan::{Member, Plan, Role};

/// Who may use the object store.
pub(super) const S3_ACCESS_KEY: &str = "playground";
/// Its bucket.
pub(super) const S3_BUCKET: &str = "curve";

/// A file that is to be, and what it says.
pub(super) type Composed = (PathBuf, String);

/// What is missing of `D/curve.toml` and `D/etc/NAME.toml`. What was mistyped in the arguments is refused, before anything is written.
pub(super) fn compose(layout: &Layout, plan: &Plan, args: &StartArgs) -> Result<Vec<Composed>, Failure> {
    let addresses: Vec<String> = plan.of(Role::Mds).map(Member::control_address).collect();
    let mut client = Table::new();
    client.insert("mds_addresses".to_owned(), Value::from(addresses));
    let mut files = vec![(layout.client_config(), text_of(&client))];
    for member in plan.servers() {
        let (mut config, more) = match member.name.role {
            Role::Mds => (mds(layout, plan, member, args), &args.mds_set[..]),
            Role::Metaserver => (storing(layout, plan, member), &args.metaserver_set[..]),
            Role::S3 => (object_store(layout, member), &[][..]),
            Role::Chunkserver | Role::Nbd => (storing(layout, plan, member), &args.chunkserver_set[..]),
        };
        for line in more {
            merge(&mut config, line)?;
        }
        let (path, text) = (layout.config_file(member.name), text_of(&config));
        check(member.name.role, &text, &path)?;
        files.push((path, text));
    }
    files.retain(|(path, _)| !path.exists());
    Ok(files)
}

/// Writes the files, and the keys that are missing.
pub(super) fn write(layout: &Layout, plan: &Plan, files: &[Composed]) -> Result<(), Failure> {
    write_key(&layout.secrets_key())?;
    if plan.of(Role::S3).next().is_some() {
        write_key(&layout.s3_secret())?;
    }
    files.iter().try_for_each(|(path, text)| replace_file(path, text))
}

/// Whether a member will understand what its file says.
fn check(role: Role, text: &str, path: &Path) -> Result<(), Failure> {
    let origin = path.display().to_string();
    let understood = match role {
        Role::Mds => curve_config::parse::<MdsConfig>(text, &origin).map(drop),
        Role::Chunkserver | Role::Nbd => curve_config::parse::<ChunkserverConfig>(text, &origin).map(drop),
        Role::Metaserver => curve_config::parse::<MetaserverConfig>(text, &origin).map(drop),
        Role::S3 => curve_config::parse::<ObjectStoreConfig>(text, &origin).map(drop),
    };
    understood.map_err(|error| {
        config_failure(&error)
            .try_this("correct --mds-set, --chunkserver-set or --metaserver-set; nothing was written")
    })
}

fn mds(layout: &Layout, plan: &Plan, member: &Member, args: &StartArgs) -> Table {
    let mut config = server(layout, member);
    config.insert("cluster".to_owned(), plan.cluster.clone().into());
    config.insert("id".to_owned(), i64::from(member.name.number).into());
    let members = plan.of(Role::Mds).map(|mds| {
        let mut table = Table::new();
        table.insert("id".to_owned(), i64::from(mds.name.number).into());
        table.insert("data_address".to_owned(), mds.data_address().into());
        table.insert("grpc_address".to_owned(), mds.control_address().into());
        Value::Table(table)
    });
    config.insert("members".to_owned(), Value::Array(members.collect()));
    config.insert("secrets_key_file".to_owned(), layout.secrets_key().display().to_string().into());
    // Its disk is shared with everything else on the machine, and how full that is does not make a cluster unhealthy that
    // has room. What counts here is the reserve, below which nothing new is allocated.
    config.insert("capacity_low_percent".to_owned(), 0.into());
    if let Some(copysets) = args.copysets {
        config.insert("copysets_per_chunkserver".to_owned(), i64::from(copysets).into());
    }
    config
}

/// A chunkserver or a metaserver.
fn storing(layout: &Layout, plan: &Plan, member: &Member) -> Table {
    let mut config = server(layout, member);
    let mds: Vec<String> = plan.of(Role::Mds).map(Member::control_address).collect();
    config.insert("mds_addresses".to_owned(), Value::from(mds));
    config.insert("zone".to_owned(), member.zone.clone().into());
    config.insert("listen_address".to_owned(), member.data_address().into());
    config
}

fn object_store(layout: &Layout, member: &Member) -> Table {
    let mut config = server(layout, member);
    config.insert("listen_address".to_owned(), member.data_address().into());
    config.insert("access_key".to_owned(), S3_ACCESS_KEY.into());
    config.insert("secret_key_file".to_owned(), layout.s3_secret().display().to_string().into());
    config.insert("buckets".to_owned(), Value::from(vec![S3_BUCKET]));
    config
}

fn server(layout: &Layout, member: &Member) -> Table {
    let mut config = Table::new();
    config.insert("data_dir".to_owned(), layout.data_dir(member.name).display().to_string().into());
    config.insert("http_address".to_owned(), member.http_address().into());
    config
}

/// Adds one `key = value` line, replacing a key of the same name.
fn merge(config: &mut Table, line: &str) -> Result<(), Failure> {
    let more: Table = toml::from_str(line).map_err(|error| {
        Failure::new(Code::Usage, format!("`{line}` is not a line of TOML"))
            .because(error.message())
            .try_this("write for example --chunkserver-set 'zone = \"a\"'")
    })?;
    config.extend(more);
    Ok(())
}

/// Writes a new key for secrets, which nobody else may read. An existing one stays: what it sealed could not be opened
/// without it.
fn write_key(path: &Path) -> Result<(), Failure> {
    if path.exists() {
        return Ok(());
    }
    let failed = |error: std::io::Error| Failure::file("write", path, &error);
    let key = (0..4).map(|_| OsRng.try_next_u64()).collect::<Result<Vec<u64>, _>>();
    let key = key.map_err(|error| failed(std::io::Error::other(error)))?;
    let text: String = key.iter().map(|part| format!("{part:016x}")).collect();
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    writeln!(file, "{text}").map_err(failed)
}

fn text_of(config: &Table) -> String {
    toml::to_string(config).expect("tables of strings and numbers are representable")
}
