//! NBD server: a protocol core without I/O, and the daemon that serves volumes with it.
