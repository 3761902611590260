//! Says when a file of the configuration has changed. It watches the folders, not the files:
//! editors replace files, and Kubernetes swaps a ConfigMap by pointing its `..data` link elsewhere.
//! Only changed contents count. What to do about it is left to whoever holds the receiver.

use super::files;
use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use parking_lot::Mutex;
use ring::digest;
use std::{
    collections::{BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Changes come in bursts: a file is truncated, written, renamed. The last one ends the wait.
const QUIET: Duration = Duration::from_millis(200);
/// However long a burst goes on, contents are compared this often.
const LONGEST_BURST: Duration = Duration::from_secs(2);
/// How often contents are compared where folders can't be watched.
const POLL: Duration = Duration::from_secs(5);
/// How often they are compared where folders are watched, for what the kernel can't see (network
/// file systems, a folder that did not exist).
const SWEEP: Duration = Duration::from_secs(60);

/// Contents of all watched files; `None` for one that can't be read.
type Contents = HashMap<PathBuf, Option<[u8; 32]>>;

/// Watches while it lives.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Mutex<Watched>>,
    /// Its end ends the thread.
    wake: SyncSender<()>,
    /// Weak, so that the thread's end is the end of what the receiver gets.
    changed: mpsc::WeakSender<()>,
}

#[derive(Debug)]
struct Watched {
    files: Vec<PathBuf>,
    contents: Contents,
    folders: BTreeSet<PathBuf>,
    /// `None`: the kernel offers no watching, so contents are polled.
    kernel: Option<RecommendedWatcher>,
}

/// Watches `files` (absolute paths). The receiver gets one message for any number of changes since
/// the last was taken; its end is the end of the watching.
///
/// # Errors
/// When the thread that watches can't be started.
pub fn watch(files: Vec<PathBuf>) -> io::Result<(Watcher, mpsc::Receiver<()>)> {
    start(files, true, POLL)
}

fn start(
    files: Vec<PathBuf>,
    kernel: bool,
    poll: Duration,
) -> io::Result<(Watcher, mpsc::Receiver<()>)> {
    let (changed, receiver) = mpsc::channel(1);
    let (wake, woken) = sync_channel(1);
    let touch = wake.clone();
    let kernel = kernel.then(|| {
        notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
            // Reading is an event too, and comparing reads.
            if event.is_ok_and(|event| event.kind.is_access() && event.kind != written) {
                return;
            }
            // A full channel already holds the wake-up.
            let _ = touch.try_send(());
        })
    });
    let kernel = match kernel {
        Some(Ok(kernel)) => Some(kernel),
        Some(Err(error)) => {
            tracing::warn!("files can't be watched ({error}); they are compared every {poll:?}");
            None
        }
        None => None,
    };
    let mut state = Watched {
        files: Vec::new(),
        contents: Contents::new(),
        folders: BTreeSet::new(),
        kernel,
    };
    state.replace(files);
    let shared = Arc::new(Mutex::new(state));
    let watcher = Watcher {
        shared: Arc::clone(&shared),
        wake,
        changed: changed.downgrade(),
    };
    std::thread::Builder::new()
        .name("config-watch".into())
        .spawn({
            let shared = Arc::downgrade(&shared);
            move || run(&shared, &woken, &changed, poll)
        })?;
    Ok((watcher, receiver))
}

impl Watcher {
    /// Watches these files from now on; for after a load, good or bad. A file that was watched
    /// before keeps the contents it was last seen with: what changed meanwhile is still found.
    pub fn replace(&self, files: Vec<PathBuf>) {
        self.shared.lock().replace(files);
        // A full channel already holds the wake-up.
        let _ = self.wake.try_send(());
    }

    /// Asks for a reload though nothing changed, as SIGHUP does.
    pub fn trigger(&self) {
        // A full channel already asks for one.
        if let Some(changed) = self.changed.upgrade() {
            let _ = changed.try_send(());
        }
    }
}

impl Watched {
    fn replace(&mut self, files: Vec<PathBuf>) {
        let folders: BTreeSet<PathBuf> = files.iter().flat_map(|file| folders(file)).collect();
        if let Some(kernel) = &mut self.kernel {
            for gone in self.folders.difference(&folders) {
                let _ = kernel.unwatch(gone);
            }
            for new in folders.difference(&self.folders) {
                if let Err(error) = kernel.watch(new, RecursiveMode::NonRecursive) {
                    tracing::warn!("{} can't be watched: {error}", new.display());
                }
            }
        }
        self.folders = folders;
        let mut seen = std::mem::take(&mut self.contents);
        self.contents = files
            .iter()
            .map(|file| match seen.remove_entry(file) {
                Some(known) => known,
                None => (file.clone(), content(file)),
            })
            .collect();
        self.files = files;
    }

    /// Whether contents differ from the last time.
    fn compare(&mut self) -> bool {
        let now = self
            .files
            .iter()
            .map(|file| (file.clone(), content(file)))
            .collect();
        let changed = now != self.contents;
        self.contents = now;
        // A link may lead to another folder now.
        let folders: BTreeSet<PathBuf> = self.files.iter().flat_map(|file| folders(file)).collect();
        if folders != self.folders {
            let files = std::mem::take(&mut self.files);
            self.replace(files);
        }
        changed
    }
}

