//! `curve iscsi`: targets, units, secrets, access lists; and who uses them through which gateway.

mod listings;

use std::path::Path;

use curve_client::mds::{IscsiAccess, IscsiAuth, IscsiEdit, IscsiSecrets, IscsiTarget, MdsError};
use curve_telemetry::say;
use serde_json::{Value, json};

use crate::api::{Api, mds_failure};
use crate::cli::DestroyArgs;
use crate::cli::iscsi::{
    AclArgs, AclCommand, AuthCommand, GatewayCommand, IscsiCommand, LunCommand, TargetCommand,
};
use crate::confirm::confirm;
use crate::failure::{Code, Failure};
use crate::output;

/// Runs one `curve iscsi` command.
pub async fn run(config: Option<&Path>, command: IscsiCommand) -> Result<(), Failure> {
    let api = Api::connect(config).await?;
    match command {
        IscsiCommand::Target(command) => target(&api, command).await,
        IscsiCommand::Lun(command) => lun(&api, command).await,
        IscsiCommand::Auth(command) => auth(&api, command).await,
        IscsiCommand::Acl(command) => acl(&api, command).await,
        IscsiCommand::Gateway(GatewayCommand::Ls { json }) => listings::gateways(&api, json).await,
        IscsiCommand::Gateway(GatewayCommand::Rm { name, destroy, json }) => {
            let what = format!(
                "forgets gateway {name}: its port is given to no other, initiators no longer hear of it"
            );
            let edit = IscsiEdit::RemoveGateway(name.clone());
            destroying(&api, &what, &name, destroy, json, edit, json!({ "gateway": name })).await
        }
        IscsiCommand::Sessions { json } => listings::sessions(&api, json).await,
        IscsiCommand::Reservations { json } => listings::reservations(&api, json).await,
    }
}

/// The failure for a refusal; what does not exist is not a path here.
fn failure(error: &MdsError) -> Failure {
    match error {
        MdsError::NotFound { what } if !what.starts_with('/') => mds_failure(error)
            .try_this("`curve iscsi target ls` and `curve iscsi gateway ls` list what exists"),
        MdsError::Conflict { .. } => {
            mds_failure(error).try_this("`curve iscsi target ls` shows which volume is which unit")
        }
        MdsError::BadRequest { .. } => mds_failure(error).try_this("correct that; --help has examples"),
        _ => mds_failure(error),
    }
}

async fn edit(api: &Api, edit: IscsiEdit) -> Result<(), Failure> {
    api.mds().iscsi_edit(edit).await.map_err(|error| failure(&error))
}

/// Says what was done.
fn done(json: bool, text: &str, value: Value) {
    if json { output::json(&value) } else { say!("{text}") }
}

/// A change that takes something away from initiators: asked for first.
async fn destroying(
    api: &Api,
    what: &str,
    name: &str,
    destroy: DestroyArgs,
    json: bool,
    change: IscsiEdit,
    mut value: Value,
) -> Result<(), Failure> {
    if destroy.dry_run {
        value["dry_run"] = true.into();
        value["would"] = what.into();
        done(json, &format!("would: {what}"), value);
        return Ok(());
    }
    confirm(what, name, destroy.yes)?;
    edit(api, change).await?;
    value["removed"] = true.into();
    done(json, &format!("done: {what}"), value);
    Ok(())
}

async fn targets(api: &Api) -> Result<Vec<IscsiTarget>, Failure> {
    Ok(api.mds().iscsi_list().await.map_err(|error| failure(&error))?.targets)
}

async fn find(api: &Api, name: &str) -> Result<IscsiTarget, Failure> {
    let normal = name.to_lowercase();
    let found = targets(api).await?.into_iter().find(|target| target.name == normal);
    found.ok_or_else(|| failure(&MdsError::NotFound { what: format!("iSCSI target {normal}") }))
}

async fn target(api: &Api, command: TargetCommand) -> Result<(), Failure> {
    match command {
        TargetCommand::Create { target, json } => {
            edit(api, IscsiEdit::CreateTarget(target.clone())).await?;
            let text =
                format!("created {target}; any initiator may use it (see curve iscsi acl, curve iscsi auth)");
            done(json, &text, json!({ "target": target }));
            Ok(())
        }
        TargetCommand::Rm { target, destroy, json } => {
            let found = find(api, &target).await?;
            let units = found.luns.len();
            let what = format!("removes target {} with its {units} units; their volumes stay", found.name);
            let value = json!({ "target": found.name });
            destroying(api, &what, &found.name, destroy, json, IscsiEdit::RemoveTarget(target), value).await
        }
        TargetCommand::Ls { target, json } => {
            let listed = match target {
                Some(name) => vec![find(api, &name).await?],
                None => targets(api).await?,
            };
            listings::targets(&listed, json);
            Ok(())
        }
    }
}

