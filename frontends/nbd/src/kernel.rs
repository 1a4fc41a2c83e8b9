//! Kernel block devices: `/dev/nbdN` through the kernel's own NBD driver.
//!
//! ```text
//! genl      generic netlink messages as bytes (pure)
//! driver    the commands of the NBD driver: connect, reconfigure, disconnect
//! sysfs     what the kernel shows of a device, and who uses it
//! mapping   what is mapped, with which options; one file for each device below /run/curve/nbd
//! curvetab  what is to be mapped when the machine starts
//! ```
//!
//! # Why a device survives its daemon
//!
//! The driver is given one end of a socket pair and the wish to wait for a new one when that dies (`DEAD_CONN_TIMEOUT`).
//! While no daemon is there, requests wait in the kernel. A new daemon opens the volume, which shuts its predecessor out
//! (a fence: nothing the old one still had under way can land later), and then gives the driver a new socket
//! (`RECONFIGURE`). The driver repeats what was under way when its timer rings ([`sysfs::IO_TIMEOUT`]): it finds that the
//! socket is another one. A slow answer on a living socket only restarts that timer (`TIMEOUT` is 0), so that a
//! cluster that stalls for long is waited for and never given up.
//!
//! A timer that is restarted rings a second late (`blk_round_jiffies`), so none may be between the death and the new socket:
//! as soon as a daemon is dead its keeper has `TIMEOUT` be something else ([`driver::Driver::expect_another`]), with which the
//! driver takes back what its timer finds, and hands it out with the new socket.
//!
//! There is exactly one connection: with several, the driver would repeat a request on another one while the first try
//! may still be under way, and the first could then overwrite what was written after the second.

pub mod curvetab;
pub mod driver;
mod genl;
pub mod mapping;
pub mod sysfs;
