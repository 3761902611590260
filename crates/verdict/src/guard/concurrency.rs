//! Requests in flight a key, given back when the slot is dropped.

/// One request in flight; dropping it gives the slot back.
#[derive(Debug)]
pub struct Slot {
    _todo: (),
}
