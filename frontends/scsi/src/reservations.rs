//! Reservations: who may do what with a logical unit (SPC-4 5.12).
//!
//! | part | what |
//! |---|---|
//! | [`State`] | the pure state machine: registrations, the persistent reservation, the legacy RESERVE(6) |
//! | [`format`](mod@format) | state and changes as bytes, for a log, a snapshot or a file |
//! | [`ReservationStore`] | where the state lives; [`LocalReservations`] keeps it in this process or in a file |
//! | `commands` | PERSISTENT RESERVE IN and OUT as bytes |

pub mod format;

pub(crate) mod commands;
mod state;
mod store;

pub use state::{
    Action, Attention, Change, Outcome, REGISTRATIONS_MAX, Refused, Registrant, Registration, Reservation,
    ReservationKind, State,
};
pub use store::{LocalReservations, ReservationFuture, ReservationStore, StoreError};
