//! Memory of many connections in small pages. In huge ones, which the allocator asks for, a buffer of
//! 16 KiB of which a few hundred bytes are used takes 16 KiB of memory instead of 4; an idle HTTP/2
//! connection is made of such buffers. But huge ones are quicker (some percent of a request), so they
//! are kept to while connections are few: what was taken then stays as it is.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// From so many open connections on, new memory comes in small pages.
const MANY: u32 = 256;
/// With fewer than these it no longer does.
const FEW: u32 = 128;

static SMALL: AtomicBool = AtomicBool::new(false);

/// Follows the number of open connections. To be called when it has changed; costs next to nothing.
pub fn follow(open: u32) {
    let small = SMALL.load(Relaxed);
    let wanted = wanted(open, small);
    if wanted != small && SMALL.swap(wanted, Relaxed) != wanted {
        // Where that can't be had, it is as it was.
        let _ = rustix::thread::disable_transparent_huge_pages(wanted);
    }
}

/// Whether new memory is to come in small pages.
fn wanted(open: u32, small: bool) -> bool {
    open >= if small { FEW } else { MANY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pages_come_with_many_connections_and_go_with_few() {
        assert!(!wanted(255, false));
        assert!(wanted(256, false));
        assert!(wanted(128, true), "not to and fro with each connection");
        assert!(!wanted(127, true));
    }
}
