//! Who waits for a worker's handshake budget, first come first served.

use std::{collections::VecDeque, task::Waker};

/// Numbers rise from front to back.
#[derive(Debug, Default)]
pub struct Line {
    waiting: VecDeque<Place>,
    newcomers: usize,
    next: u64,
}

#[derive(Debug)]
struct Place {
    number: u64,
    /// Whether nothing of its handshake was done yet. The length of the line is measured by these.
    newcomer: bool,
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

    /// The next number, which a handshake keeps to its end.
    pub fn number(&mut self) -> u64 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        number
    }

    /// Joins the line at its end, if it is shorter than `most`: the number.
    pub fn join(&mut self, most: usize) -> Option<u64> {
        if self.newcomers >= most {
            return None;
        }
        self.newcomers += 1;
        let number = self.number();
        self.waiting.push_back(Place {
            number,
            newcomer: true,
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
                newcomer: false,
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
        if self.waiting.remove(at).is_some_and(|place| place.newcomer) {
            self.newcomers -= 1;
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
