//! Pictures that were drawn ahead, so that no request waits for a drawing, and no flood of requests makes
//! this process draw more than it set aside for that.
//!
//! Each is handed out once for as long as there are new ones. [`Pool::fill`] draws more, at a bounded rate
//! that is a few per cent of one core, once the first was asked for: an edge that shows no captcha draws
//! none. When a flood outruns it, the last [`KEPT`] are handed out again, at random, until each was
//! shown [`SHOWN`] times; then there is none until the next is drawn. So a text that an attacker read once
//! is the answer to [`SHOWN`] tickets at most, and only while there is a flood.

use super::{
    dice::{Dice, Secret},
    glyphs::ALPHABET,
    image,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Handle, sync::Notify};

/// Characters of a text: with 18 to choose from, 34 million texts.
pub const LENGTH: usize = 6;

/// New ones that are kept ready, and old ones in reserve: about 3 KB each.
const READY: usize = 256;
const KEPT: usize = 256;

/// Drawn while the first who asks waits.
const FIRST: usize = 4;

/// Tickets that one picture is shown with, at most.
const SHOWN: u8 = 8;

/// Between two drawings: 25 a second at most, which is 4 % of a core at 1.7 ms each.
const PAUSE: Duration = Duration::from_millis(40);

/// A picture, and what it says.
#[derive(Clone, Debug)]
pub struct Picture {
    pub text: String,
    /// The PNG, in base64.
    pub data: String,
}

impl Picture {
    /// Draws one of a text that nobody can foresee; `None` when the system gives no random bytes.
    #[must_use]
    pub fn draw() -> Option<Self> {
        let mut secret = Secret::new();
        let text = (0..LENGTH).map(|_| secret.pick(ALPHABET).copied());
        let text: Vec<u8> = text.collect::<Option<_>>()?;
        let seed = u64::from_be_bytes(secret.array()?);
        Some(Self {
            data: STANDARD.encode(image::draw(&text, &mut Dice::new(seed))),
            text: text.into_iter().map(char::from).collect(),
        })
    }
}

/// Pictures to hand out.
#[derive(Debug)]
pub struct Pool {
    shelf: Mutex<Shelf>,
    wanted: Notify,
    filling: AtomicBool,
}

#[derive(Debug, Default)]
struct Shelf {
    new: VecDeque<Arc<Picture>>,
    /// With how many tickets each was shown.
    old: VecDeque<(Arc<Picture>, u8)>,
    /// Whether the first were drawn.
    asked: bool,
    chance: u64,
}

