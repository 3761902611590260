//! One place in a kernel map, whichever of the two kinds of map it is in.

use aya::{
    Pod,
    maps::{HashMap, LpmTrie, MapData, MapError, lpm_trie::Key},
};
use std::io;

/// Until when (0: no end), hits, length of the prefix.
pub(super) type Value = [u64; 3];

const E2BIG: i32 = 7;
const ENOSPC: i32 = 28;
const ENOMEM: i32 = 12;

pub(super) trait Table {
    fn read(&self) -> io::Result<Option<Value>>;
    fn write(&mut self, value: Value) -> io::Result<()>;
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

    fn write(&mut self, value: Value) -> io::Result<()> {
        self.0.insert(self.1, value, 0).map_err(error)
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

    fn write(&mut self, value: Value) -> io::Result<()> {
        self.0.insert(&self.1, value, 0).map_err(error)
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
    let [until, _, length] = value;
    // Asked first: tries heed the flags of an update only since Linux 6.13.
    if let Some([_, hits, _]) = table.read()? {
        table.write([until, hits, length])?;
        return Ok(Put::Changed);
    }
    if !room {
        return Ok(Put::Full);
    }
    match table.write(value) {
        Ok(()) => Ok(Put::Added),
        Err(error) if matches!(error.raw_os_error(), Some(E2BIG | ENOSPC | ENOMEM)) => {
            Ok(Put::Full)
        }
        Err(error) => Err(error),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As the tries of older kernels: writes whatever was there.
    #[derive(Default)]
    struct Heedless(Option<Value>);

    impl Table for Heedless {
        fn read(&self) -> io::Result<Option<Value>> {
            Ok(self.0)
        }

        fn write(&mut self, value: Value) -> io::Result<()> {
            self.0 = Some(value);
            Ok(())
        }

        fn remove(&mut self) -> io::Result<bool> {
            Ok(self.0.take().is_some())
        }
    }

    #[test]
    fn what_is_there_is_changed_and_not_added_again() {
        let mut table = Heedless::default();
        assert_eq!(put(&mut table, [10, 0, 24], false).unwrap(), Put::Full);
        assert_eq!(put(&mut table, [10, 0, 24], true).unwrap(), Put::Added);
        table.0 = Some([10, 7, 24]);
        for room in [true, false] {
            assert_eq!(put(&mut table, [20, 0, 24], room).unwrap(), Put::Changed);
            assert_eq!(table.0, Some([20, 7, 24]));
        }
    }
}
