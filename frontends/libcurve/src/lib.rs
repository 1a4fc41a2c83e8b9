//! libcurve: volumes for C and C++ programs, under the names of the original's library.
//!
//! ```text
//! ffi       the C calls: pointers and numbers ⇄ values, and no panic beyond    (the only unsafe code)
//!   └─► process   one for each process: its runtime, its open files, its callback thread
//!         └─► file   one open volume, and what is in flight on it
//! names, flags, settings, code    pure: paths, open modes, configuration, error numbers
//! ```
//!
//! The C++ class is in the header, over the C calls: no C++ ABI leaves this crate. There is no cache, retry or placement
//! here.

mod code;
mod ffi;
mod file;
mod flags;
mod names;
mod process;
mod settings;

pub use code::Code;
pub use flags::{Opening, flag};
