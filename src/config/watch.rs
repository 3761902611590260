//! Says when a file of the configuration has changed.
