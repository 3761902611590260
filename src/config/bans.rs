//! `bans`: how many, how they outlive the process, who is never banned, and what the kernel does.

use super::{
    addresses,
    decode::{self, Context, Fields, hint, quote, text},
    files,
    model::{Bans, Kernel, KernelBackend, KernelPorts},
    problem::Place,
    yaml::{Kind, Node},
};
use std::{path::PathBuf, sync::Arc};
use verdict::{
    decision::{Action, Mode},
    policy::ListSpec,
};

const BACKENDS: &[(&str, KernelBackend)] = &[
    ("auto", KernelBackend::Auto),
    ("xdp", KernelBackend::Xdp),
    ("nftables", KernelBackend::Nftables),
];
const PORTS: &[(&str, KernelPorts)] = &[
    ("listeners", KernelPorts::Listeners),
    ("all", KernelPorts::All),
];

pub fn bans(ctx: &mut Context, node: &Node) -> Option<Bans> {
    let mut fields = Fields::of(ctx, node, "`bans`")?;
    let capacity = fields.or(ctx, "capacity", "200000", decode::whole(1000..=5_000_000));
    let state_file = fields.optional(ctx, "state_file", state_file);
    let never = fields.optional(ctx, "never", decode::list(addresses::network));
    let feeds = fields.optional(ctx, "feeds", decode::list(decode::name));
    let kernel = fields.optional(ctx, "kernel", kernel);
    fields.finish(ctx);
    Some(Bans {
        capacity: capacity?,
        state_file: state_file?,
        never: never?.unwrap_or_default(),
        feeds: feeds?.unwrap_or_default(),
        kernel: kernel?,
    })
}

fn state_file(ctx: &mut Context, node: &Node) -> Option<PathBuf> {
    let path = files::path(ctx, node)?;
    let shown = quote(&path.to_string_lossy());
    if path.is_dir() {
        return ctx.fail(
            &node.place,
            format!("{shown} is a folder; name a file in it, like `bans`"),
        );
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if !folder.unwrap_or(std::path::Path::new(".")).is_dir() {
        return ctx.fail(
            &node.place,
            format!(
                "the folder of {shown} does not exist; under systemd `StateDirectory=` makes one"
            ),
        );
    }
    // Written by a process whose folder may be another.
    Some(std::path::absolute(&path).unwrap_or(path))
}

fn kernel(ctx: &mut Context, node: &Node) -> Option<Kernel> {
    let mut fields = Fields::of(ctx, node, "`bans.kernel`")?;
    if let Some(guard) = fields.take("guard") {
        for key in ["backend", "interfaces", "ports", "drop_reflected"] {
            if fields.take(key).is_some() {
                let place = fields.key_place(key);
                ctx.problems.add(
                    place,
                    format!("`{key}` is said to the guard itself, where `guard` names one"),
                );
            }
        }
        let guard = files::path(ctx, guard);
        fields.finish(ctx);
        let guard = guard?;
        return Some(Kernel::Shared(std::path::absolute(&guard).unwrap_or(guard)));
    }
    let backend = fields.or(ctx, "backend", "auto", decode::word(BACKENDS));
    let interfaces = fields.optional(ctx, "interfaces", decode::some(interface));
    let ports = fields.or(ctx, "ports", "listeners", decode::word(PORTS));
    let drop_reflected = fields.or(ctx, "drop_reflected", "false", decode::flag);
    let interface_node = fields.take("interfaces");
    let drop_node = fields.take("drop_reflected");
    fields.finish(ctx);
    if backend == Some(KernelBackend::Nftables) {
        if let Some(node) = interface_node {
            return ctx.fail(
                &node.place,
                "`interfaces` belongs to XDP: nftables sees the packets of all of them",
            );
        }
        if let (Some(true), Some(node)) = (drop_reflected, drop_node) {
            return ctx.fail(
                &node.place,
                "`drop_reflected` takes XDP: nftables counts no ports",
            );
        }
    }
    Some(Kernel::Own {
        backend: backend?,
        interfaces: interfaces?.unwrap_or_default(),
        ports: ports?,
        drop_reflected: drop_reflected?,
    })
}

/// As the kernel names them.
fn interface(ctx: &mut Context, node: &Node) -> Option<String> {
    let name = text(ctx, node)?;
    let good = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':');
    if name.len() > 15 || !name.chars().all(good) || matches!(name, "." | "..") {
        return ctx.fail(
            &node.place,
            format!(
                "{} is not the name of an interface, like `eth0`",
                quote(name)
            ),
        );
    }
    Some(name.to_owned())
}

/// What is fed to the kernel must be dropped in user space as well: the two must not differ.
pub fn check_feeds(ctx: &mut Context, node: Option<&Node>, feeds: &[Arc<str>], lists: &[ListSpec]) {
    for (index, feed) in feeds.iter().enumerate() {
        let place = place_of(node, index);
        let place = place.as_ref();
        let Some(place) = place else { continue };
        let Some(list) = lists.iter().find(|list| list.name == *feed) else {
            let names = lists.iter().map(|list| &*list.name);
            let message = format!("there is no list {}{}", quote(feed), hint(feed, names));
            ctx.problems.add(place, message);
            continue;
        };
        let why = match (list.then, list.mode) {
            (Some(Action::Drop), Mode::Enforce) => None,
            (Some(Action::Drop), Mode::Shadow) => {
                Some("is in shadow mode, and what the kernel drops is dropped indeed")
            }
            _ => Some("does not say `then: drop`, which is what the kernel would do"),
        };
        if let Some(why) = why {
            ctx.problems
                .add(place, format!("list {} {why}", quote(feed)));
        }
        if feeds.iter().take(index).any(|other| other == feed) {
            ctx.problems
                .add(place, format!("{} stands twice", quote(feed)));
        }
    }
}

/// Where the feed of this number is named.
fn place_of(bans: Option<&Node>, index: usize) -> Option<Place> {
    let Kind::Map(entries) = &bans?.kind else {
        return None;
    };
    let (_, feeds) = entries.iter().find(|(key, _)| key.text == "feeds")?;
    let Kind::List(items) = &feeds.kind else {
        return None;
    };
    items.get(index).map(|item| item.place.clone())
}
