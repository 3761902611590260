//! `rempart guard` on the command line: what its flags mean to the process that
//! `rempart_kernel::guard` is.

use clap::Args;
use ipnet::IpNet;
use rempart_kernel::{
    filter::{Backend, Choice, Ports, Wanted},
    guard::{self, Door},
};
use std::{path::PathBuf, process::ExitCode};

#[derive(Args, Debug)]
pub struct Options {
    /// Serve proxies on this Unix socket (mode 0660).
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "stdin",
        conflicts_with = "stdin"
    )]
    socket: Option<PathBuf>,
    /// Group of the socket [default: the guard's own].
    #[arg(long, value_name = "NAME", conflicts_with = "stdin")]
    group: Option<String>,
    /// Serve one proxy over standard input, and end with it.
    #[arg(long)]
    stdin: bool,
    /// Where to drop: auto, xdp or nftables.
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = choice)]
    backend: Choice,
    /// Interface for XDP; repeat it [default: those of the default routes].
    #[arg(long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
    /// Port that bans cover, or `all`; repeat it.
    #[arg(long = "port", value_name = "PORT", default_values = ["80", "443"], value_parser = port)]
    ports: Vec<Port>,
    /// Network that is never dropped; repeat it. What the host needs never is.
    #[arg(long = "protect", value_name = "CIDR")]
    protected: Vec<IpNet>,
    /// Bans at once.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    capacity: u32,
    /// Drop UDP floods that are reflected here, while they last (XDP alone).
    #[arg(long)]
    drop_reflected: bool,
    /// Who to be when started as root, once all is open.
    #[arg(long, value_name = "NAME", default_value = "nobody")]
    user: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    All,
    One(u16),
}

fn port(text: &str) -> Result<Port, String> {
    match text {
        "all" => Ok(Port::All),
        _ => text
            .parse()
            .map(Port::One)
            .map_err(|_| "a port from 0 to 65535, or `all`".into()),
    }
}

fn choice(text: &str) -> Result<Choice, String> {
    match text {
        "auto" => Ok(Choice::Auto),
        "xdp" => Ok(Choice::Only(Backend::Xdp)),
        "nftables" => Ok(Choice::Only(Backend::Nftables)),
        _ => Err("auto, xdp or nftables".into()),
    }
}

/// Guards until it is told to end; the words of what went wrong go to stderr.
#[must_use]
pub fn run(options: Options) -> ExitCode {
    let one = |port: &Port| match port {
        Port::All => None,
        Port::One(port) => Some(*port),
    };
    let ports = options.ports.iter().map(one).collect::<Option<_>>();
    let options = guard::Options {
        door: match options.socket {
            Some(path) => Door::Socket {
                path,
                group: options.group,
            },
            None => Door::Stdin,
        },
        wanted: Wanted {
            choice: options.backend,
            interfaces: options.interfaces,
            ports: ports.map_or(Ports::All, Ports::Only),
            capacity: options.capacity,
        },
        protected: options.protected.iter().map(IpNet::trunc).collect(),
        drop_reflected: options.drop_reflected,
        user: options.user,
    };
    match guard::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rempart guard: {error}");
            ExitCode::FAILURE
        }
    }
}