impl Pool {
    /// Nothing is drawn yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shelf: Mutex::default(),
            wanted: Notify::new(),
            filling: AtomicBool::new(false),
        }
    }

    /// A picture; `None` where all were shown often enough, or the system gives no random bytes. Who asks
    /// first waits for a few to be drawn, and nobody after.
    #[must_use]
    pub fn take(&self) -> Option<Arc<Picture>> {
        let mut pictures = self.shelf.lock();
        if !std::mem::replace(&mut pictures.asked, true) {
            let first = (0..FIRST).filter_map(|_| Picture::draw());
            pictures.new.extend(first.map(Arc::new));
        }
        let Some(picture) = pictures.new.pop_front() else {
            return pictures.again();
        };
        if pictures.old.len() >= KEPT {
            pictures.old.pop_front();
        }
        pictures.old.push_back((Arc::clone(&picture), 1));
        drop(pictures);
        self.wanted.notify_one();
        Some(picture)
    }

    /// Begins to draw ahead, on `control`, for as long as the pool lives; to be called again does
    /// nothing.
    pub fn fill(self: &Arc<Self>, control: &Handle) {
        if self.filling.swap(true, Ordering::Relaxed) {
            return;
        }
        let pool = Arc::downgrade(self);
        control.spawn(async move {
            while let Some(pool) = pool.upgrade() {
                if pool.shelf.lock().new.len() >= READY || !pool.was_asked() {
                    // Comes back without having been asked, too, to see whether the pool is gone.
                    let _ =
                        tokio::time::timeout(Duration::from_secs(60), pool.wanted.notified()).await;
                    continue;
                }
                if let Some(picture) = Picture::draw() {
                    pool.shelf.lock().new.push_back(Arc::new(picture));
                }
                drop(pool);
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    fn was_asked(&self) -> bool {
        self.shelf.lock().asked
    }

    /// What a picture says that was handed out a while ago at most.
    #[cfg(test)]
    pub fn text_of(&self, data: &str) -> Option<String> {
        let pictures = self.shelf.lock();
        let mut old = pictures.old.iter().map(|(picture, _)| picture);
        let found = old.find(|picture| picture.data == data);
        found.map(|picture| picture.text.clone())
    }

    #[cfg(test)]
    fn ready(&self) -> usize {
        self.shelf.lock().new.len()
    }
}

impl Shelf {
    /// One that was handed out before. Which one need not be a secret.
    fn again(&mut self) -> Option<Arc<Picture>> {
        let length = u64::try_from(self.old.len()).ok()?;
        let mut dice = Dice::new(self.chance);
        self.chance = dice.number();
        let index = usize::try_from(self.chance.checked_rem(length)?).ok()?;
        let (picture, shown) = self.old.get_mut(index)?;
        *shown = shown.saturating_add(1);
        let picture = Arc::clone(picture);
        if *shown >= SHOWN {
            self.old.remove(index);
        }
        Some(picture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn a_picture_is_small_and_says_what_can_be_drawn() {
        for _ in 0..50 {
            let picture = Picture::draw().unwrap();
            assert_eq!(picture.text.len(), LENGTH);
            assert!(picture.text.bytes().all(|byte| ALPHABET.contains(&byte)));
            let png = STANDARD.decode(&picture.data).unwrap();
            assert!(png.len() < 4096, "{}", png.len());
        }
    }

    #[test]
    fn a_flood_shows_each_picture_a_few_times_and_draws_none() {
        let pool = Pool::new();
        let mut shown: HashMap<String, u8> = HashMap::new();
        let mut none = 0;
        for _ in 0..10_000 {
            match pool.take() {
                Some(picture) => *shown.entry(picture.data.clone()).or_default() += 1,
                None => none += 1,
            }
        }
        assert_eq!(shown.len(), FIRST);
        assert!(shown.values().all(|times| *times == SHOWN), "{shown:?}");
        assert_eq!(none, 10_000 - FIRST * usize::from(SHOWN));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_that_goes_on_gets_what_is_drawn_meanwhile() {
        let pool = Arc::new(Pool::new());
        pool.fill(&Handle::current());
        while pool.take().is_some() {}
        let mut shown: HashMap<String, u8> = HashMap::new();
        let start = tokio::time::Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            while let Some(picture) = pool.take() {
                *shown.entry(picture.data.clone()).or_default() += 1;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // 25 a second.
        assert!((200..=260).contains(&shown.len()), "{}", shown.len());
        assert!(shown.values().all(|times| *times <= SHOWN));
        assert!(shown.values().filter(|times| **times == SHOWN).count() > 190);
    }

    #[tokio::test(start_paused = true)]
    async fn more_are_drawn_once_one_was_wanted_and_each_is_handed_out_once() {
        let pool = Arc::new(Pool::new());
        pool.fill(&Handle::current());
        pool.fill(&Handle::current());
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(pool.ready(), 0, "nobody asked");
        assert!(pool.take().is_some());
        while pool.ready() < READY {
            tokio::time::sleep(PAUSE).await;
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(pool.ready(), READY, "no more than that");
        let pictures: Vec<_> = (0..READY).filter_map(|_| pool.take()).collect();
        let data: HashSet<_> = pictures.iter().map(|picture| &picture.data).collect();
        assert_eq!(data.len(), READY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_is_gone_is_filled_no_more() {
        let pool = Arc::new(Pool::new());
        pool.fill(&Handle::current());
        let gone = Arc::downgrade(&pool);
        drop(pool);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(gone.strong_count(), 0);
    }
}
