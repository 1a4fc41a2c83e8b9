//! The grammar of `curve iscsi`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::DestroyArgs;

/// `curve iscsi`.
#[derive(Args, Debug)]
pub struct IscsiArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: IscsiCommand,
}

/// The nouns and verbs of `curve iscsi`.
#[derive(Subcommand, Debug)]
pub enum IscsiCommand {
    /// Targets.
    #[command(subcommand)]
    Target(TargetCommand),
    /// Volumes as units of targets.
    #[command(subcommand)]
    Lun(LunCommand),
    /// CHAP: what initiators have to know.
    #[command(subcommand)]
    Auth(AuthCommand),
    /// Which initiators may use a target.
    #[command(subcommand)]
    Acl(AclCommand),
    /// The gateways that serve targets (`curve-iscsi serve --gateway NAME`).
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// List the sessions of initiators, as the gateways last told.
    #[command(
        after_help = "Examples:\n  curve iscsi sessions\n  curve iscsi sessions --json | jq -r '.[].initiator'"
    )]
    Sessions {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List who is registered with and who has reserved which unit, and gateways that do not enforce it yet.
    #[command(after_help = "Examples:\n  curve iscsi reservations\n  \
                            curve iscsi reservations --json | jq '.[].reservation'")]
    Reservations {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// The verbs of `curve iscsi target`.
#[derive(Subcommand, Debug)]
pub enum TargetCommand {
    /// Create a target. It has no units, asks for no secret, and any initiator may use it.
    #[command(after_help = "Examples:\n  curve iscsi target create iqn.2026-01.com.example:db")]
    Create {
        /// Its name: iqn., eui. or naa.
        #[arg(value_name = "IQN")]
        target: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a target with its units; the volumes stay.
    #[command(after_help = "Examples:\n  curve iscsi target rm iqn.2026-01.com.example:db --dry-run\n  \
                            curve iscsi target rm iqn.2026-01.com.example:db --yes")]
    Rm {
        /// Its name.
        #[arg(value_name = "IQN")]
        target: String,
        #[command(flatten)]
        destroy: DestroyArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List targets with their units.
    #[command(
        after_help = "Examples:\n  curve iscsi target ls\n  curve iscsi target ls --json | jq '.[].luns'"
    )]
    Ls {
        /// Only this one.
        #[arg(value_name = "IQN")]
        target: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// The verbs of `curve iscsi lun`.
#[derive(Subcommand, Debug)]
pub enum LunCommand {
    /// Make a volume a unit of a target. Gateways serve it within a moment.
    #[command(
        after_help = "Examples:\n  curve iscsi lun add iqn.2026-01.com.example:db --lun 0 --volume /db\n  \
                            curve iscsi lun add iqn.2026-01.com.example:db --lun 1 --volume /logs --block-size 4096 --read-only"
    )]
    Add {
        /// The target.
        #[arg(value_name = "IQN")]
        target: String,
        /// The unit's number, 0 to 16383.
        #[arg(long, value_name = "N")]
        lun: u16,
        /// The volume's path.
        #[arg(long, value_name = "PATH")]
        volume: String,
        /// Bytes of a logical block.
        #[arg(long, value_name = "BYTES", value_enum, default_value = "512")]
        block_size: BlockSize,
        /// Refuse writes.
        #[arg(long)]
        read_only: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a unit away from its target with its reservations; the volume stays.
    #[command(after_help = "Examples:\n  curve iscsi lun rm iqn.2026-01.com.example:db --lun 1 --yes")]
    Rm {
        /// The target.
        #[arg(value_name = "IQN")]
        target: String,
        /// The unit's number.
        #[arg(long, value_name = "N")]
        lun: u16,
        #[command(flatten)]
        destroy: DestroyArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Bytes of a logical block.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockSize {
    /// What every initiator takes.
    #[value(name = "512")]
    Sector,
    /// Blocks as they are stored.
    #[value(name = "4096")]
    Block,
}

impl BlockSize {
    /// As a number.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Sector => 512,
            Self::Block => 4096,
        }
    }
}

/// The verbs of `curve iscsi auth`.
#[derive(Subcommand, Debug)]
pub enum AuthCommand {
    /// Ask initiators of a target for CHAP, from their next login on.
    #[command(
        after_help = "Examples:\n  curve iscsi auth set iqn.2026-01.com.example:db --user db --password-file secret\n  \
                      curve iscsi auth set iqn.2026-01.com.example:db --user db --password-file secret \
                      --mutual-user gate --mutual-password-file other-secret\n\n\
                      Secrets have 12 to 255 bytes; the MDSs keep them sealed with the key in their `secrets_key_file`."
    )]
    Set {
        /// The target.
        #[arg(value_name = "IQN")]
        target: String,
        /// The name that initiators give.
        #[arg(long, value_name = "U")]
        user: String,
        /// File with the secret that they have to know.
        #[arg(long, value_name = "F")]
        password_file: PathBuf,
        /// Prove who we are to initiators that ask: our name.
        #[arg(long, value_name = "U2", requires = "mutual_password_file")]
        mutual_user: Option<String>,
        /// File with the secret of ours; not that of the initiators.
        #[arg(long, value_name = "F2", requires = "mutual_user")]
        mutual_password_file: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Ask initiators of a target for no secret any more.
    #[command(after_help = "Examples:\n  curve iscsi auth rm iqn.2026-01.com.example:db --yes")]
    Rm {
        /// The target.
        #[arg(value_name = "IQN")]
        target: String,
        #[command(flatten)]
        destroy: DestroyArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// The verbs of `curve iscsi acl`.
#[derive(Subcommand, Debug)]
pub enum AclCommand {
    /// Let an initiator in. The first name takes the place of `any`, which a new target has.
    #[command(
        after_help = "Examples:\n  curve iscsi acl add iqn.2026-01.com.example:db --initiator iqn.1993-08.org.debian:01:a\n  \
                      curve iscsi acl add iqn.2026-01.com.example:db --initiator any"
    )]
    Add(AclArgs),
    /// Let an initiator in no longer, and end its sessions. Without any name left nobody is let in.
    #[command(
        after_help = "Examples:\n  curve iscsi acl rm iqn.2026-01.com.example:db --initiator iqn.1993-08.org.debian:01:a"
    )]
    Rm(AclArgs),
    /// List the initiators that are let in.
    #[command(after_help = "Examples:\n  curve iscsi acl ls iqn.2026-01.com.example:db --json")]
    Ls {
        /// The target.
        #[arg(value_name = "IQN")]
        target: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// An initiator of a target.
#[derive(Args, Debug)]
pub struct AclArgs {
    /// The target.
    #[arg(value_name = "IQN")]
    pub target: String,
    /// The initiator's name, or `any`.
    #[arg(long, value_name = "NAME")]
    pub initiator: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// The verbs of `curve iscsi gateway`.
#[derive(Subcommand, Debug)]
pub enum GatewayCommand {
    /// List gateways: where they are reached, and whether they live.
    #[command(after_help = "Examples:\n  curve iscsi gateway ls --json")]
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Forget a gateway that is never to come back.
    #[command(after_help = "Examples:\n  curve iscsi gateway rm gw-2 --yes")]
    Rm {
        /// Its name.
        name: String,
        #[command(flatten)]
        destroy: DestroyArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

impl IscsiCommand {
    /// Whether failures should be printed as JSON.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Target(
                TargetCommand::Create { json, .. }
                | TargetCommand::Rm { json, .. }
                | TargetCommand::Ls { json, .. },
            )
            | Self::Lun(LunCommand::Add { json, .. } | LunCommand::Rm { json, .. })
            | Self::Auth(AuthCommand::Set { json, .. } | AuthCommand::Rm { json, .. })
            | Self::Acl(
                AclCommand::Add(AclArgs { json, .. })
                | AclCommand::Rm(AclArgs { json, .. })
                | AclCommand::Ls { json, .. },
            )
            | Self::Gateway(GatewayCommand::Ls { json } | GatewayCommand::Rm { json, .. })
            | Self::Sessions { json }
            | Self::Reservations { json } => *json,
        }
    }
}
