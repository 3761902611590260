//! Files of bans: what is written is read, whatever became of it in between.

use super::*;
use crate::bans::{
    Because, By,
    testing::{HOUR, LOGIN, MINUTE, client, now, numbered, wait_for},
};
use std::{
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicUsize, Ordering},
};
use verdict::prefix::PrefixLengths;

/// Keeps a file for as long as `during` takes.
fn keep(path: &Path, bans: &Arc<Bans>, during: impl FnOnce(&StateFile)) -> usize {
    let failures = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&failures);
    let state = StateFile::keep(path, bans, move || {
        counted.fetch_add(1, Ordering::Relaxed);
    })
    .unwrap();
    during(&state);
    state.close();
    failures.load(Ordering::Relaxed)
}

fn restored(path: &Path) -> (Bans, Restored) {
    let bans = Bans::default();
    let restored = restore(path, &bans, now(), SystemTime::now()).unwrap();
    (bans, restored)
}

#[test]
fn bans_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    let bans = Arc::new(Bans::default());
    // One before the file is kept, the others after.
    bans.ban(client("203.0.113.1"), HOUR, LOGIN, now());
    keep(&path, &bans, |_| {
        let proxied = By {
            direct: false,
            ..LOGIN
        };
        bans.ban(client("2001:db8::1"), 2 * HOUR, proxied, now());
        bans.ban(client("203.0.113.2"), HOUR, By::H2_ABUSE, now());
        bans.ban(client("203.0.113.3"), HOUR, LOGIN, now());
        let network = "198.51.100.0/24".parse().unwrap();
        bans.add(network, HOUR, Some("scan \"x\"\n"), now())
            .unwrap();
        bans.add("192.0.2.0/24".parse().unwrap(), HOUR, None, now())
            .unwrap();
        assert_eq!(bans.remove("203.0.113.3/32".parse().unwrap(), now()), 1);
        assert_eq!(bans.remove("192.0.2.0/24".parse().unwrap(), now()), 1);
    });
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let (new, restored) = restored(&path);
    assert_eq!(
        restored,
        Restored {
            bans: 4,
            ..Restored::default()
        }
    );
    let told = |bans: &Bans| {
        let mut told: Vec<_> = bans
            .list(99, now())
            .0
            .into_iter()
            .map(|ban| {
                (
                    ban.network,
                    ban.reason,
                    ban.comment,
                    ban.direct,
                    ban.offences,
                )
            })
            .collect();
        told.sort_by_key(|ban| ban.0);
        told
    };
    assert_eq!(told(&new), told(&bans));
    let before = bans.until(client("2001:db8::2"), now()).unwrap();
    let after = new.until(client("2001:db8::2"), now()).unwrap();
    assert!(after.since(before) + before.since(after) < Duration::from_secs(2));
}

#[test]
fn time_spent_down_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    let bans = Arc::new(Bans::default());
    bans.ban(client("203.0.113.1"), MINUTE, LOGIN, now());
    bans.ban(client("203.0.113.2"), HOUR, LOGIN, now());
    keep(&path, &bans, |_| {});
    let new = Bans::default();
    let later = SystemTime::now() + 10 * MINUTE;
    let restored = restore(&path, &new, now(), later).unwrap();
    assert_eq!(restored.bans, 1);
    let left = new
        .until(client("203.0.113.2"), now())
        .unwrap()
        .since(now());
    assert!(left <= 50 * MINUTE && left > 49 * MINUTE, "{left:?}");
    // The offence of the one that ended in between is remembered until ten minutes after its end.
    assert_eq!(
        new.ban(client("203.0.113.1"), MINUTE, LOGIN, now()),
        2 * MINUTE
    );
}

#[test]
fn a_clock_that_was_set_back_makes_no_ban_longer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    let bans = Arc::new(Bans::default());
    bans.ban(client("203.0.113.1"), MINUTE, LOGIN, now());
    keep(&path, &bans, |_| {});
    for wall in [SystemTime::now() - 48 * HOUR, UNIX_EPOCH] {
        let new = Bans::default();
        restore(&path, &new, now(), wall).unwrap();
        let left = new.until(client("203.0.113.1"), now()).unwrap();
        let left = left.since(now());
        assert!(left <= 2 * MINUTE, "{left:?}");
    }
}

