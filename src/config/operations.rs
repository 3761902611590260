//! `admin`, `access_log` and `shutdown`: what the operator runs Rempart with.

use super::{
    addresses,
    decode::{self, Context, Fields, quote, text},
    files,
    model::{AccessLog, Admin, Shutdown},
    yaml::Node,
};
use std::path::Path;

pub fn admin(ctx: &mut Context, node: &Node) -> Option<Admin> {
    let mut fields = Fields::of(ctx, node, "`admin`")?;
    let address = fields.or(ctx, "address", "127.0.0.1:9090", addresses::socket);
    let token = fields.optional(ctx, "token_file", files::secret(16, "openssl rand -hex 32"));
    fields.finish(ctx);
    Some(Admin {
        address: address?,
        token: token?,
    })
}

/// `stdout`, `off` or a file.
pub fn access_log(ctx: &mut Context, node: &Node) -> Option<AccessLog> {
    match text(ctx, node)? {
        "off" => return Some(AccessLog::Off),
        "stdout" => return Some(AccessLog::Stdout),
        _ => {}
    }
    let path = files::path(ctx, node)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if !folder.unwrap_or(Path::new(".")).is_dir() {
        return ctx.fail(
            &node.place,
            format!(
                "the folder of {} does not exist (or write `stdout` or `off`)",
                quote(&path.to_string_lossy())
            ),
        );
    }
    Some(AccessLog::File(path))
}

pub fn shutdown(ctx: &mut Context, node: &Node) -> Option<Shutdown> {
    let mut fields = Fields::of(ctx, node, "`shutdown`")?;
    let grace = fields.or(ctx, "grace", "20s", decode::duration_or_zero);
    fields.finish(ctx);
    Some(Shutdown { grace: grace? })
}
