//! iSCSI: which volumes are units of which targets, who may use them, the gateways that serve them, and the units'
//! reservations.
//!
//! | part | what |
//! |---|---|
//! | `names` | names of targets, initiators and gateways |
//! | `sealing` | secrets at rest |
//! | `targets` | changes of targets, as they are applied |
//! | `gateways` | gateways begin and end |
//! | `units` | the protocol that makes a change of reservations hold on every gateway: pure, with its invariants and a model |
//! | `seats` | that protocol over the rows |
//! | `query` | listings, and what a gateway has not heard yet |
//!
//! A volume is one logical unit, in one target: so its reservations, its identifier and the gateways that serve it are
//! rows of the volume. What reservations *mean* is the business of `curve-scsi`; here they are bytes with a version.

mod gateways;
mod names;
mod query;
mod sealing;
mod seats;
mod targets;
mod units;

pub(crate) use gateways::{enroll, gateway, withdraw};
pub(crate) use query::{listing, news, revision};
pub(crate) use sealing::seal_auth;
pub(crate) use seats::{enforced, expel, leave, reserve, serve, unit, vacate};
pub(crate) use targets::{discard_volume, edit, rename_volume, set_auth};
pub(crate) use units::Occupied;

use curve_kv::Txn;
use curve_proto::pb::mds_state::IscsiRow;

use crate::keys;
use crate::rows::{Refusal, get, put};

/// The number of a change that gateways must hear of.
fn next_revision(txn: &mut Txn<'_>) -> Result<u64, Refusal> {
    let mut row = get::<IscsiRow>(txn, &keys::iscsi())?.unwrap_or_default();
    row.revision += 1;
    put(txn, keys::iscsi(), &row);
    Ok(row.revision)
}