/// A machine that starts with a clock of yesterday, until it hears the time from the network.
#[test]
fn bans_written_by_a_wrong_clock_are_written_anew_once_it_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    let bans = Arc::new(Bans::default());
    let is_set = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asked = Arc::clone(&is_set);
    let wall = move || {
        let late = if asked.load(Ordering::Relaxed) { 0 } else { 24 };
        SystemTime::now() - late * HOUR
    };
    let state = StateFile::keep_by(wall, &path, &bans, || {}).unwrap();
    bans.ban(numbered(1), HOUR, LOGIN, now());
    let lines = || fs::read(&path).map_or(0, |bytes| bytes.split(|b| *b == b'\n').count());
    wait_for("the first", || lines() == 3);
    assert_eq!(restored(&path).1.bans, 0);
    is_set.store(true, Ordering::Relaxed);
    bans.ban(numbered(2), HOUR, LOGIN, now());
    state.close();
    assert_eq!(restored(&path).1.bans, 2);
}

#[test]
fn nothing_there_is_nobody_banned() {
    let folder = tempfile::tempdir().unwrap();
    let bans = Bans::default();
    let none = restore(&folder.path().join("bans"), &bans, now(), SystemTime::now());
    assert_eq!(none.unwrap(), Restored::default());
    assert!(restore(folder.path(), &bans, now(), SystemTime::now()).is_err());
}

/// Of a disk that fails in the midst, say; here of a file whose first byte can't be read.
#[test]
fn a_file_that_cannot_be_read_is_put_aside_before_another_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    std::os::unix::fs::symlink("/proc/self/mem", &path).unwrap();
    let bans = Arc::new(Bans::default());
    assert!(restore(&path, &bans, now(), SystemTime::now()).is_err());
    keep(&path, &bans, |_| {});
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    let kept = fs::read_link(folder.path().join("bans.damaged")).unwrap();
    assert_eq!(kept, Path::new("/proc/self/mem"));
}

/// Whatever is done to any byte of a small file: nothing panics, the other lines are read, and what
/// is damaged is kept aside.
#[test]
fn a_file_that_is_damaged_anywhere_gives_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    let bans = Arc::new(Bans::default());
    for last in 1..=2 {
        bans.ban(client(&format!("203.0.113.{last}")), HOUR, LOGIN, now());
    }
    bans.add("198.51.100.0/24".parse().unwrap(), HOUR, Some("ä"), now())
        .unwrap();
    keep(&path, &bans, |_| {});
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        for change in [0x01, 0x20, 0x80, good[at] ^ b'\n'] {
            if change == 0 {
                continue;
            }
            let mut bad = good.clone();
            bad[at] ^= change;
            fs::write(&path, &bad).unwrap();
            let (_, found) = restored(&path);
            // A line end that is gone takes both lines with it.
            assert!(found.bans >= 1, "{at} {change}: {found:?}");
            let capital = change == 0x20 && found.damaged == 0;
            assert!(found.kept.is_some() || capital, "{at} {change}");
            if let Some(kept) = found.kept {
                assert_eq!(fs::read(kept).unwrap(), bad);
            }
        }
        // Cut off there, as by a disk that was full.
        fs::write(&path, &good[..at]).unwrap();
        let (_, found) = restored(&path);
        let whole = good[..at].split(|byte| *byte == b'\n').count() as u64;
        assert_eq!(found.bans, whole.saturating_sub(2), "{at}");
        let ends_well = at == 0 || good[at - 1] == b'\n';
        assert_eq!(found.damaged == 0, ends_well, "{at}");
    }
}

#[test]
fn whatever_stands_there_bans_nobody_protected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    let bans = Arc::new(Bans::default());
    bans.ban(client("10.1.2.3"), HOUR, LOGIN, now());
    bans.add("10.9.0.0/16".parse().unwrap(), HOUR, None, now())
        .unwrap();
    bans.ban(client("203.0.113.1"), HOUR, LOGIN, now());
    keep(&path, &bans, |_| {});
    let new = Bans::default();
    let proxies = [("10.0.0.0/8".parse().unwrap(), Because::TrustedProxy)];
    new.configure(&proxies, PrefixLengths::CLIENT, now());
    let found = restore(&path, &new, now(), SystemTime::now()).unwrap();
    assert_eq!(found.bans, 1);
    assert_eq!(new.until(client("10.1.2.3"), now()), None);
    // A file that is none of ours is kept, and bans nobody; a line without an end is no memory leak.
    let foreign = [b"#!/bin/sh\n".as_slice(), &vec![0xff; 300_000]].concat();
    fs::write(&path, &foreign).unwrap();
    let (none, found) = restored(&path);
    assert_eq!(
        (none.count(now()), found.damaged, found.first_damaged),
        (0, 2, 1)
    );
    assert_eq!(fs::read(found.kept.unwrap()).unwrap(), foreign);
}