/// The folders whose entries decide what is read under a path: the one it names, those of the
/// links on the way, and the one where the links lead.
fn folders(file: &Path) -> impl Iterator<Item = PathBuf> {
    let named = file.parent().map(Path::to_path_buf);
    let links = file
        .ancestors()
        .filter(|path| path.is_symlink())
        .filter_map(|link| link.parent().map(Path::to_path_buf));
    let real = std::fs::canonicalize(file).ok();
    let real = real.and_then(|real| real.parent().map(Path::to_path_buf));
    named
        .into_iter()
        .chain(links)
        .chain(real)
        .filter(|folder| folder.is_dir())
}

/// SHA-256 of a file; `None` when it can't be read.
fn content(file: &Path) -> Option<[u8; 32]> {
    let bytes = files::read_bounded(file, files::LARGE).ok()?;
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, &bytes).as_ref());
    Some(hash)
}

/// Until the watcher is dropped, or nobody listens any more.
fn run(
    shared: &Weak<Mutex<Watched>>,
    woken: &Receiver<()>,
    changed: &mpsc::Sender<()>,
    poll: Duration,
) {
    loop {
        let pause = match shared.upgrade() {
            Some(shared) if shared.lock().kernel.is_some() => SWEEP,
            Some(_) => poll,
            None => return,
        };
        match woken.recv_timeout(pause) {
            Ok(()) => settle(woken),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if shared.lock().compare() {
            // A full channel already tells of a change.
            let _ = changed.try_send(());
        }
        if changed.is_closed() {
            return;
        }
    }
}

/// Waits until nothing has been touched for a while.
fn settle(woken: &Receiver<()>) {
    let begun = Instant::now();
    while begun.elapsed() < LONGEST_BURST {
        if woken.recv_timeout(QUIET).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    async fn event(receiver: &mut mpsc::Receiver<()>) -> bool {
        let told = tokio::time::timeout(Duration::from_secs(20), receiver.recv());
        matches!(told.await, Ok(Some(())))
    }

    /// A folder as Kubernetes mounts a ConfigMap: names link through `..data` to a dated folder.
    fn config_map(folder: &Path) -> PathBuf {
        fs::create_dir(folder.join("..one")).unwrap();
        fs::write(folder.join("..one/rempart.yaml"), "one").unwrap();
        symlink("..one", folder.join("..data")).unwrap();
        symlink("..data/rempart.yaml", folder.join("rempart.yaml")).unwrap();
        folder.join("rempart.yaml")
    }

    fn swap(folder: &Path, version: &str, content: &str) {
        let dated = format!("..{version}");
        fs::create_dir(folder.join(&dated)).unwrap();
        fs::write(folder.join(&dated).join("rempart.yaml"), content).unwrap();
        symlink(&dated, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    }

    #[tokio::test]
    async fn a_swapped_config_map_is_seen_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = config_map(folder.path());
        let (_watcher, mut receiver) = watch(vec![file.clone()]).unwrap();
        for version in ["two", "three", "four"] {
            swap(folder.path(), version, version);
            assert!(event(&mut receiver).await, "{version} was not seen");
            assert_eq!(fs::read_to_string(&file).unwrap(), version);
        }
    }

    #[tokio::test]
    async fn only_changed_contents_count() {
        let folder = tempfile::tempdir().unwrap();
        let file = config_map(folder.path());
        let other = folder.path().join("list.txt");
        fs::write(&other, "192.0.2.0/24").unwrap();
        let (watcher, mut receiver) = watch(vec![file, other.clone()]).unwrap();
        // The same contents by another swap and another file: compared, and not told.
        swap(folder.path(), "same", "one");
        let draft = folder.path().join("draft");
        fs::write(&draft, "192.0.2.0/24").unwrap();
        fs::rename(&draft, &other).unwrap();
        assert!(!watcher.shared.lock().compare());
        assert!(receiver.try_recv().is_err());
        fs::write(&other, "198.51.100.0/24").unwrap();
        assert!(event(&mut receiver).await);
    }

    #[tokio::test]
    async fn a_file_that_appears_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("later.pem");
        let (_watcher, mut receiver) = watch(vec![file.clone()]).unwrap();
        fs::write(file, "here").unwrap();
        assert!(event(&mut receiver).await);
    }

    #[tokio::test]
    async fn replaced_files_are_watched_in_place_of_the_old() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (old, new) = (one.path().join("a"), two.path().join("b"));
        fs::write(&old, "old").unwrap();
        fs::write(&new, "new").unwrap();
        let (watcher, mut receiver) = watch(vec![old.clone()]).unwrap();
        watcher.replace(vec![new.clone()]);
        fs::write(&old, "changed").unwrap();
        assert!(!watcher.shared.lock().compare());
        fs::write(&new, "changed").unwrap();
        assert!(event(&mut receiver).await);
    }

    #[tokio::test]
    async fn without_the_kernel_contents_are_polled() {
        let folder = tempfile::tempdir().unwrap();
        let file = config_map(folder.path());
        let (_watcher, mut receiver) = start(vec![file], false, Duration::from_millis(20)).unwrap();
        swap(folder.path(), "two", "two");
        assert!(event(&mut receiver).await);
    }

    #[tokio::test]
    async fn a_signal_asks_for_a_reload_and_asks_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = config_map(folder.path());
        let (watcher, mut receiver) = watch(vec![file]).unwrap();
        watcher.trigger();
        watcher.trigger();
        assert!(event(&mut receiver).await);
        assert!(receiver.try_recv().is_err());
    }

    #[tokio::test]
    async fn dropping_the_watcher_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let (watcher, mut receiver) = watch(vec![config_map(folder.path())]).unwrap();
        drop(watcher);
        let ended = tokio::time::timeout(Duration::from_secs(20), receiver.recv());
        assert_eq!(ended.await, Ok(None));
    }
}
