//! The command line. What each command does is a library call; here are only words, exit codes
//! and where output goes.
//!
//! Exit codes: 0 fine, 1 the answer is no, 2 wrong usage.

use clap::{Parser, Subcommand};
use rempart::{
    admin::client::{BansCommand, ClearancesCommand},
    config::{self, model::Admin},
    demo, guard,
    host::Report,
    logs, server,
};
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An edge reverse proxy that tells people from floods.
#[derive(Parser)]
#[command(version, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Example: rempart run --config conf/small-site.yaml")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve, until SIGTERM; SIGHUP or a changed file reloads, SIGQUIT starts the binary anew.
    #[command(after_help = "Example: rempart run --config conf/small-site.yaml")]
    Run {
        /// The YAML configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Worker threads, each with its own sockets [default: one a core].
        #[arg(long, value_name = "N")]
        workers: Option<std::num::NonZeroUsize>,
    },
    /// Check configurations: every error at once, with its file, line and column.
    #[command(after_help = "Example: rempart check --host conf/*.yaml")]
    Check {
        #[arg(required_unless_present = "host", value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Say what to change on this host, and why; nothing is changed.
        #[arg(long)]
        host: bool,
    },
    /// Serve a sample app behind the full proxy, and say what to try.
    #[command(after_help = "Example: rempart demo --port 8443")]
    Demo(demo::Options),
    /// Hold the rights to the kernel's filter, and drop there what proxies banned.
    #[command(
        after_help = "Example: rempart guard --socket /run/rempart/guard.sock --group rempart"
    )]
    Guard(guard::Options),
    /// List, add and remove bans, over the admin API.
    #[command(
        after_help = "Example: rempart bans add 203.0.113.7 --for 10m --config conf/small-site.yaml"
    )]
    Bans(BansCommand),
    /// Take back what visitors got for solving challenges, over the admin API.
    #[command(
        after_help = "Example: rempart clearances revoke 203.0.113.0/24 --config conf/small-site.yaml"
    )]
    Clearances(ClearancesCommand),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { config, workers } => {
            logs::start();
            server::run(&config, workers)
        }
        Command::Check { files, host } => check(&files, host),
        Command::Demo(options) => {
            logs::start();
            demo::run(&options, |config| server::run(config, None))
        }
        Command::Guard(options) => {
            logs::start();
            guard::run(options)
        }
        Command::Bans(command) => command.run(admin_of),
        Command::Clearances(command) => command.run(admin_of),
    }
}

/// The `admin` section of a configuration.
fn admin_of(path: &Path) -> Result<Option<Admin>, String> {
    match config::load(path) {
        Ok(config) => Ok(config.admin),
        Err(errors) => Err(errors.to_string()),
    }
}

/// Loads each file as `run` would, and prints what is wrong with it, and with this host if asked.
fn check(files: &[PathBuf], host: bool) -> ExitCode {
    let mut fine = true;
    let mut loaded = Vec::new();
    for file in files {
        match config::load(file) {
            Ok(config) => {
                println!("{}: ok", file.display());
                loaded.push(config);
            }
            Err(errors) => {
                fine = false;
                print!("{errors}");
            }
        }
    }
    if host {
        let report = Report::of(loaded.iter(), std::io::stdout().is_terminal());
        fine &= report.is_fine();
        print!("{report}");
    }
    if fine {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
