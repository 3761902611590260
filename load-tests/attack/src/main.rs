//! The command line: one attack on a server of this machine, and what came of it as JSON.
//! Exit codes: 0 done, 2 wrong usage.

use clap::Parser;
use rempart_attack::{Attack, KINDS, Kind, attack::Sources};
use std::{net::SocketAddr, process::ExitCode, time::Duration};

#[derive(Parser)]
#[command(
    name = "rempart-attack",
    version,
    about = "Attacks a server of this machine in one way, within bounds; tells what came of it as JSON",
    override_usage = "rempart-attack KIND --target ADDRESS:PORT [OPTIONS]\n       rempart-attack list",
    after_help = "Example: rempart-attack rapid-reset --target 127.0.0.1:8443 --sni app.example.com --source 127.9.0.0/24"
)]
struct Arguments {
    /// The attack; `list` shows them all
    kind: String,
    /// Where to; only addresses of the loopback are taken
    #[arg(long, value_name = "ADDRESS:PORT")]
    target: Option<SocketAddr>,
    /// Another form of the attack; `list` names them
    #[arg(long)]
    variant: Option<String>,
    /// Server name and host
    #[arg(long, default_value = "localhost")]
    sni: String,
    /// What is asked for
    #[arg(long, default_value = "/")]
    path: String,
    /// Connections at once
    #[arg(long, default_value_t = 4, value_name = "N")]
    connections: usize,
    /// Connections altogether: closed ones are replaced up to this number
    #[arg(long, value_name = "N")]
    total: Option<usize>,
    /// Frames, bytes or handshakes a second on each connection; 0: as many as go
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Frames or bytes on each connection, at most
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    units: u64,
    /// When to stop
    #[arg(long, default_value_t = 5.0, value_name = "S")]
    seconds: f64,
    /// Connect from these addresses in turn, like 127.9.0.0/24
    #[arg(long, value_name = "NETWORK")]
    source: Option<Sources>,
    /// Without TLS
    #[arg(long)]
    plain: bool,
}

/// More would hurt the machine rather than show anything.
const MOST_CONNECTIONS: usize = 100_000;
const MOST_SECONDS: f64 = 3_600.0;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.kind == "list" {
        list();
        return ExitCode::SUCCESS;
    }
    let attack = match attack(arguments) {
        Ok(attack) => attack,
        Err(message) => {
            eprintln!("rempart-attack: {message}");
            return ExitCode::from(2);
        }
    };
    let summary = rempart_attack::run(attack)
        .and_then(|summary| serde_json::to_string_pretty(&summary).map_err(Into::into));
    match summary {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("rempart-attack: {error}");
            ExitCode::FAILURE
        }
    }
}

fn attack(arguments: Arguments) -> Result<Attack, String> {
    let kind = Kind::named(&arguments.kind).ok_or_else(|| {
        format!(
            "there is no attack {:?}; `rempart-attack list` shows them",
            arguments.kind
        )
    })?;
    let target = arguments
        .target
        .ok_or("say where to: --target 127.0.0.1:8443")?;
    let mut attack = Attack::new(kind, target).map_err(|error| error.to_string())?;
    if let Some(wanted) = arguments.variant {
        let found = kind.variants.iter().find(|variant| **variant == wanted);
        attack.variant = Some(*found.ok_or_else(|| {
            format!(
                "{} has no variant {wanted:?}, but {:?}",
                kind.name, kind.variants
            )
        })?);
    }
    if !(0.0..=MOST_SECONDS).contains(&arguments.seconds) {
        return Err(format!("--seconds is at most {MOST_SECONDS}"));
    }
    // Handshakes come one after another; other kinds hold what they have.
    let endless = kind.name == "handshake-flood";
    attack.total = arguments.total.unwrap_or(if endless {
        MOST_CONNECTIONS
    } else {
        arguments.connections
    });
    if arguments.connections > MOST_CONNECTIONS || attack.total > MOST_CONNECTIONS {
        return Err(format!("at most {MOST_CONNECTIONS} connections"));
    }
    attack.connections = arguments.connections;
    if let Some(rate) = arguments.rate {
        attack.rate = (rate > 0.0).then_some(rate);
    }
    attack.units = arguments.units;
    attack.duration = Duration::from_secs_f64(arguments.seconds);
    attack.name = arguments.sni;
    attack.path = arguments.path;
    attack.sources = arguments.source;
    attack.plain = arguments.plain;
    Ok(attack)
}

fn list() {
    for kind in KINDS {
        println!("{:<19} {:<14} {}", kind.name, kind.known_as, kind.does);
        for variants in kind.variants.chunks(3) {
            println!("{:<34} --variant {}", "", variants.join(" | "));
        }
    }
}
