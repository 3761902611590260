//! Tasks of the control runtime without which the process is only half alive: when one ends before
//! its time, by a panic or otherwise, the process is to end as well.

use std::future::Future;
use tokio::task::{Id, JoinSet};

/// Tasks by name.
#[derive(Debug, Default)]
pub struct Vital {
    tasks: JoinSet<()>,
    names: Vec<(Id, &'static str)>,
}

impl Vital {
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.names.push((handle.id(), name));
    }

    /// Waits for the first to end, and says which and how. Without tasks it waits for ever.
    pub async fn ended(&mut self) -> String {
        let (id, how) = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => (id, "has ended".to_owned()),
            Some(Err(error)) => (error.id(), error.to_string()),
            None => std::future::pending().await,
        };
        let mut names = self.names.iter();
        let name = names.find(|(known, _)| *known == id);
        format!("{}: {how}", name.map_or("a task", |(_, name)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::pending, time::Duration};
    use tokio::time::timeout;

    #[tokio::test]
    async fn an_end_and_a_panic_are_told_by_name() {
        let mut vital = Vital::default();
        let moment = Duration::from_millis(50);
        assert!(timeout(moment, vital.ended()).await.is_err(), "nothing yet");
        vital.spawn("one", pending());
        vital.spawn("other", async { panic!("as the test asked for") });
        let told = vital.ended().await;
        assert!(told.starts_with("other: "), "{told}");
        assert!(told.contains("panicked"), "{told}");
        vital.spawn("third", async {});
        assert_eq!(vital.ended().await, "third: has ended");
        assert!(timeout(moment, vital.ended()).await.is_err(), "one goes on");
    }
}
