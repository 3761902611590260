//! `connections`: what one client may hold open, how long, and how odd it may be.

use super::{
    decode::{self, Context, Fields},
    model::{
        AbuseLimits, ClientTimeouts, Connections, Handshakes, Http1Limits, Http2Limits,
        UnderPressure,
    },
    pressure,
    yaml::Node,
};
use std::num::NonZeroU32;

pub fn connections(ctx: &mut Context, node: &Node) -> Option<Connections> {
    let mut fields = Fields::of(ctx, node, "`connections`")?;
    let per_client = fields.or(ctx, "per_client", "64", decode::or_off(count));
    let rate = fields.or(ctx, "rate_per_client", "20/s", decode::or_off(decode::rate));
    let total = fields.or(ctx, "total", "20000", count);
    let handshakes = fields.section(ctx, "handshakes", handshakes);
    let http1 = fields.section(ctx, "http1", http1);
    let http2 = fields.section(ctx, "http2", http2);
    let timeouts = fields.section(ctx, "timeouts", timeouts);
    let under_pressure = fields.optional(ctx, "under_pressure", under_pressure);
    fields.finish(ctx);
    Some(Connections {
        per_client: per_client?,
        rate_per_client: rate?,
        total: total?,
        handshakes: handshakes?,
        http1: http1?,
        http2: http2?,
        timeouts: timeouts?,
        under_pressure: under_pressure?,
    })
}

fn under_pressure(ctx: &mut Context, node: &Node) -> Option<UnderPressure> {
    let mut fields = Fields::of(ctx, node, "`connections.under_pressure`")?;
    let during = fields.required(ctx, "while", pressure::states);
    let handshake = fields.optional(ctx, "handshake", decode::duration);
    let rate = fields.optional(ctx, "rate_per_client", decode::rate);
    let known_first = fields.or(ctx, "known_first", "false", decode::flag);
    fields.finish(ctx);
    Some(UnderPressure {
        during: during?,
        handshake: handshake?,
        rate_per_client: rate?,
        known_first: known_first?,
    })
}

/// A number that is not 0.
pub fn count(ctx: &mut Context, node: &Node) -> Option<NonZeroU32> {
    NonZeroU32::new(decode::whole(1..=10_000_000)(ctx, node)?)
}

fn handshakes(ctx: &mut Context, node: &Node) -> Option<Handshakes> {
    let mut fields = Fields::of(ctx, node, "`connections.handshakes`")?;
    let cpu = fields.or(ctx, "cpu", "60%", decode::or_off(some_share));
    let waiting = fields.or(ctx, "waiting", "1024", count);
    fields.finish(ctx);
    Some(Handshakes {
        cpu: cpu?,
        waiting: waiting?,
    })
}

fn some_share(ctx: &mut Context, node: &Node) -> Option<f64> {
    let share = decode::share(ctx, node)?;
    if share < 0.01 {
        return ctx.fail(
            &node.place,
            "nobody new could connect; a share of 1% at least, or `off` for no budget",
        );
    }
    Some(share)
}

fn http1(ctx: &mut Context, node: &Node) -> Option<Http1Limits> {
    let mut fields = Fields::of(ctx, node, "`connections.http1`")?;
    // No more than the HTTP library takes: 64 KiB of a target, 256 headers.
    let request_line = fields.or(ctx, "request_line", "16KiB", header_size(64, "64KiB"));
    let header_bytes = fields.or(ctx, "header_bytes", "64KiB", header_size(1024, "1MiB"));
    let headers = fields.or(ctx, "headers", "128", decode::whole(8..=256));
    fields.finish(ctx);
    Some(Http1Limits {
        request_line: usize::try_from(request_line?).ok()?,
        header_bytes: usize::try_from(header_bytes?).ok()?,
        headers: headers?,
    })
}

fn http2(ctx: &mut Context, node: &Node) -> Option<Http2Limits> {
    let mut fields = Fields::of(ctx, node, "`connections.http2`")?;
    let streams = fields.or(ctx, "streams", "128", decode::whole(1..=1024));
    let header_bytes = fields.or(ctx, "header_bytes", "64KiB", header_size(1024, "1MiB"));
    let abuse = match fields.take("abuse") {
        Some(node) => decode::or_off(abuse)(ctx, node),
        None => fields.section(ctx, "abuse", abuse).map(Some),
    };
    fields.finish(ctx);
    Some(Http2Limits {
        streams: NonZeroU32::new(streams?)?,
        header_bytes: u32::try_from(header_bytes?).ok()?,
        abuse: abuse?,
    })
}

fn abuse(ctx: &mut Context, node: &Node) -> Option<AbuseLimits> {
    let mut fields = Fields::of(ctx, node, "`connections.http2.abuse`")?;
    let points = fields.or(ctx, "points", "200", count);
    let recovery = fields.or(ctx, "recovery", "20/s", decode::rate);
    let strikes = fields.or(ctx, "strikes", "3", count);
    let ban = fields.or(ctx, "ban", "10m", decode::or_off(decode::duration));
    fields.finish(ctx);
    Some(AbuseLimits {
        points: points?,
        recovery: recovery?,
        strikes: strikes?,
        ban: ban?,
    })
}

/// Between what browsers and tools send and what is still cheap to hold, in KiB.
fn header_size(
    most: u64,
    written: &'static str,
) -> impl FnOnce(&mut Context, &Node) -> Option<u64> {
    move |ctx, node| {
        let size = decode::size(ctx, node)?;
        if !(1024..=most * 1024).contains(&size) {
            let message = format!("expected a size from 1KiB to {written}");
            return ctx.fail(&node.place, message);
        }
        Some(size)
    }
}

fn timeouts(ctx: &mut Context, node: &Node) -> Option<ClientTimeouts> {
    let mut fields = Fields::of(ctx, node, "`connections.timeouts`")?;
    let handshake = fields.or(ctx, "handshake", "5s", decode::duration);
    let headers = fields.or(ctx, "headers", "10s", decode::duration);
    let idle = fields.or(ctx, "idle", "60s", decode::duration);
    let throughput = || decode::or_off(decode::throughput);
    let body = fields.or(ctx, "body_minimum_rate", "1KiB/s", throughput());
    let response = fields.or(ctx, "response_minimum_rate", "1KiB/s", throughput());
    let request = fields.or(ctx, "request", "10m", decode::duration);
    let stream_idle = fields.or(ctx, "stream_idle", "5m", decode::duration);
    fields.finish(ctx);
    Some(ClientTimeouts {
        handshake: handshake?,
        headers: headers?,
        idle: idle?,
        body_minimum_rate: body?.unwrap_or(0),
        response_minimum_rate: response?.unwrap_or(0),
        request: request?,
        stream_idle: stream_idle?,
    })
}
