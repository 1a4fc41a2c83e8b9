//! The catalog that the command line describes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use curve_blockdev::{BlockDevice, Traced};
use curve_iscsi::catalog::{Catalog, Target};
use curve_iscsi::core::{
    Access, Account, BadCredentials, Credentials, NodeName, Portal, Secret, TargetEntry,
};
use curve_scsi::{Identity, LogicalUnit, TargetDevice, UnitError, UnitOptions};
use curve_serving::startup::{StartError, memory_device};
use curve_serving::volumes::{self, OpenVolume, VolumeError};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::cli::{LunArgument, Serve};

/// Why the targets cannot be served.
#[derive(Debug, Error)]
pub enum TargetError {
    /// A volume cannot be opened.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The memory devices cannot be made.
    #[error(transparent)]
    Memory(#[from] StartError),
    /// Two volumes under one number.
    #[error("unit {0} is given twice; each --lun needs a number of its own")]
    Twice(u16),
    /// A password file is unusable.
    #[error("cannot read the secret in {path}: {cause}")]
    Secret {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The secrets must not be used.
    #[error("unusable CHAP credentials: {0}")]
    Credentials(#[from] BadCredentials),
    /// A device cannot be a unit.
    #[error("cannot serve {path}: {cause}")]
    Unit {
        /// Which.
        path: String,
        /// Why not.
        cause: UnitError,
    },
}

/// What is served, and the volumes behind it.
pub struct Opened {
    /// For the server.
    pub catalog: Catalog,
    /// Every device, to be closed at the end.
    pub devices: Vec<Arc<dyn BlockDevice>>,
    /// Those that are volumes, for `/healthz`.
    pub volumes: Vec<OpenVolume>,
}

/// Checks what the command line says and needs no cluster for.
pub fn credentials(serve: &Serve) -> Result<Option<Credentials>, TargetError> {
    let mut numbers = std::collections::BTreeSet::new();
    if let Some(twice) = serve.lun.iter().find(|argument| !numbers.insert(argument.lun)) {
        return Err(TargetError::Twice(twice.lun.number()));
    }
    let incoming = account(serve.chap_user.as_deref(), serve.chap_password_file.as_deref())?;
    let mutual = account(serve.mutual_user.as_deref(), serve.mutual_password_file.as_deref())?;
    Ok(incoming.map(|incoming| Credentials::new(incoming, mutual)).transpose()?)
}

fn account(user: Option<&str>, file: Option<&Path>) -> Result<Option<Account>, TargetError> {
    let (Some(user), Some(path)) = (user, file) else { return Ok(None) };
    let text = std::fs::read(path).map_err(|cause| TargetError::Secret { path: path.to_owned(), cause })?;
    // Editors end a file with a newline, which is not meant.
    let secret = Secret::new(text.strip_suffix(b"\n").unwrap_or(&text).to_vec())?;
    Ok(Some(Account { user: user.to_owned(), secret }))
}

/// Opens the devices.
pub async fn open(
    serve: &Serve,
    portals: Vec<Portal>,
    credentials: Option<Credentials>,
) -> Result<Opened, TargetError> {
    let iqn = iqn(serve);
    let device = TargetDevice::new(iqn.as_str());
    let mut opened = Opened { catalog: Catalog::default(), devices: Vec::new(), volumes: Vec::new() };
    match serve.memory {
        Some(size) => {
            for argument in &serve.lun {
                let memory = memory_device(size, serve.block_size)?;
                insert(serve, &device, argument, memory, uuid(serve, &argument.lun.number().to_be_bytes()))
                    .map(|device| opened.devices.push(device))?;
            }
        }
        None => {
            let paths: Vec<String> = serve.lun.iter().map(|argument| argument.path.clone()).collect();
            opened.volumes = volumes::open(&paths, &serve.opening()).await?;
            for (argument, (_, volume)) in serve.lun.iter().zip(&opened.volumes) {
                let id = volume.id().to_string();
                insert(serve, &device, argument, volume.clone(), uuid(serve, id.as_bytes()))
                    .map(|device| opened.devices.push(device))?;
            }
        }
    }
    let access = match &serve.initiator[..] {
        [] => Access::All,
        names => Access::Only(names.iter().cloned().collect()),
    };
    let discovery = credentials.clone();
    let entry = TargetEntry { name: iqn.clone(), alias: None, access, credentials };
    opened.catalog = Catalog::new(vec![Target { entry, device }], portals, discovery);
    Ok(opened)
}

fn insert(
    serve: &Serve,
    target: &TargetDevice,
    argument: &LunArgument,
    device: Arc<dyn BlockDevice>,
    uuid: [u8; 16],
) -> Result<Arc<dyn BlockDevice>, TargetError> {
    let served: Arc<dyn BlockDevice> = match serve.http {
        Some(_) => Arc::new(Traced::new(device.clone(), &argument.path)),
        None => device.clone(),
    };
    let options = UnitOptions { block_bytes: serve.block_size.bytes(), read_only: serve.read_only };
    let unit = LogicalUnit::new(Identity::of_volume(uuid), served, options);
    let unit = unit.map_err(|cause| TargetError::Unit { path: argument.path.clone(), cause })?;
    target.insert(argument.lun, unit);
    Ok(device)
}

/// The target's name.
fn iqn(serve: &Serve) -> &NodeName {
    serve.iqn.as_ref().expect("the command line has a target unless it names a gateway")
}

/// What a unit is recognised by: the same for the same target name and volume, whichever gateway serves it and whenever.
fn uuid(serve: &Serve, of: &[u8]) -> [u8; 16] {
    let digest =
        Sha256::new().chain_update(iqn(serve).as_str()).chain_update([0]).chain_update(of).finalize();
    let mut uuid: [u8; 16] = *digest.first_chunk().expect("a digest is longer");
    // Version 8 (made by a rule of one's own), variant of RFC 9562.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
