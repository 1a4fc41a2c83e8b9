//! The chunk store from outside: on a simulated disk that forgets and flips, and on a real one.

mod catchup;
mod damage;
mod faults;
mod model;
mod place;
mod space;
mod support;
