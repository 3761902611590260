//! `pressure`: when what the kernel counts is a flood; and the names of the states, wherever they are
//! written.

use super::{
    decode::{self, Context, Fields, hint, quote, text},
    model::Pressure,
    yaml::Node,
};
use std::time::Duration;
use verdict::pressure::{
    AcceptStall, AckFlood, SlowSynFlood, State, States, SynFlood, Thresholds, UdpAmplification,
};

/// Slower than that, nothing is raised in time; faster tells nothing new.
const PACE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(1);

/// `None` within: `off`.
#[allow(clippy::option_option)] // the outer one is "reported a problem", as everywhere here
pub fn pressure(fields: &mut Fields<'_>, ctx: &mut Context) -> Option<Option<Pressure>> {
    match fields.take("pressure") {
        Some(node) => decode::or_off(section)(ctx, node),
        None => fields.section(ctx, "pressure", section).map(Some),
    }
}

fn section(ctx: &mut Context, node: &Node) -> Option<Pressure> {
    let mut fields = Fields::of(ctx, node, "`pressure`")?;
    let every = fields.or(ctx, "every", "250ms", pace);
    let quiet = fields.or(ctx, "quiet", "30s", decode::duration);
    let syn_flood = fields.section(ctx, "syn_flood", syn_flood);
    let slow_syn_flood = fields.section(ctx, "slow_syn_flood", slow_syn_flood);
    let accept_stall = fields.section(ctx, "accept_stall", accept_stall);
    let ack_flood = fields.section(ctx, "ack_flood", ack_flood);
    let udp_amplification = fields.section(ctx, "udp_amplification", udp_amplification);
    fields.finish(ctx);
    Some(Pressure {
        every: every?,
        thresholds: Thresholds {
            quiet: quiet?,
            syn_flood: syn_flood?,
            slow_syn_flood: slow_syn_flood?,
            accept_stall: accept_stall?,
            ack_flood: ack_flood?,
            udp_amplification: udp_amplification?,
        },
    })
}

fn pace(ctx: &mut Context, node: &Node) -> Option<Duration> {
    let every = decode::duration(ctx, node)?;
    if !PACE.contains(&every) {
        return ctx.fail(&node.place, "expected a duration from 100ms to 1s");
    }
    Some(every)
}

fn syn_flood(ctx: &mut Context, node: &Node) -> Option<SynFlood> {
    let mut fields = Fields::of(ctx, node, "`pressure.syn_flood`")?;
    let syns = fields.or(ctx, "syns", "100/s", a_second);
    let answered = fields.or(ctx, "answered", "20%", decode::share);
    fields.finish(ctx);
    Some(SynFlood {
        syns: syns?,
        answered: answered?,
    })
}

fn slow_syn_flood(ctx: &mut Context, node: &Node) -> Option<SlowSynFlood> {
    let mut fields = Fields::of(ctx, node, "`pressure.slow_syn_flood`")?;
    let half_open = fields.or(ctx, "half_open", "256", decode::whole(1..=1_000_000_u32));
    let longest = fields.or(ctx, "longest", "5s", decode::duration);
    fields.finish(ctx);
    Some(SlowSynFlood {
        half_open: half_open?.into(),
        seconds: longest?.as_secs_f64(),
    })
}

fn accept_stall(ctx: &mut Context, node: &Node) -> Option<AcceptStall> {
    let mut fields = Fields::of(ctx, node, "`pressure.accept_stall`")?;
    let overflows = fields.or(ctx, "overflows", "10/s", a_second);
    let answered = fields.or(ctx, "answered", "80%", decode::share);
    fields.finish(ctx);
    Some(AcceptStall {
        overflows: overflows?,
        answered: answered?,
    })
}

fn ack_flood(ctx: &mut Context, node: &Node) -> Option<AckFlood> {
    let mut fields = Fields::of(ctx, node, "`pressure.ack_flood`")?;
    let resets = fields.or(ctx, "resets", "1000/s", a_second);
    let each = fields.or(ctx, "per_connection", "5", decode::whole(1..=1000_u32));
    fields.finish(ctx);
    Some(AckFlood {
        resets: resets?,
        per_connection: each?.into(),
    })
}

fn udp_amplification(ctx: &mut Context, node: &Node) -> Option<UdpAmplification> {
    let mut fields = Fields::of(ctx, node, "`pressure.udp_amplification`")?;
    let unasked = fields.or(ctx, "unasked", "1000/s", a_second);
    let lost = fields.or(ctx, "lost", "100/s", a_second);
    let reflected = fields.or(ctx, "reflected", "500/s", a_second);
    fields.finish(ctx);
    Some(UdpAmplification {
        unasked: unasked?,
        lost: lost?,
        reflected: reflected?,
    })
}

fn a_second(ctx: &mut Context, node: &Node) -> Option<f64> {
    let rate = decode::rate(ctx, node)?;
    Some(f64::from(rate.amount.get()) / rate.period.as_secs_f64())
}

/// The states of a `while`.
pub fn states(ctx: &mut Context, node: &Node) -> Option<States> {
    let states = decode::some(state)(ctx, node)?;
    Some(states.into_iter().collect())
}

fn state(ctx: &mut Context, node: &Node) -> Option<State> {
    let word = text(ctx, node)?;
    let names = State::ALL.map(State::name);
    match State::ALL.into_iter().find(|state| state.name() == word) {
        Some(state) => Some(state),
        None => ctx.fail(
            &node.place,
            format!(
                "{} is nothing that the network is watched for{}",
                quote(word),
                hint(word, names)
            ),
        ),
    }
}
