//! Starts real clusters of processes for tests, breaks them, and checks what clients saw.
//!
//! A [`Playground`] is a cluster in a temporary directory, driven through the real `curve` binary. [`faults`] kills,
//! freezes and restarts one member at a time under a seed. [`checker`] stamps every block it writes over NBD and judges
//! every block it reads; [`files`] does the same with files of a mounted file system; [`differential`] compares one with
//! another. Nothing here links a server: what is tested is what an operator runs.

pub mod checker;
pub mod differential;
pub mod faults;
pub mod files;
pub mod fsx;
mod mount;
pub mod nbd;
mod playground;
mod shell;

pub use mount::{FsMount, is_mount_point};
pub use playground::{Playground, PlaygroundOptions, binary};
pub use shell::{Finished, ShellError, has_program, run, run_within};
