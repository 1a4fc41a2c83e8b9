//! Sessions over in-memory streams: our own small initiator, which also breaks the rules, against a memory device.

mod abort;
mod gate;
mod hostile;
mod initiator;
mod lifetime;
mod transfer;
mod world;
