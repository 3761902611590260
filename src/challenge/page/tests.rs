//! Stories of the page.
