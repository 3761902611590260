//! Whether this process may end while another goes on in its place: not where its own end is taken
//! for the end of everything. What follows is left to the server.

use std::{env, fs, os::unix::process::parent_id, process};

/// What stands around this process.
#[derive(Clone, Copy, Debug)]
struct Surroundings<'a> {
    pid: u32,
    /// 0 when it is outside of this process's namespace.
    parent: u32,
    /// The name of process 1.
    first: &'a str,
    /// Somebody wants to be told which process is the one to watch.
    supervised: bool,
    /// It has taken over from another, whose end was nobody's.
    took_over: bool,
}

/// Why no other process can take over from this one, if that is so.
#[must_use]
pub fn objection(took_over: bool) -> Option<&'static str> {
    let first = fs::read_to_string("/proc/1/comm").unwrap_or_default();
    Surroundings {
        pid: process::id(),
        parent: parent_id(),
        first: first.trim_end(),
        supervised: env::var_os("NOTIFY_SOCKET").is_some(),
        took_over,
    }
    .objection()
}

impl Surroundings<'_> {
    fn objection(self) -> Option<&'static str> {
        match (self.pid, self.parent) {
            (1, _) => Some(
                "this is process 1, whose end is the end of its container: replace the container",
            ),
            _ if self.supervised || self.took_over => None,
            (_, 0) => Some(
                "this process was started from outside of its container, whose end its own may be: \
                 replace the container",
            ),
            // Only systemd lets go of a process that it is not to watch any more.
            (_, 1) if self.first != "systemd" => Some(
                "this process was started by process 1, which is not systemd: the init of a \
                 container ends with the process that it started; replace the container",
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_container_is_not_risked() {
        let shell = Surroundings {
            pid: 700,
            parent: 650,
            first: "systemd",
            supervised: false,
            took_over: false,
        };
        let on = |change: fn(&mut Surroundings<'_>)| {
            let mut surroundings = shell;
            change(&mut surroundings);
            surroundings.objection()
        };
        assert_eq!(shell.objection(), None);
        assert!(on(|it| it.pid = 1).is_some());
        assert!(on(|it| (it.pid, it.supervised) = (1, true)).is_some());
        assert!(on(|it| it.parent = 0).is_some());
        for init in ["docker-init", "tini", "dumb-init", "supervisord", ""] {
            let under = Surroundings {
                parent: 1,
                first: init,
                ..shell
            };
            assert!(under.objection().is_some(), "{init}");
            let elsewhere = Surroundings {
                parent: 650,
                ..under
            };
            assert_eq!(elsewhere.objection(), None, "{init}");
            let told = Surroundings {
                supervised: true,
                ..under
            };
            assert_eq!(told.objection(), None, "{init}");
            // Orphans are given to process 1, which has lived through the end of the one before.
            let second = Surroundings {
                took_over: true,
                ..under
            };
            assert_eq!(second.objection(), None, "{init}");
        }
        assert_eq!(on(|it| it.parent = 1), None, "systemd");
    }
}
