//! The gateway against real initiators: libiscsi's tools and its conformance suite, and QEMU.

mod gateway;
mod libiscsi;
mod process;
mod qemu;
mod suite;
