//! From YAML to types that can't be wrong, and back again when a file changes.
//!
//! [`load`] reads a file and every file that it names, and finds everything that is wrong in one go.
//! [`model`] is what the rest of the program sees; [`watch`] says when to load again. Putting a new
//! configuration into force is the server's. All keys and their defaults: `docs/configuration.md`.
//!
//! ```text
//! text -> yaml (nodes with places) -> decode (sections, one file each) -> model::Config | Errors
//! ```

mod actions;
mod addresses;
mod bans;
mod challenge;
mod clients;
mod connections;
mod decode;
mod files;
mod identity;
mod list_file;
mod listeners;
pub mod model;
mod operations;
mod pem;
mod policy;
mod pressure;
pub mod problem;
mod routes;
mod units;
mod upstreams;
pub mod watch;
mod yaml;

pub use model::Config;
pub use problem::{Errors, Problem};

use decode::{Context, Fields};
use problem::{Place, Problems};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use verdict::policy::PolicySpec;
use yaml::{Kind, Node};

/// The YAML file itself; long lists have files of their own.
const LARGEST_FILE: u64 = 4 << 20;

/// Reads the configuration `path` and every file it names.
///
/// # Errors
/// Everything that is wrong with any of them, each with its file, line and column.
pub fn load(path: &Path) -> Result<Config, Errors> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let top = Place::top(&Arc::from(path));
    let refuse = |message: String, absolute: PathBuf| {
        let mut problems = Problems::default();
        problems.add(&top, message);
        problems.into_errors(vec![absolute])
    };
    let bytes = match files::read_bounded(path, LARGEST_FILE) {
        Ok(bytes) => bytes,
        Err(message) => return Err(refuse(format!("this file {message}"), absolute)),
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        });
    let file = files::File {
        name: path.into(),
        bytes,
    };
    let mut ctx = Context::new(path, String::new(), now);
    ctx.files.push(absolute);
    if let Some(text) = file.text(&mut ctx).map(str::to_owned) {
        ctx.source = text;
    }
    let config = config(&mut ctx);
    match config {
        Some(config) if ctx.problems.is_empty() => Ok(config),
        _ => {
            if ctx.problems.is_empty() {
                // Never reached: whoever gives nothing has said why. Kept from being a silent load.
                ctx.problems.add(&top, "this file can't be loaded");
            }
            Err(std::mem::take(&mut ctx.problems).into_errors(ctx.files))
        }
    }
}

fn config(ctx: &mut Context) -> Option<Config> {
    if !ctx.problems.is_empty() {
        return None;
    }
    let source = std::mem::take(&mut ctx.source);
    let root = yaml::parse(&Arc::clone(&ctx.file), &source, &mut ctx.problems)?;
    ctx.source = source;
    let mut fields = Fields::of(ctx, &root, "the configuration")?;

    let listeners = fields.required(ctx, "listeners", listeners::listeners);
    let admin = fields.optional(ctx, "admin", operations::admin);
    let clients = fields.section(ctx, "clients", clients::clients);
    let connections = fields.section(ctx, "connections", connections::connections);
    let pressure = pressure::pressure(&mut fields, ctx);
    let identity = fields.optional(ctx, "identity", identity::identity);
    let upstreams = fields.optional(ctx, "upstreams", upstreams::upstreams);
    let lists = fields.optional(ctx, "lists", policy::lists);
    let limits = fields.optional(ctx, "limits", policy::limits);

    let list_names: Vec<Arc<str>> = names(fields.take("lists")).map(Into::into).collect();
    let rules = fields.optional(ctx, "rules", |ctx, node| {
        policy::rules(ctx, node, &list_names)
    });
    let names = routes::Names {
        upstreams: names(fields.take("upstreams")).collect(),
        limits: names(fields.take("limits")).collect(),
    };
    let routes = fields.required(ctx, "routes", |ctx, node| routes::routes(ctx, node, &names));

    let challenge = fields.section(ctx, "challenge", challenge::challenge);
    if let Some(challenge) = &challenge
        && challenge.third_party.is_none()
    {
        for place in std::mem::take(&mut ctx.third_party) {
            ctx.problems.add(&place, challenge::NO_PROVIDER);
        }
    }
    if let Some(challenge) = &challenge
        && challenge
            .ladder
            .iter()
            .all(|rung| *rung == verdict::decision::Rung::Silent)
    {
        for place in std::mem::take(&mut ctx.limits_by_risk) {
            ctx.problems.add(&place, challenge::NOTHING_LIFTS);
        }
    }
    let bans = fields.section(ctx, "bans", bans::bans);
    if let (Some(bans), Some(lists)) = (&bans, &lists) {
        let lists = lists.as_deref().unwrap_or_default();
        bans::check_feeds(ctx, fields.take("bans"), &bans.feeds, lists);
    }
    let access_log = fields.or(ctx, "access_log", "stdout", operations::access_log);
    let shutdown = fields.section(ctx, "shutdown", operations::shutdown);
    let (listener_node, limit_node) = (fields.take("listeners"), fields.take("limits"));
    let admin_place = fields.key_place("admin").clone();
    fields.finish(ctx);

    if let (Some(node), Some(clients)) = (listener_node, &clients) {
        clients::check_proxy_protocol(ctx, node, clients);
    }
    let admin = admin?;
    let listeners = listeners?;
    if let Some(admin) = &admin {
        let mut others = listeners.iter().map(|listener| listener.address);
        if let Some(other) =
            others.find(|other| other.port() != 0 && listeners::collide(*other, admin.address))
        {
            ctx.problems.add(
                &admin_place,
                format!(
                    "`{}` can't be listened on beside the listener `{other}`",
                    admin.address
                ),
            );
        }
    }
    let (routes, route_specs) = routes?;
    let limits = limits?.unwrap_or_default();
    policy::warn_of_unused(ctx, limit_node, &limits, &route_specs);
    policy::check_slots(ctx, limit_node, &limits, &route_specs);
    Some(Config {
        listeners,
        admin,
        clients: clients?,
        connections: connections?,
        pressure: pressure?,
        identity: identity?.unwrap_or_default(),
        upstreams: upstreams?.unwrap_or_default(),
        routes,
        policy: PolicySpec {
            lists: lists?.unwrap_or_default(),
            rules: rules?.unwrap_or_default(),
            limits,
            routes: route_specs,
        },
        challenge: challenge?,
        bans: bans?,
        access_log: access_log?,
        shutdown: shutdown?,
        masked: ctx.effective(&root),
        files: std::mem::take(&mut ctx.files),
        warnings: ctx.warnings(),
    })
}

/// The keys of a map, also when what stands under them is wrong: a reference to a broken limit is
/// no further error.
fn names(node: Option<&Node>) -> impl Iterator<Item = &str> {
    let entries = match node.map(|node| &node.kind) {
        Some(Kind::Map(entries)) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().map(|(key, _)| key.text.as_str())
}
