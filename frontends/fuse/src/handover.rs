//! A mount goes from one process to the next: `curve-fuse upgrade`.
//!
//! | file | what |
//! |---|---|
//! | `format` | pure: **the bytes between the two processes** |
//! | `link` | messages and descriptors over a socket |
//! | `door` | where the next process knocks |
//! | `giving` | the process that serves |
//! | `taking` | the process that goes on |
//!
//! ```text
//! next                                        serving
//! HELLO (what it can read)             ->     one at a time, of the same user
//!                                      <-     TERMS (which mount, where, how)
//! renews the lease, asks the root             serves
//! PREPARED                             ->     publishes, stops between two requests, publishes the rest
//!                                      <-     STATE, with /dev/fuse and the door        } programs wait
//! READY (everything is in place)       ->     renews the lease no more, leaves the port }
//!                                      <-     GO                                        }
//! TAKEN, and serves                    ->     ends, without unmounting                  }
//! ```
//!
//! Until `TAKEN` the process that serves goes on with whatever went wrong: the next one changes nothing before `GO`. A `TAKEN`
//! that was sent is received: the socket is closed for sending first, and then read to its end. So there is never more than one
//! that serves, and none only if the next one dies after `TAKEN`.

pub mod door;
pub mod format;
pub mod giving;
pub mod link;
pub mod taking;
