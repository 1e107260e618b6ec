//! Credentials that follow their files: read again when one changes or somebody asks, taken as a whole or not at all.
//!
//! A SIGHUP reads the settings again, too, and takes what they say of credentials; everything else in them waits for the
//! next start. What is done with the values is the business of whoever asked.

use std::path::PathBuf;
use std::sync::Arc;

use super::secret::Environment;
use super::settings::{Secrets, Settings};
use super::watching::{Changes, Target, Watch};

/// What was read. Why something could not be read is in the log.
#[derive(Debug)]
pub struct Values {
    /// All secrets; none where one of them can't be read.
    pub secrets: Option<Secrets>,
    /// What the listener shows; none where it is not used or can't be.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// Reads credentials again.
#[derive(Debug)]
pub struct Rotation {
    file: Option<PathBuf>,
    environment: Environment,
    settings: Settings,
    watch: Watch,
}

impl Rotation {
    /// Of a service that was started with these settings. Watches its files from now on; blocks for a moment.
    pub fn new(file: Option<PathBuf>, environment: Environment, settings: Settings) -> (Self, Changes) {
        let (watch, changes) = Watch::new();
        let mut rotation = Self { file, environment, settings, watch };
        rotation.follow();
        (rotation, changes)
    }

    /// Reads the settings again, takes what they say of credentials, and reads those.
    pub fn reload(&mut self) -> Values {
        match Settings::load(self.file.as_deref(), &self.environment) {
            // Whether a source may be open was decided for another address.
            Ok(newer) if newer.server.listen != self.settings.server.listen => {
                tracing::error!("server.listen has changed: the settings are taken up at the next start");
            }
            Ok(newer) => {
                let settings = self.settings.with_credentials_of(&newer);
                if settings != newer {
                    tracing::warn!("other settings than credentials have changed, and take effect at the next start");
                }
                self.settings = settings;
            }
            Err(faults) => {
                for fault in &faults {
                    tracing::error!("{fault}");
                }
                tracing::error!(faults = faults.len(), "the settings stay as they were: they have faults");
            }
        }
        self.read()
    }

    /// The values as they are now.
    pub fn read(&mut self) -> Values {
        // First, so that what changes from here on is seen, and what changed before is read.
        self.follow();
        let secrets = self.settings.resolve(&self.environment).map_err(|errors| {
            for error in errors {
                tracing::error!("{error}");
            }
            tracing::error!("the credentials stay as they were: not all of their secrets can be read");
        });
        let tls =
            self.settings.server.tls.as_ref().map(|tls| {
                tls.load().map_err(|error| tracing::error!("{error}; the certificate stays as it was")).ok()
            });
        Values { secrets: secrets.ok(), tls: tls.flatten() }
    }

    fn follow(&mut self) {
        self.watch.set(Target::Secrets(&self.settings.secret_files()));
    }
}
