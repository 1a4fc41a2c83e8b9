//! Commands against units over devices in memory, through the interface that a transport uses.

mod aborts;
mod copies;
mod identity;
mod lab;
mod medium;
mod model;
mod reserved;
