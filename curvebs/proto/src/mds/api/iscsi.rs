//! Calls about iSCSI: those of operators, and those of gateways.

use std::time::Duration;

use curve_types::ClientId;

use super::MdsApi;
use crate::mds::wire::BadReply;
use crate::mds::{
    IscsiEdit, IscsiGatewayKey, IscsiListing, IscsiNews, IscsiReservation, IscsiReserve, IscsiSeat,
    IscsiSession, MdsError,
};
use crate::pb::mds as pb;
use crate::pb::mds::mds_request::Op;
use crate::pb::mds::mds_response::Result as Answer;

impl MdsApi {
    /// Changes what is served.
    pub async fn iscsi_edit(&self, edit: IscsiEdit) -> Result<(), MdsError> {
        answer!(self.call(Op::IscsiEdit(edit.into())).await?, Done).map(drop)
    }

    /// Targets, gateways, reservations and sessions.
    pub async fn iscsi_list(&self) -> Result<IscsiListing, MdsError> {
        Ok(answer!(self.call(Op::IscsiList(pb::Empty {})).await?, IscsiListing)?.try_into()?)
    }

    /// A gateway begins its life under a name; an earlier life ends with that. Gives how long it lives without a poll.
    pub async fn iscsi_enroll(
        &self,
        name: &str,
        incarnation: u64,
        addresses: &[String],
        (host, process): (&str, u32),
    ) -> Result<(IscsiGatewayKey, Duration), MdsError> {
        let (name, host, addresses) = (name.to_owned(), host.to_owned(), addresses.to_vec());
        let op = Op::IscsiEnroll(pb::IscsiEnroll { name, incarnation, addresses, host, process });
        let enrolled = answer!(self.call(op).await?, IscsiEnrolled)?;
        let number =
            u16::try_from(enrolled.number).map_err(|_| MdsError::from(BadReply("gateway number")))?;
        Ok((IscsiGatewayKey { number, incarnation }, Duration::from_millis(enrolled.lease_ms)))
    }

    /// The gateway stops and has left every unit.
    pub async fn iscsi_withdraw(&self, gateway: IscsiGatewayKey) -> Result<(), MdsError> {
        answer!(self.call(Op::IscsiWithdraw(gateway.into())).await?, Done).map(drop)
    }

    /// Waits a moment for news, and keeps the gateway's lease alive.
    pub async fn iscsi_poll(
        &self,
        gateway: IscsiGatewayKey,
        seen: u64,
        sessions: Option<Vec<IscsiSession>>,
    ) -> Result<IscsiNews, MdsError> {
        let sessions =
            sessions.map(|list| pb::IscsiSessions { sessions: list.into_iter().map(Into::into).collect() });
        let op = Op::IscsiPoll(pb::IscsiPoll { gateway: Some(gateway.into()), seen, sessions });
        Ok(answer!(self.call(op).await?, IscsiNews)?.try_into()?)
    }

    /// From now on the gateway serves the unit. Every later change of its reservations waits for the gateway. Waits, up to
    /// the deadline, until an earlier session of the same gateway is shut out.
    pub async fn iscsi_serve(
        &self,
        gateway: IscsiGatewayKey,
        seat: IscsiSeat,
    ) -> Result<IscsiReservation, MdsError> {
        let (volume, client) = (seat.volume.get(), seat.client.get());
        let op = Op::IscsiServe(pb::IscsiServe { gateway: Some(gateway.into()), volume, client });
        Ok(answer!(self.call_until_done(op, self.deadline).await?, IscsiReservation)?.try_into()?)
    }

    /// The gateway serves the unit no longer, and nothing of it is under way.
    pub async fn iscsi_leave(&self, gateway: IscsiGatewayKey, seat: IscsiSeat) -> Result<(), MdsError> {
        let (volume, client) = (seat.volume.get(), seat.client.get());
        let op = Op::IscsiLeave(pb::IscsiLeave { gateway: Some(gateway.into()), volume, client });
        answer!(self.call(op).await?, Done).map(drop)
    }

    /// Nothing that `version` forbids can reach the volume through the gateway any more.
    pub async fn iscsi_enforced(
        &self,
        gateway: IscsiGatewayKey,
        seat: IscsiSeat,
        version: u64,
    ) -> Result<(), MdsError> {
        let (volume, ClientId(client)) = (seat.volume.get(), seat.client);
        let op =
            Op::IscsiEnforced(pb::IscsiEnforced { gateway: Some(gateway.into()), volume, client, version });
        answer!(self.call(op).await?, Done).map(drop)
    }

    /// Changes reservations, and returns once every gateway enforces the change; gives its version. `None`: the state had
    /// another version, and nothing was changed. After an error the change may or may not have been made; the same
    /// request tells.
    pub async fn iscsi_reserve(
        &self,
        reserve: &IscsiReserve,
        deadline: Duration,
    ) -> Result<Option<u64>, MdsError> {
        let op = Op::IscsiReserve(reserve.clone().into());
        let reserved = answer!(self.call_until_done(op, deadline).await?, IscsiReserved)?;
        Ok(reserved.made.then_some(reserved.version))
    }
}