async fn lun(api: &Api, command: LunCommand) -> Result<(), Failure> {
    match command {
        LunCommand::Add { target, lun, volume, block_size, read_only, json } => {
            let block_bytes = block_size.bytes();
            let (path, number) = (volume.clone(), lun);
            let change = IscsiEdit::AddLun { target: target.clone(), number, path, block_bytes, read_only };
            edit(api, change).await?;
            let value = json!({
                "target": target, "lun": lun, "volume": volume, "block_size": block_bytes, "read_only": read_only,
            });
            done(json, &format!("{volume} is unit {lun} of {target}"), value);
            Ok(())
        }
        LunCommand::Rm { target, lun, destroy, json } => {
            let found = find(api, &target).await?;
            let unit = found.luns.iter().find(|unit| unit.number == lun);
            let missing = || MdsError::NotFound { what: format!("unit {lun} of {}", found.name) };
            let path = &unit.ok_or_else(|| failure(&missing()))?.path;
            let what = format!(
                "takes unit {lun} ({path}) away from {} with its reservations; the volume stays",
                found.name
            );
            let value = json!({ "target": found.name, "lun": lun, "volume": path });
            let change = IscsiEdit::RemoveLun { target, number: lun };
            destroying(api, &what, &lun.to_string(), destroy, json, change, value).await
        }
    }
}

async fn auth(api: &Api, command: AuthCommand) -> Result<(), Failure> {
    match command {
        AuthCommand::Set { target, user, password_file, mutual_user, mutual_password_file, json } => {
            let mutual = mutual_password_file.as_deref().map(secret).transpose()?;
            let secrets = IscsiSecrets { incoming: secret(&password_file)?, mutual };
            let value = json!({ "target": target, "user": user, "mutual_user": mutual_user });
            let text = format!("{target} asks for CHAP as {user} from the next login on");
            let auth = IscsiAuth { user, mutual_user, secrets: Some(secrets) };
            edit(api, IscsiEdit::SetAuth { target, auth }).await?;
            done(json, &text, value);
            Ok(())
        }
        AuthCommand::Rm { target, destroy, json } => {
            let what = format!("lets initiators log in to {target} without a secret");
            let value = json!({ "target": target });
            let change = IscsiEdit::RemoveAuth(target.clone());
            destroying(api, &what, &target, destroy, json, change, value).await
        }
    }
}

/// The secret in a file. Editors end a file with a newline, which is not meant.
fn secret(path: &Path) -> Result<bytes::Bytes, Failure> {
    let text = std::fs::read(path).map_err(|error| Failure::file("read", path, &error))?;
    let secret = text.strip_suffix(b"\n").unwrap_or(&text);
    if !(12..=255).contains(&secret.len()) {
        let message = format!("the secret in {} has {} bytes", path.display(), secret.len());
        return Err(Failure::new(Code::Usage, message)
            .try_this("use 12 to 255, for example from `openssl rand -hex 16`"));
    }
    Ok(bytes::Bytes::copy_from_slice(secret))
}

async fn acl(api: &Api, command: AclCommand) -> Result<(), Failure> {
    match command {
        AclCommand::Add(AclArgs { target, initiator, json }) => {
            let value = json!({ "target": target, "initiator": initiator });
            let text = format!("{initiator} may use {target}");
            edit(api, IscsiEdit::AddInitiator { target, initiator }).await?;
            done(json, &text, value);
            Ok(())
        }
        AclCommand::Rm(AclArgs { target, initiator, json }) => {
            let value = json!({ "target": target, "initiator": initiator, "removed": true });
            let change = IscsiEdit::RemoveInitiator { target: target.clone(), initiator: initiator.clone() };
            edit(api, change).await?;
            let left = find(api, &target).await?.access;
            let nobody = if left == IscsiAccess::Listed(Vec::new()) { "; nobody may now" } else { "" };
            done(json, &format!("{initiator} may not use {target} any more{nobody}"), value);
            Ok(())
        }
        AclCommand::Ls { target, json } => {
            let names = listings::initiators(&find(api, &target).await?.access);
            match json {
                true => output::json(&names),
                false if names.is_empty() => say!("nobody"),
                false => names.iter().for_each(|name| say!("{name}")),
            }
            Ok(())
        }
    }
}
