//! Puts a changed configuration into force, whole or not at all.

use super::{protected, start_tasks, warn_of};
use crate::{
    clock,
    config::{self, Config, Errors, watch::Watcher},
    edge::Edge,
    generation::Generation,
    listener::Listeners,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::runtime::Handle;
use tracing::{error, info, warn};

/// Reloads on demand; one reload at a time.
pub struct Reloader {
    path: PathBuf,
    edge: Arc<Edge>,
    listeners: Listeners,
    watcher: Watcher,
    control: Handle,
}

impl Reloader {
    pub fn new(
        path: &Path,
        edge: &Arc<Edge>,
        listeners: Listeners,
        watcher: Watcher,
        control: Handle,
    ) -> Self {
        Self {
            path: path.to_owned(),
            edge: Arc::clone(edge),
            listeners,
            watcher,
            control,
        }
    }

    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// Loads the files again and swaps the generation; what is wrong is logged, counted, and changes
    /// nothing.
    pub async fn reload(&self) {
        let path = self.path.clone();
        let taken = match tokio::task::spawn_blocking(move || config::load(&path)).await {
            Ok(Ok(config)) => self.apply(config),
            Ok(Err(errors)) => {
                self.report(&errors);
                false
            }
            Err(error) => {
                error!(%error, "the configuration could not be loaded");
                false
            }
        };
        let metrics = self.edge.recorder.metrics();
        metrics.reload(taken, clock::unix_seconds());
    }

    fn report(&self, errors: &Errors) {
        for problem in errors.problems() {
            error!("{problem}");
        }
        error!(
            errors = errors.problems().len(),
            "the configuration was not reloaded: it has errors, and the one in force stays"
        );
        // A file that was only just named must be watched too, or its mending goes unseen.
        self.watcher.replace(errors.files().to_vec());
    }

    fn apply(&self, config: Config) -> bool {
        warn_of(&config);
        let files = config.files.clone();
        let access_log = config.access_log.clone();
        let recorder = &self.edge.recorder;
        let previous = self.edge.generation.load_full();
        let generation = match Generation::build(config, Some(&previous), recorder, &self.control) {
            Ok(generation) => generation,
            Err(error) => {
                error!(%error, "the configuration was not reloaded, and the one in force stays");
                return false;
            }
        };
        match self.listeners.reload(&generation.config) {
            Ok(addresses) if addresses.is_empty() => {}
            Ok(addresses) => warn!(
                ?addresses,
                "listeners were added or removed: that takes a restart"
            ),
            Err(error) => {
                error!(%error, "the configuration was not reloaded, and the one in force stays");
                return false;
            }
        }
        if let Err(error) = self.edge.recorder.access_log().redirect(&access_log) {
            warn!(%error, "the access log could not be opened; it goes on where it was");
        }
        if admin_address(&generation.config) != admin_address(&previous.config) {
            warn!("the admin address was changed: that takes a restart");
        }
        let (bans, before) = (&generation.config.bans, &previous.config.bans);
        if (&bans.state_file, &bans.kernel) != (&before.state_file, &before.kernel) {
            warn!("`bans.state_file` or `bans.kernel` was changed: that takes a restart");
        }
        start_tasks(&generation, &self.control);
        protected::configure(&self.edge.bans, &generation.config);
        let config = Arc::clone(&generation.config);
        let generation = Arc::new(generation);
        self.edge.generation.store(Arc::clone(&generation));
        previous.retire();
        generation.commit();
        self.edge.config.store(config);
        self.watcher.replace(files);
        info!("configuration reloaded");
        true
    }
}

fn admin_address(config: &Config) -> Option<std::net::SocketAddr> {
    config.admin.as_ref().map(|admin| admin.address)
}
