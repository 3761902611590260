//! One place in a kernel map, whichever of the two kinds of map it is in.

use aya::{
    Pod,
    maps::{HashMap, LpmTrie, MapData, MapError, lpm_trie::Key},
};
use std::io;

/// Until when (0: no end), hits, length of the prefix.
pub(super) type Value = [u64; 3];

const NO_EXIST: u64 = 1;
const EXIST: u64 = 2;
const EEXIST: i32 = 17;
const E2BIG: i32 = 7;
const ENOSPC: i32 = 28;

pub(super) trait Table {
    fn read(&self) -> io::Result<Option<Value>>;
    fn write(&mut self, value: Value, flags: u64) -> io::Result<()>;
    /// False if there was nothing.
    fn remove(&mut self) -> io::Result<bool>;
}

pub(super) struct Hash<'a, K: Pod>(pub(super) &'a mut HashMap<MapData, K, Value>, pub(super) K);
pub(super) struct Trie<'a, K: Pod>(
    pub(super) &'a mut LpmTrie<MapData, K, Value>,
    pub(super) Key<K>,
);

impl<K: Pod> Table for Hash<'_, K> {
    fn read(&self) -> io::Result<Option<Value>> {
        found(self.0.get(&self.1, 0))
    }

    fn write(&mut self, value: Value, flags: u64) -> io::Result<()> {
        self.0.insert(self.1, value, flags).map_err(error)
    }

    fn remove(&mut self) -> io::Result<bool> {
        found(self.0.remove(&self.1)).map(|found| found.is_some())
    }
}

impl<K: Pod> Table for Trie<'_, K> {
    fn read(&self) -> io::Result<Option<Value>> {
        // The trie gives the narrowest that covers the key: it may be a wider one than was asked for.
        let value = found(self.0.get(&self.1, 0))?;
        Ok(value.filter(|[_, _, length]| *length == u64::from(self.1.prefix_len())))
    }

    fn write(&mut self, value: Value, flags: u64) -> io::Result<()> {
        self.0.insert(&self.1, value, flags).map_err(error)
    }

    fn remove(&mut self) -> io::Result<bool> {
        found(self.0.remove(&self.1)).map(|found| found.is_some())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Added,
    Changed,
    Full,
}

/// Adds a ban if there is room, or changes until when one holds that is there; its hits stay.
pub(super) fn put(table: &mut dyn Table, value: Value, room: bool) -> io::Result<Put> {
    if room {
        match table
            .write(value, NO_EXIST)
            .map_err(|error| (error.raw_os_error(), error))
        {
            Ok(()) => return Ok(Put::Added),
            Err((Some(EEXIST), _)) => {}
            Err((Some(E2BIG | ENOSPC), _)) => return Ok(Put::Full),
            Err((_, error)) => return Err(error),
        }
    }
    let Some([_, hits, _]) = table.read()? else {
        return Ok(Put::Full);
    };
    let [until, _, length] = value;
    table.write([until, hits, length], EXIST)?;
    Ok(Put::Changed)
}

fn found<T>(result: Result<T, MapError>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(other) => match error(other) {
            error if error.kind() == io::ErrorKind::NotFound => Ok(None),
            error => Err(error),
        },
    }
}

/// With the kernel's number, where it comes from there.
pub(super) fn error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}
