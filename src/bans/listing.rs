//! The table as others read it: lists for operators, counts for metrics, and all of it for the file,
//! the kernel and the next process.

use super::{Ban, Bans, carried::Record, net_of};
use ipnet::IpNet;
use std::cmp::Reverse;
use verdict::Nanos;

impl Bans {
    /// Networks wider than `network` whose ban covers it, so that removing its own does not free it.
    #[must_use]
    pub fn covering(&self, network: IpNet, now: Nanos) -> Vec<IpNet> {
        let in_force = self.networks.records().into_iter();
        let networks = in_force.filter(|record| now < record.until);
        let mut networks: Vec<_> = networks.map(|record| net_of(record.prefix)).collect();
        networks.retain(|wider| *wider != network && wider.contains(&network));
        networks
    }

    /// The bans in force, the last placed first, and how many there are beyond `limit`.
    #[must_use]
    pub fn list(&self, limit: usize, now: Nanos) -> (Vec<Ban>, usize) {
        let mut total = 0_usize;
        let networks = self.networks.records().into_iter();
        let mut newest: Vec<_> = networks
            .filter(|record| now < record.until)
            .map(|record| (Reverse(record.since), net_of(record.prefix), record))
            .collect();
        total = total.saturating_add(newest.len());
        newest.sort_by_key(|(since, network, _)| (*since, *network));
        newest.truncate(limit);
        for shard in &self.shards {
            let shard = shard.read();
            let mut of_shard: Vec<_> = shard
                .in_force(now)
                .map(|(since, key)| (Reverse(since), key))
                .collect();
            total = total.saturating_add(of_shard.len());
            if of_shard.len() > limit && limit > 0 {
                of_shard.select_nth_unstable(limit - 1);
            }
            of_shard.truncate(limit);
            let records = of_shard.into_iter().filter_map(|(_, key)| shard.get(key));
            let records =
                records.map(|record| (Reverse(record.since), net_of(record.prefix), record));
            newest.extend(records);
        }
        newest.sort_by_key(|(since, network, _)| (*since, *network));
        newest.truncate(limit);
        let beyond = total.saturating_sub(newest.len());
        let bans = newest.iter().map(|(_, _, record)| self.show(record, now));
        (bans.collect(), beyond)
    }

    fn show(&self, record: &Record, now: Nanos) -> Ban {
        Ban {
            network: net_of(record.prefix),
            reason: self.reasons.get(record.reason),
            comment: record.comment.clone(),
            age: record.age(now),
            until: record.until,
            offences: record.offences,
            hits: record.hits,
            direct: record.direct,
        }
    }

    /// All bans in force, in parts, in no order.
    pub fn each_ban<E>(
        &self,
        now: Nanos,
        mut see: impl FnMut(Vec<Ban>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.each_part(|records| {
            let in_force = records.iter().filter(|record| now < record.until);
            see(in_force.map(|record| self.show(record, now)).collect())
        })
    }

    /// Everything, memories included, in parts. No lock is held while `see` runs, and none for long:
    /// what changes meanwhile may be seen or not, and once more; followers are told of it besides.
    pub(super) fn each_part<E>(
        &self,
        mut see: impl FnMut(Vec<Record>) -> Result<(), E>,
    ) -> Result<(), E> {
        see(self.networks.records())?;
        for shard in &self.shards {
            let mut end = usize::MAX;
            while end > 0 {
                let (records, start) = shard.read().records_before(end);
                end = start;
                see(records)?;
            }
        }
        Ok(())
    }

    /// Bans in force.
    #[must_use]
    pub fn count(&self, now: Nanos) -> u64 {
        self.counts(now).0
    }

    /// Bans in force, and those of them that are [direct](Ban::direct).
    #[must_use]
    pub fn counts(&self, now: Nanos) -> (u64, u64) {
        let shards = self.shards.iter().map(|shard| shard.read().count(now));
        let all = shards.chain([self.networks.count(now)]);
        all.fold((0, 0), |(all, direct), (more, of_those)| {
            (all + more, direct + of_those)
        })
    }
}
