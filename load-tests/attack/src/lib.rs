//! Attacks on a server of one's own: each way of holding, dripping, flooding or bending that Rempart
//! claims to bear, as frames and bytes written by hand. Loopback only, bounded in number and time.
//!
//! [`run`] carries out one [`Attack`] and tells what the server did about it. What the server should
//! have done is left to whoever asks: `tests/it/attacks.rs`, or a person at a terminal.

pub mod attack;
mod connect;
mod ending;
mod h1;
mod h2;
mod kinds;
mod pace;
mod run;
mod summary;
mod tls;

pub use attack::Attack;
pub use kinds::{Family, KINDS, Kind};
pub use run::run;
pub use summary::Summary;
