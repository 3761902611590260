//! Who waits for a worker's handshake budget, first come first served.

use crate::listener::conduct::SITE;
use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    task::Waker,
};
use verdict::prefix::Prefix;

/// Places that one site may have.
const OF_ONE_SITE: u32 = 2;

/// Numbers rise from front to back.
#[derive(Debug, Default)]
pub struct Line {
    waiting: VecDeque<Place>,
    /// How many places each site has, as a newcomer.
    sites: HashMap<Prefix, u32>,
    newcomers: usize,
    next: u64,
}

#[derive(Debug)]
struct Place {
    number: u64,
    /// Of whom nothing of the handshake was done yet: the length of the line is measured by these.
    newcomer: Option<Prefix>,
    waker: Option<Waker>,
}

impl Line {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    #[cfg(test)]
    pub fn remembers_nobody(&self) -> bool {
        self.sites.is_empty() && self.newcomers == 0
    }

    /// The next number, which a handshake keeps to its end.
    pub fn number(&mut self) -> u64 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        number
    }

    /// Joins the line at its end, if it is shorter than `most` and there are not too many of the same
    /// site: the number.
    pub fn join(&mut self, client: Prefix, most: usize) -> Option<u64> {
        let site = Prefix::of(client.address(), SITE);
        if self.newcomers >= most {
            return None;
        }
        let places = self.sites.entry(site).or_default();
        if *places >= OF_ONE_SITE {
            return None;
        }
        *places += 1;
        self.newcomers += 1;
        let number = self.number();
        self.waiting.push_back(Place {
            number,
            newcomer: Some(site),
            waker: None,
        });
        Some(number)
    }

    /// Joins the line again for the rest of a handshake, before all that came later. Who stands in it
    /// stays there.
    pub fn rejoin(&mut self, number: u64) {
        if let Err(at) = self.position(number) {
            let place = Place {
                number,
                newcomer: None,
                waker: None,
            };
            self.waiting.insert(at, place);
        }
    }

    pub fn holds(&self, number: u64) -> bool {
        self.position(number).is_ok()
    }

    /// Whether this one is the first; it will be woken when it becomes so.
    pub fn is_first(&mut self, number: u64, waker: &Waker) -> bool {
        let Ok(at) = self.position(number) else {
            return false;
        };
        if let Some(place) = self.waiting.get_mut(at) {
            match &mut place.waker {
                Some(known) => known.clone_from(waker),
                unknown => *unknown = Some(waker.clone()),
            }
        }
        at == 0
    }

    /// Leaves the line from wherever it stands; the new first one is woken.
    pub fn leave(&mut self, number: u64) {
        let Ok(at) = self.position(number) else {
            return;
        };
        if let Some(site) = self.waiting.remove(at).and_then(|place| place.newcomer) {
            self.newcomers -= 1;
            if let Entry::Occupied(mut places) = self.sites.entry(site) {
                *places.get_mut() -= 1;
                if *places.get() == 0 {
                    places.remove();
                }
            }
        }
        if at == 0
            && let Some(first) = self.waiting.front()
            && let Some(waker) = &first.waker
        {
            waker.wake_by_ref();
        }
    }

    /// Where this number stands, or would.
    fn position(&self, number: u64) -> Result<usize, usize> {
        self.waiting
            .binary_search_by_key(&number, |place| place.number)
    }
}
