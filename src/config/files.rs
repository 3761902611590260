//! The files that the YAML names: found relative to it, read whole within a bound, and remembered
//! for the watcher. Secrets are read from here only.

use super::{
    decode::{Context, quote, text},
    model::Secret,
    problem::Place,
    yaml::Node,
};
use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Keys, certificates, tokens, JWKS.
pub const SMALL: u64 = 1 << 20;
/// Lists of networks and of API keys.
pub const LARGE: u64 = 64 << 20;

/// A file that was read.
pub struct File {
    /// As problems in it are reported.
    pub name: Arc<Path>,
    pub bytes: Vec<u8>,
}

impl File {
    /// Its text; bytes that are no UTF-8 are reported where they stand.
    pub fn text(&self, ctx: &mut Context) -> Option<&str> {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => Some(text.strip_prefix('\u{feff}').unwrap_or(text)),
            Err(error) => {
                let good = self.bytes.get(..error.valid_up_to()).unwrap_or_default();
                let line = good.split(|byte| *byte == b'\n').skip(1).count();
                let last = good
                    .rsplit(|byte| *byte == b'\n')
                    .next()
                    .unwrap_or_default();
                let column = String::from_utf8_lossy(last).chars().count();
                let place =
                    Place::new(&self.name, line.saturating_add(1), column.saturating_add(1));
                ctx.fail(&place, "not UTF-8 text")
            }
        }
    }
}

/// The path that a node names, from where the program was started.
pub fn path(ctx: &mut Context, node: &Node) -> Option<PathBuf> {
    let text = text(ctx, node)?;
    if text.contains("-----BEGIN") {
        return ctx.fail(
            &node.place,
            "expected the path of a file, found key material; \
             put it into a file of its own and name that here",
        );
    }
    if text.chars().any(char::is_control) || text.len() > 4096 {
        return ctx.fail(&node.place, "expected the path of a file");
    }
    Some(ctx.base.join(text))
}

/// Reads the file that a node names; it is watched from now on, also when it can't be read.
pub fn read(ctx: &mut Context, node: &Node, limit: u64) -> Option<File> {
    let path = path(ctx, node)?;
    let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
    if !ctx.files.contains(&absolute) {
        ctx.files.push(absolute);
    }
    match read_bounded(&path, limit) {
        Ok(bytes) => Some(File {
            name: path.into(),
            bytes,
        }),
        Err(message) => {
            let shown = quote(&path.to_string_lossy());
            ctx.fail(&node.place, format!("{shown} {message}"))
        }
    }
}

/// The bytes of a regular file of at most `limit` bytes, or what stands in the way.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let explain = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        std::io::ErrorKind::PermissionDenied => {
            "can't be read: permission denied for the user that Rempart runs as".to_owned()
        }
        _ => format!("can't be read: {error}"),
    };
    // Asked before opening: opening a pipe would wait for its other end.
    let metadata = std::fs::metadata(path).map_err(explain)?;
    if metadata.is_dir() {
        return Err("is a directory, not a file".into());
    }
    if !metadata.is_file() {
        return Err("is not a regular file".into());
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(explain)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(format!("is larger than {} MiB", limit >> 20));
    }
    Ok(bytes)
}

/// A file that holds one secret of at least `least` bytes on one line.
pub fn secret(
    least: usize,
    make: &'static str,
) -> impl FnOnce(&mut Context, &Node) -> Option<Secret> {
    move |ctx, node| {
        let file = read(ctx, node, SMALL)?;
        let secret = file.bytes.trim_ascii();
        let top = Place::top(&file.name);
        if secret.len() < least {
            return ctx.fail(
                &top,
                format!(
                    "this secret is {} bytes long, at least {least} are needed; \
                     make one with `{make}`",
                    secret.len()
                ),
            );
        }
        if secret.iter().any(|byte| !byte.is_ascii_graphic()) {
            return ctx.fail(
                &top,
                "a secret is one line of visible ASCII characters without blanks",
            );
        }
        Some(Secret::new(secret))
    }
}
