//! What this process was started as, so that it can be started again after its file was replaced.

use std::{
    env,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// A program and its arguments.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// This process. To be asked at its start: `/proc/self/exe` leads nowhere once the file is
    /// replaced.
    ///
    /// # Errors
    /// When `/proc` can't be read.
    pub fn here() -> io::Result<Self> {
        let running = env::current_exe()?;
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let folders = env::var_os("PATH").unwrap_or_default();
        // If it is gone, only a name relative to it can't be found.
        let folder = env::current_dir().unwrap_or_default();
        let named = find(Path::new(&name), &folder, &folders, &running);
        Ok(Self {
            path: named.unwrap_or(running),
            arguments: arguments.collect(),
        })
    }

    /// To start it again.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments);
        command
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The absolute path under which `running` was started as `name`. It may be a link: an upgrade may
/// point it elsewhere, which the file that runs knows nothing of.
fn find(name: &Path, folder: &Path, path: &std::ffi::OsStr, running: &Path) -> Option<PathBuf> {
    let is_running = |candidate: &PathBuf| {
        let real = fs::canonicalize(candidate).ok();
        candidate.is_absolute() && real.is_some() && real == fs::canonicalize(running).ok()
    };
    let bare = name.components().count() == 1 && !name.has_root();
    if bare {
        let mut found = env::split_paths(path).map(|within| folder.join(within).join(name));
        return found.find(is_running);
    }
    Some(folder.join(name)).filter(is_running)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_name_it_was_started_by_is_found_and_believed_only_if_it_is_the_one() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["v1", "v2", "bin"] {
            fs::create_dir(at(version)).unwrap();
        }
        fs::write(at("v1/rempart"), "one").unwrap();
        fs::write(at("v2/rempart"), "two").unwrap();
        symlink(at("v1/rempart"), at("bin/rempart")).unwrap();
        let running = at("v1/rempart");
        let path = env::join_paths([at("v2"), at("bin")]).unwrap();
        let find = |name: &str| find(Path::new(name), folder.path(), &path, &running);
        for (name, expected) in [
            // Not the other one that comes first in PATH.
            ("rempart", Some(at("bin/rempart"))),
            ("bin/rempart", Some(at("bin/rempart"))),
            (at("bin/rempart").to_str().unwrap(), Some(at("bin/rempart"))),
            ("v2/rempart", None),
            ("elsewhere/rempart", None),
            ("", None),
        ] {
            assert_eq!(find(name), expected, "{name}");
        }
    }

    #[test]
    fn here_is_a_file_that_runs() {
        let program = Program::here().unwrap();
        assert!(program.path().is_absolute() && program.path().is_file());
    }
}
