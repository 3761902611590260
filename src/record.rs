//! What happened, written once: a line in the access log and the metrics.

pub mod metrics;
