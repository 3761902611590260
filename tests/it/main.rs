//! The integration binary: the built `rempart` against real peers. A file a story.

mod config;
