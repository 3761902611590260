//! What others read of the generation in force: the listeners' gate, scrapes, and `/readyz`.

use crate::{
    bans::below::Below,
    clock,
    config::model::ListenerKind,
    edge::Edge,
    generation::Generation,
    listener::Gate,
    record::metrics::{self, CertificateExpiry, EndpointCount, KernelFigures},
};
use serde_json::{Map, Value, json};
use std::{net::IpAddr, sync::Arc};
use verdict::policy::LimitUsage;

/// The lists that refuse addresses before TLS.
pub struct Lists(pub Arc<Edge>);

impl Gate for Lists {
    fn refuses(&self, address: IpAddr) -> bool {
        #[cfg(test)]
        super::tests::panic_for(address);
        let generation = self.0.generation.load();
        generation.policy.judge_address(address).is_some()
    }
}

/// What enforces the bans that the kernel does not.
const USER_SPACE: &str = "user_space";

/// What a scrape reads.
pub struct Sources {
    edge: Arc<Edge>,
}

impl Sources {
    pub fn new(edge: Arc<Edge>) -> Self {
        Self { edge }
    }
}

impl metrics::Sources for Sources {
    fn limits(&self) -> Vec<(Arc<str>, LimitUsage)> {
        let policy = &self.edge.generation.load().policy;
        let names = policy.limits().iter().map(|limit| Arc::clone(&limit.name));
        names.zip(policy.usage(clock::now())).collect()
    }

    fn endpoints(&self) -> Vec<EndpointCount> {
        let generation = self.edge.generation.load();
        let states = generation.upstreams.states();
        states
            .map(|(upstream, state, count)| EndpointCount {
                upstream: upstream.into(),
                state,
                count: count as u64,
            })
            .collect()
    }

    fn bans(&self) -> Vec<(&'static str, u64)> {
        let (all, direct) = self.edge.bans.counts(clock::now());
        let below = self
            .edge
            .below
            .get()
            .and_then(|below| below.status().backend);
        let Some(below) = below else {
            return vec![(USER_SPACE, all)];
        };
        vec![(USER_SPACE, all.saturating_sub(direct)), (below, direct)]
    }

    fn kernel(&self) -> Option<KernelFigures> {
        self.edge.config.load().bans.kernel.as_ref()?;
        let status = self.edge.below.get().map(Below::status).unwrap_or_default();
        Some(KernelFigures {
            backend: status.backend.unwrap_or(USER_SPACE),
            dropped_packets: status.dropped_packets,
            dropped_bytes: status.dropped_bytes,
            refused: status.refused,
            reflectors: status.reflectors,
        })
    }

    fn challenge_effort(&self) -> u32 {
        self.edge.generation.load().challenges.effort()
    }

    fn certificates(&self) -> Vec<CertificateExpiry> {
        let config = self.edge.config.load();
        let mut served = Vec::new();
        for listener in &config.listeners {
            if let ListenerKind::Tls(tls) = &listener.kind {
                served.extend(
                    tls.certificates
                        .iter()
                        .map(|certificate| CertificateExpiry {
                            listener: listener.name(),
                            name: certificate.names.first().cloned().unwrap_or_default(),
                            not_after: certificate.not_after,
                        }),
                );
            }
        }
        served
    }
}

/// Each upstream with how many of its endpoints are in which state.
pub fn upstreams(generation: &Generation) -> Value {
    let mut all = Map::new();
    for (upstream, state, count) in generation.upstreams.states() {
        let entry = all.entry(upstream).or_insert_with(|| json!({}));
        if let Some(entry) = entry.as_object_mut() {
            entry.insert(state.to_owned(), json!(count));
        }
    }
    Value::Object(all)
}
