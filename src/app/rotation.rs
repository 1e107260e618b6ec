//! Secrets and certificates that are exchanged while the service runs: from their files to the listener.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::{access, reporting};
use crate::config::rotation::{self, Values};
use crate::config::secret::Environment;
use crate::config::settings::{Secrets, Settings};
use crate::config::watching::Changes;
use crate::http::Access;
use crate::reporter::Github;

/// What is in force, for the listener.
pub(super) struct InForce {
    /// Who is let in.
    pub access: watch::Receiver<Arc<Access>>,
    /// What is shown.
    pub tls: Option<watch::Receiver<Arc<rustls::ServerConfig>>>,
}

/// Exchanges what is in force. Calls that were let in, and connections that were made, go on as they are.
pub(super) struct Rotation {
    // Two at once (a signal, a changed file) could put the older one in force last.
    reader: Mutex<rotation::Rotation>,
    access: watch::Sender<Arc<Access>>,
    tls: Option<watch::Sender<Arc<rustls::ServerConfig>>>,
    reporter: Option<Github>,
}

impl Rotation {
    /// Puts in force what was read at the start, and follows its files from now on.
    pub fn new(
        config: Option<&Path>,
        environment: &Environment,
        settings: &Settings,
        secrets: &Secrets,
        tls: Option<Arc<rustls::ServerConfig>>,
        reporter: Option<Github>,
    ) -> (Arc<Self>, InForce) {
        let (reader, changes) =
            rotation::Rotation::new(config.map(Path::to_owned), environment.clone(), settings.clone());
        let (access, access_in_force) = watch::channel(Arc::new(access::of(secrets)));
        let (tls, tls_in_force) = tls.map(watch::channel).unzip();
        let rotation = Arc::new(Self { reader: Mutex::new(reader), access, tls, reporter });
        tokio::spawn(follow(Arc::clone(&rotation), changes));
        (rotation, InForce { access: access_in_force, tls: tls_in_force })
    }

    /// Reads the settings, the secrets and the certificate again. Blocks for a moment.
    pub fn reload(&self) {
        self.exchange(rotation::Rotation::reload);
    }

    fn exchange(&self, read: impl FnOnce(&mut rotation::Rotation) -> Values) {
        // A panic while reading leaves the reader as it was.
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let Values { secrets, tls } = read(&mut reader);
        if let Some(secrets) = secrets {
            if let (Some(reporter), Some(found)) = (&self.reporter, &secrets.github_api)
                && let Err(why) = reporting::credentials(found).and_then(|newer| reporter.exchange(newer))
            {
                tracing::error!("{why}; the credential for GitHub's API stays as it was");
            }
            self.access.send_replace(Arc::new(access::of(&secrets)));
            tracing::info!("credentials are loaded");
        }
        if let (Some(in_force), Some(tls)) = (&self.tls, tls) {
            in_force.send_replace(tls);
            tracing::info!("the certificate is loaded");
        }
    }
}

async fn follow(rotation: Arc<Rotation>, mut changes: Changes) {
    while changes.next().await.is_some() {
        let rotation = Arc::clone(&rotation);
        // It reads files. A panic there is reported by the runtime, and the next change tries again.
        let _ = tokio::task::spawn_blocking(move || rotation.exchange(rotation::Rotation::read)).await;
    }
}
