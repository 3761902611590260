//! From YAML to types that can't be wrong, and back again when a file changes.
//!
//! [`model`] is what the rest of the program sees.

pub mod model;
pub mod problem;

pub use model::Config;
pub use problem::{Errors, Problem};
