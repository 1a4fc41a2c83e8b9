//! Real clients against real clusters. One file for each kind of client or fault; they run one at a time.

mod catchup;
mod cli;
mod clients;
mod corruption;
mod curvefs;
mod curvefs_delegated;
mod curvefs_differential;
mod curvefs_posix;
mod curvefs_programs;
mod curvefs_tools;
mod curvefs_upgrade;
mod faults;
mod filesystems;
mod guest;
mod iscsi;
mod iscsi_guest;
mod playground;
mod postgres;
mod s3;
mod sharing;
mod space;
