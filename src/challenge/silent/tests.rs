//! Stories of the silent rung.
