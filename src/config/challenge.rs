//! `challenge`: the ladder, and what each rung needs.

use super::{
    actions::RUNGS,
    addresses,
    decode::{self, Context, Fields, quote, text},
    files,
    model::{
        Captcha, Challenge, ChallengePage, Crawler, Logo, ProofOfWork, Provider, Secret, Silent,
        ThirdParty,
    },
    problem::Place,
    yaml::{Kind, Node},
};
use std::{sync::Arc, time::Duration};
use verdict::decision::Rung;

/// How many secrets may be good at once: one that seals, and those before it.
const MOST_SECRETS: usize = 4;
const LEAST_SECRET: usize = 32;
/// It is in every page.
const LARGEST_LOGO: usize = 16 * 1024;
/// A bit each.
const MOST_CRAWLERS: usize = 64;
const LONGEST_TEXT: usize = 500;
const PROVIDERS: &[(&str, Provider)] = &[
    ("turnstile", Provider::Turnstile),
    ("hcaptcha", Provider::Hcaptcha),
    ("recaptcha", Provider::Recaptcha),
    ("recaptcha_v3", Provider::RecaptchaV3),
];

pub fn challenge(ctx: &mut Context, node: &Node) -> Option<Challenge> {
    let mut fields = Fields::of(ctx, node, "`challenge`")?;
    let secrets = fields.optional(ctx, "secret_file", secrets);
    let cookie = fields.or(ctx, "cookie", "rempart-clearance", cookie);
    let lifetime = fields.or(ctx, "lifetime", "4h", decode::duration);
    let ladder = fields.optional(
        ctx,
        "ladder",
        decode::some(|ctx, node| decode::word(RUNGS)(ctx, node)),
    );
    let load = fields.or(ctx, "load", "100/s", load);
    let silent = fields.section(ctx, "silent", silent);
    let proof_of_work = fields.section(ctx, "proof_of_work", proof_of_work);
    let captcha = fields.section(ctx, "captcha", captcha);
    let third_party = fields.optional(ctx, "third_party", third_party);
    let replay = fields.or(ctx, "replay", "32KiB", decode::or_off(replay));
    let crawlers = fields.optional(ctx, "crawlers", crawlers);
    let resolver = fields.optional(ctx, "resolver", addresses::socket);
    let page = fields.section(ctx, "page", page);
    let place = fields.key_place("ladder").clone();
    fields.finish(ctx);
    let third_party = third_party?;
    let mut ladder =
        ladder?.unwrap_or_else(|| vec![Rung::Silent, Rung::ProofOfWork, Rung::Captcha]);
    ladder.sort_unstable();
    ladder.dedup();
    if ladder.contains(&Rung::ThirdParty) && third_party.is_none() {
        return ctx.fail(&place, NO_PROVIDER);
    }
    Some(Challenge {
        secrets: secrets?.unwrap_or_default(),
        cookie: cookie?,
        lifetime: lifetime?,
        ladder,
        load: load?,
        silent: silent?,
        proof_of_work: proof_of_work?,
        captcha: captcha?,
        third_party,
        replay: replay?.unwrap_or(0),
        crawlers: crawlers?.unwrap_or_default(),
        resolver: resolver?,
        page: page?,
    })
}

/// Said wherever the rung is named without its provider.
pub const NO_PROVIDER: &str =
    "`third_party` needs a provider: say which in `challenge: { third_party: … }`";

/// Said wherever a limit challenges and the ladder has nothing that would lift it.
pub const NOTHING_LIFTS: &str = "this limit challenges, but `challenge: { ladder: … }` has no rung \
     that would lift it: `silent` costs nothing and lifts no limit; \
     add `proof_of_work` or `captcha` to the ladder, or name a rung here";

/// One secret a line; the first seals, the others still open what they sealed.
fn secrets(ctx: &mut Context, node: &Node) -> Option<Vec<Secret>> {
    let file = files::read(ctx, node, files::SMALL)?;
    let text = file.text(ctx)?;
    let mut secrets = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let place = Place::new(&file.name, index.saturating_add(1), 1);
        if line.len() < LEAST_SECRET {
            return ctx.fail(
                &place,
                format!(
                    "this secret is {} bytes long, at least {LEAST_SECRET} are needed; \
                     make one with `openssl rand -hex 32`",
                    line.len()
                ),
            );
        }
        if line.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return ctx.fail(
                &place,
                "a secret is one line of visible ASCII characters without blanks",
            );
        }
        secrets.push(Secret::new(line.as_bytes()));
    }
    let top = Place::top(&file.name);
    match secrets.len() {
        0 => ctx.fail(
            &top,
            format!(
                "this secret is 0 bytes long, at least {LEAST_SECRET} are needed; \
                 make one with `openssl rand -hex 32`"
            ),
        ),
        1..=MOST_SECRETS => Some(secrets),
        _ => ctx.fail(
            &top,
            format!("at most {MOST_SECRETS} secrets: the first seals, the others were used before"),
        ),
    }
}

