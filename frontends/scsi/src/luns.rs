//! What a target answers itself: REPORT LUNS, and commands to units that are not there (SPC-4 6.33; SAM-5 5.11).

use bytes::Bytes;

use crate::cdb::{Command, Decoded};
use crate::execute::parameter_data;
use crate::inquiry::{NO_UNIT, standard};
use crate::sense::{AdditionalSense, Sense, SenseFormat};
use crate::status::Response;
use crate::target::TargetDevice;
use crate::unit::Identity;

/// The REPORT LUNS well known unit.
const WELL_KNOWN: [u8; 8] = [0xc1, 0x01, 0, 0, 0, 0, 0, 0];
/// PERIPHERAL DEVICE TYPE of a well known unit.
const WELL_KNOWN_TYPE: u8 = 0x1e;

const NOT_SUPPORTED: Sense = Sense::illegal(AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED);

/// REPORT LUNS
pub(crate) fn report_luns(target: &TargetDevice, select: u8, allocation: u32) -> Result<Response, Sense> {
    if allocation < 16 {
        return Err(Sense::invalid_field(6));
    }
    let (units, well_known) = match select {
        0x00 => (true, false),
        0x01 => (false, true),
        0x02 => (true, true),
        _ => return Err(Sense::invalid_field(2)),
    };
    let mut luns = Vec::new();
    if well_known {
        luns.extend_from_slice(&WELL_KNOWN);
    }
    if units {
        target.units().iter().for_each(|(lun, _)| luns.extend_from_slice(&lun.to_bytes()));
    }
    let mut out = (luns.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(&[0; 4]);
    out.extend(luns);
    Ok(parameter_data(Bytes::from(out), allocation))
}

/// A command to the REPORT LUNS well known unit, or to no unit.
pub(crate) fn without_unit(
    target: &TargetDevice,
    decoded: Result<Decoded, Sense>,
    well_known: bool,
) -> Response {
    let nobody = Identity::of_volume([0; 16]);
    let result = match decoded.map(|decoded| decoded.command) {
        Ok(Command::ReportLuns { select, allocation }) => report_luns(target, select, allocation),
        Ok(Command::Inquiry { page: None, allocation }) => {
            let peripheral = if well_known { WELL_KNOWN_TYPE } else { NO_UNIT };
            Ok(parameter_data(standard(peripheral, &nobody), allocation))
        }
        Ok(Command::Inquiry { page: Some(_), .. }) => Err(Sense::invalid_field(2)),
        Ok(Command::TestUnitReady) if well_known => Ok(Response::good()),
        Ok(Command::RequestSense { descriptor, allocation }) if !well_known => {
            let format = if descriptor { SenseFormat::Descriptor } else { SenseFormat::Fixed };
            Ok(parameter_data(NOT_SUPPORTED.encode(format), allocation))
        }
        Ok(_) if well_known => Err(Sense::illegal(AdditionalSense::INVALID_COMMAND_OPERATION_CODE)),
        Err(sense) if well_known => Err(sense),
        _ => Err(NOT_SUPPORTED),
    };
    result.unwrap_or_else(|sense| Response::check(&sense, SenseFormat::Fixed))
}
