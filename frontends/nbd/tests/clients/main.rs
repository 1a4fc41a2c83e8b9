//! The server against clients: real ones (libnbd, QEMU, fio) and one of our own that also breaks the rules.

mod fio;
mod hostile;
mod libnbd;
mod process;
mod protocol;
mod qemu;
mod raw;
mod server;
mod session;
mod tls;
