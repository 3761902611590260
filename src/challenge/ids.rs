//! Ids of tickets and clearances. Unique is enough: what must not be guessed is the seal.

use std::sync::atomic::{AtomicU64, Ordering};

/// Hands out ids that no other process does.
#[derive(Debug)]
pub struct Ids {
    /// Tells this process's from those of others that share its secret.
    process: [u8; 8],
    count: AtomicU64,
}

impl Ids {
    /// # Errors
    /// A sentence when the system gives no random bytes.
    pub fn new() -> Result<Self, String> {
        Ok(Self {
            process: super::random()?,
            count: AtomicU64::new(0),
        })
    }

    pub fn next(&self) -> [u8; 16] {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let mut id = [0; 16];
        let parts = self.process.into_iter().chain(count.to_be_bytes());
        for (to, from) in id.iter_mut().zip(parts) {
            *to = from;
        }
        id
    }
}
