//! Stories of languages.
