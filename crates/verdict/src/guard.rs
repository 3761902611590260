//! One small trait, one file a kind of guard. A guard returns a finding; it never replies, logs,
//! counts or bans.

pub mod concurrency;