#[test]
fn a_file_that_grew_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    let bans = Arc::new(Bans::default());
    let lines = || fs::read(&path).map_or(0, |bytes| bytes.split(|b| *b == b'\n').count());
    keep(&path, &bans, |_| {
        wait_for("the file", || lines() > 0);
        let bad = numbered(1);
        let mut most = 0;
        // Ever longer bans of one client: a line each, of which the last alone matters.
        for round in 1..=30_000_u32 {
            bans.ban(bad, HOUR + Duration::from_secs(round.into()), LOGIN, now());
            if round.is_multiple_of(1000) {
                most = lines().max(most);
            }
        }
        wait_for("a file without what is past", || {
            bans.ban(numbered(2), HOUR, LOGIN, now());
            most = lines().max(most);
            lines() < 12_000
        });
        assert!(most < 50_000, "{most}");
    });
    assert_eq!(restored(&path).1.bans, 2);
}

#[test]
fn a_burst_that_overflows_the_queue_is_written_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    let bans = Arc::new(Bans::with_capacity(400_000));
    keep(&path, &bans, |state| {
        state.pause();
        for number in 0..100_000 {
            bans.ban(numbered(number), HOUR, LOGIN, now());
        }
        assert!(!path.exists() || fs::read(&path).unwrap().len() < 100);
        state.resume();
        wait_for("all of them", || {
            fs::metadata(&path).is_ok_and(|found| found.len() > 5_000_000)
        });
    });
    assert_eq!(restored(&path).1.bans, 100_000);
}

#[test]
fn a_disk_that_fails_is_tried_again_and_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gone").join("bans");
    let bans = Arc::new(Bans::default());
    let failures = keep(&path, &bans, |_| {
        bans.ban(numbered(1), HOUR, LOGIN, now());
        assert!(bans.until(numbered(1), now()).is_some());
        wait_for("the folder's turn", || {
            // It is tried again when there is one.
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path.exists()
        });
    });
    assert!(failures <= 2, "{failures}");
    assert_eq!(restored(&path).1.bans, 1);
}

#[test]
fn a_file_that_is_removed_or_replaced_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    let bans = Arc::new(Bans::default());
    let failures = keep(&path, &bans, |_| {
        wait_for("the file", || path.exists());
        fs::remove_file(&path).unwrap();
        bans.ban(numbered(1), HOUR, LOGIN, now());
        wait_for("the file again", || path.exists());
    });
    assert_eq!(failures, 1);
    assert_eq!(restored(&path).1.bans, 1);
    // By another process that was given the same; at the end there is no waiting.
    let bans = Arc::new(Bans::default());
    bans.ban(numbered(1), HOUR, LOGIN, now());
    keep(&path, &bans, |_| {
        let lines = || fs::read(&path).map_or(0, |bytes| bytes.split(|b| *b == b'\n').count());
        bans.ban(numbered(2), HOUR, LOGIN, now());
        wait_for("both", || lines() == 4);
        fs::write(folder.path().join("other"), "another's").unwrap();
        fs::rename(folder.path().join("other"), &path).unwrap();
        bans.ban(numbered(3), HOUR, LOGIN, now());
    });
    assert_eq!(restored(&path).1.bans, 3);
}

#[test]
fn while_paused_the_file_is_another_s() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    let bans = Arc::new(Bans::default());
    keep(&path, &bans, |state| {
        wait_for("the file", || path.exists());
        state.pause();
        fs::write(&path, "another's").unwrap();
        bans.ban(numbered(1), HOUR, LOGIN, now());
    });
    assert_eq!(fs::read(&path).unwrap(), b"another's");
}
