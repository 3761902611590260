//! Carries an attack out: so many connections at once, so many in all, until the time is up.

use crate::{
    attack::Attack,
    ending::{Ending, How},
    h1, h2,
    kinds::Family,
    summary::{Counts, Summary},
    tls,
};
use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

/// How long to wait before the next connection when one was refused at once.
const BACK_OFF: Duration = Duration::from_millis(20);

/// What every connection of an attack works with.
pub struct Context {
    pub attack: Attack,
    pub counts: Counts,
    pub until: Instant,
}

impl Context {
    /// Writes and counts.
    ///
    /// # Errors
    /// What writing says.
    pub async fn send(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        bytes: &[u8],
    ) -> io::Result<()> {
        stream.write_all(bytes).await?;
        stream.flush().await?;
        Counts::add(&self.counts.bytes_sent, bytes.len());
        Ok(())
    }
}

/// Attacks from this thread until the time is up or every connection has been opened and closed.
///
/// # Errors
/// When no runtime can be had.
pub fn run(attack: Attack) -> io::Result<Summary> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let cpu = cpu_of_this_thread();
    let summary = runtime.block_on(all(attack));
    Ok(Summary {
        cpu_ms: cpu_of_this_thread().saturating_sub(cpu).as_secs_f64() * 1000.0,
        ..summary
    })
}

async fn all(attack: Attack) -> Summary {
    let start = Instant::now();
    let at_once = attack.connections.min(attack.total);
    let context = Arc::new(Context {
        until: start + attack.duration,
        counts: Counts::default(),
        attack,
    });
    let begun = Arc::new(AtomicUsize::new(0));
    let mut places = JoinSet::new();
    for _ in 0..at_once {
        places.spawn(place(Arc::clone(&context), Arc::clone(&begun)));
    }
    while places.join_next().await.is_some() {}
    context
        .counts
        .summary(&context.attack, start.elapsed(), Duration::ZERO)
}

/// One connection after another.
async fn place(context: Arc<Context>, begun: Arc<AtomicUsize>) {
    while Instant::now() < context.until {
        let number = begun.fetch_add(1, Relaxed);
        if number >= context.attack.total {
            break;
        }
        let since = Instant::now();
        let attacking = async {
            match context.attack.kind.family {
                Family::H2 => h2::attack(&context, number).await,
                Family::Tls => tls::attack(&context, number).await,
                Family::H1 => h1::attack(&context, number).await,
            }
        };
        // Each ends by itself; this bounds the connecting.
        let bound = context.until + Duration::from_secs(1);
        let mut ending = timeout_at(bound, attacking)
            .await
            .unwrap_or_else(|_| Ending::of(How::Open, since));
        if context.attack.plain && ending.how == How::CloseNotify {
            ending.how = How::Fin;
        }
        let at_once = ending.how != How::Done && ending.after < BACK_OFF;
        context.counts.ended(ending);
        if at_once {
            sleep(BACK_OFF).await;
        }
    }
}

/// User and system time of the calling thread, in the kernel's hundredths of a second; zero where
/// there is no /proc.
fn cpu_of_this_thread() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    // The name, in parentheses, may hold spaces; times are fields 14 and 15.
    let ticks: u64 = stat
        .rsplit_once(')')
        .map(|(_, rest)| {
            rest.split_whitespace()
                .skip(11)
                .take(2)
                .filter_map(|field| field.parse::<u64>().ok())
                .sum()
        })
        .unwrap_or_default();
    Duration::from_millis(ticks.saturating_mul(10))
}