fn cookie(ctx: &mut Context, node: &Node) -> Option<String> {
    let name = text(ctx, node)?;
    // A cookie's name is a token (RFC 6265), as a header's is.
    if http::HeaderName::try_from(name).is_err() {
        return ctx.fail(
            &node.place,
            format!("{} is not the name of a cookie", quote(name)),
        );
    }
    Some(name.to_owned())
}

/// A second's worth, at least one.
fn load(ctx: &mut Context, node: &Node) -> Option<u32> {
    let rate = decode::rate(ctx, node)?;
    let seconds = u32::try_from(rate.period.as_secs()).unwrap_or(u32::MAX);
    Some(rate.amount.get().checked_div(seconds).unwrap_or(1).max(1))
}

fn silent(ctx: &mut Context, node: &Node) -> Option<Silent> {
    let mut fields = Fields::of(ctx, node, "`silent`")?;
    let ahead = fields.or(ctx, "ahead", "false", decode::flag);
    fields.finish(ctx);
    Some(Silent { ahead: ahead? })
}

fn proof_of_work(ctx: &mut Context, node: &Node) -> Option<ProofOfWork> {
    let mut fields = Fields::of(ctx, node, "`proof_of_work`")?;
    let effort = fields.or(ctx, "effort", "500000", decode::whole(1..=100_000_000));
    let adapt = fields.or(ctx, "adapt", "true", decode::flag);
    let solve_time = fields.or(ctx, "solve_time", "500ms", solve_time);
    fields.finish(ctx);
    Some(ProofOfWork {
        effort: effort?,
        adapt: adapt?,
        solve_time: solve_time?,
    })
}

fn solve_time(ctx: &mut Context, node: &Node) -> Option<Duration> {
    let time = decode::duration(ctx, node)?;
    if time < Duration::from_millis(50) || time > Duration::from_secs(10) {
        return ctx.fail(&node.place, "from 50ms to 10s: a person waits for it");
    }
    Some(time)
}

fn captcha(ctx: &mut Context, node: &Node) -> Option<Captcha> {
    let mut fields = Fields::of(ctx, node, "`captcha`")?;
    let tries = fields.or(ctx, "tries", "10", decode::whole(3..=1000));
    fields.finish(ctx);
    Some(Captcha { tries: tries? })
}

fn third_party(ctx: &mut Context, node: &Node) -> Option<ThirdParty> {
    let mut fields = Fields::of(ctx, node, "`third_party`")?;
    let provider = fields.required(ctx, "provider", decode::word(PROVIDERS));
    let site_key = fields.required(ctx, "site_key", site_key);
    let secret = fields.required(
        ctx,
        "secret_file",
        files::secret(8, "the provider's console"),
    );
    let verify_url = fields.optional(ctx, "verify_url", verify_url);
    let script_url = fields.optional(ctx, "script_url", url);
    let minimum_score = fields.or(ctx, "minimum_score", "0.5", decode::share);
    let timeout = fields.or(ctx, "timeout", "3s", decode::duration);
    fields.finish(ctx);
    Some(ThirdParty {
        provider: provider?,
        site_key: site_key?,
        secret: secret?,
        verify_url: verify_url?,
        script_url: script_url?,
        minimum_score: minimum_score?,
        timeout: timeout?,
    })
}

fn site_key(ctx: &mut Context, node: &Node) -> Option<String> {
    let key = text(ctx, node)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if key.is_empty() || key.len() > 200 || !key.bytes().all(plain) {
        return ctx.fail(&node.place, format!("{} is not a site key", quote(key)));
    }
    Some(key.to_owned())
}

/// The provider's secret goes there.
fn verify_url(ctx: &mut Context, node: &Node) -> Option<String> {
    let url = url(ctx, node)?;
    let local = ["http://127.", "http://localhost", "http://[::1]"];
    if url.starts_with("http://") && !local.iter().any(|local| url.starts_with(local)) {
        return ctx.fail(
            &node.place,
            format!(
                "{} would send the secret in the clear; write `https`",
                quote(&url)
            ),
        );
    }
    Some(url)
}

