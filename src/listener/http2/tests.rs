//! The ledger, frame by frame.
