//! Lists of networks that are dropped below the socket as a whole: blocklists that others publish. In
//! user space the list itself refuses them; here they are only kept for the kernel and for lists.

use super::Bans;
use ipnet::IpNet;
use std::sync::Arc;

/// A list that is fed to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// The list's name.
    pub name: Arc<str>,
    /// Merged: none touches another.
    pub networks: Arc<[IpNet]>,
}

impl Feed {
    #[must_use]
    pub fn new(name: &Arc<str>, networks: &[IpNet]) -> Self {
        Self {
            name: Arc::clone(name),
            networks: IpNet::aggregate(&networks.to_vec()).into(),
        }
    }
}

impl Bans {
    /// Replaces all feeds.
    pub fn feed(&self, feeds: Vec<Feed>) {
        if **self.feeds.load() != feeds {
            self.feeds.store(Arc::new(feeds));
            self.followers.reconsider();
        }
    }

    #[must_use]
    pub fn feeds(&self) -> Arc<Vec<Feed>> {
        self.feeds.load_full()
    }
}