/// It stands in a Content-Security-Policy too.
fn url(ctx: &mut Context, node: &Node) -> Option<String> {
    let url = text(ctx, node)?;
    let web = url.starts_with("https://") || url.starts_with("http://");
    let plain = |byte: u8| {
        byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b';' | b',' | b'<' | b'>')
    };
    if !web || url.len() > 500 || !url.bytes().all(plain) {
        return ctx.fail(&node.place, format!("{} is not an http(s) URL", quote(url)));
    }
    Some(url.to_owned())
}

fn replay(ctx: &mut Context, node: &Node) -> Option<u32> {
    let size = decode::size(ctx, node)?;
    match u32::try_from(size).ok().filter(|size| *size <= 256 * 1024) {
        Some(size) => Some(size),
        None => ctx.fail(
            &node.place,
            "at most `256KiB`: the body goes to the visitor and back again",
        ),
    }
}

fn crawlers(ctx: &mut Context, node: &Node) -> Option<Vec<Crawler>> {
    let entries = decode::named(ctx, node, "`crawlers`")?;
    if entries.len() > MOST_CRAWLERS {
        return ctx.fail(&node.place, format!("at most {MOST_CRAWLERS} crawlers"));
    }
    let crawlers: Vec<_> = entries
        .iter()
        .map(|(key, node)| crawler(ctx, key.text.as_str().into(), node))
        .collect();
    crawlers.into_iter().collect()
}

fn crawler(ctx: &mut Context, name: Arc<str>, node: &Node) -> Option<Crawler> {
    let mut fields = Fields::of(ctx, node, "a crawler")?;
    let agent = fields.required(ctx, "agent", |ctx, node| {
        let agent = text(ctx, node)?;
        if agent.len() < 3 {
            return ctx.fail(&node.place, "at least three characters of its `user-agent`");
        }
        Some(agent.to_owned())
    });
    let domains = fields.required(ctx, "domains", decode::some(domain));
    fields.finish(ctx);
    Some(Crawler {
        name,
        agent: agent?,
        domains: domains?,
    })
}

fn domain(ctx: &mut Context, node: &Node) -> Option<String> {
    let written = text(ctx, node)?;
    let name = written.trim_matches('.').to_ascii_lowercase();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    if !name.contains('.') || name.len() > 253 || !name.bytes().all(plain) {
        return ctx.fail(
            &node.place,
            format!("{} is not a domain like `googlebot.com`", quote(written)),
        );
    }
    Some(name)
}

fn page(ctx: &mut Context, node: &Node) -> Option<ChallengePage> {
    let mut fields = Fields::of(ctx, node, "`page`")?;
    let name = fields.optional(ctx, "name", short_text);
    let logo = fields.optional(ctx, "logo_file", logo);
    let help = fields.optional(ctx, "help", help);
    fields.finish(ctx);
    Some(ChallengePage {
        name: name?,
        logo: logo?,
        help: help?.unwrap_or_default(),
    })
}

fn short_text(ctx: &mut Context, node: &Node) -> Option<String> {
    let written = text(ctx, node)?;
    if written.is_empty() || written.len() > LONGEST_TEXT {
        return ctx.fail(&node.place, format!("a text of 1 to {LONGEST_TEXT} bytes"));
    }
    Some(written.to_owned())
}

/// One text for all languages, or one a language.
fn help(ctx: &mut Context, node: &Node) -> Option<Vec<(String, String)>> {
    let Kind::Map(entries) = &node.kind else {
        return Some(vec![(String::new(), short_text(ctx, node)?)]);
    };
    let texts: Vec<_> = entries
        .iter()
        .map(|(key, node)| Some((key.text.to_ascii_lowercase(), short_text(ctx, node)?)))
        .collect();
    texts.into_iter().collect()
}

fn logo(ctx: &mut Context, node: &Node) -> Option<Logo> {
    let file = files::read(ctx, node, files::SMALL)?;
    let top = Place::top(&file.name);
    if file.bytes.len() > LARGEST_LOGO {
        return ctx.fail(
            &top,
            format!(
                "this logo is {} bytes long; 16 KiB are the most, since it is in every page",
                file.bytes.len()
            ),
        );
    }
    let media_type = if file.bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        "image/png"
    } else if file.bytes.trim_ascii_start().starts_with(b"<") {
        "image/svg+xml"
    } else {
        return ctx.fail(&top, "a logo is a PNG or SVG file");
    };
    Some(Logo {
        media_type,
        bytes: file.bytes.into(),
    })
}
