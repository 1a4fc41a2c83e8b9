//! The operator's command line and the launcher of the server roles.
