//! Which server the client commands believe over HTTPS, and what they show of themselves.
//!
//! Without anything said it is the machine's own trust. A file of certificates takes its place; a server that shows
//! one of those very certificates is believed as it is, so that a self-signed one needs no authority.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::failure::Failure;
use crate::config::tls;

/// What is trusted, and what is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    /// The certificates of `--ca`.
    pub ca: Option<PathBuf>,
    /// The certificate of the configured server, which need not name the address that it is asked by.
    pub pinned: Option<PathBuf>,
    /// The certificate and the key to show.
    pub shown: Option<PathBuf>,
}

impl Trust {
    /// How TLS is spoken; none where the machine's own trust is enough.
    pub fn config(&self) -> Result<Option<ClientConfig>, Failure> {
        if self.ca.is_none() && self.pinned.is_none() && self.shown.is_none() {
            return Ok(None);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unusable = |error: Error| Failure::Usage(format!("HTTPS can't be used: {error}"));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(unusable)?.dangerous();
        let verifier: Arc<dyn ServerCertVerifier> = match self.ca.as_deref().or(self.pinned.as_deref()) {
            Some(file) => Arc::new(Known::of(file, self.ca.is_some(), provider)?),
            None => Arc::new(rustls_platform_verifier::Verifier::new(provider).map_err(unusable)?),
        };
        let builder = builder.with_custom_certificate_verifier(verifier);
        let config = match &self.shown {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let why = |why| Failure::Usage(format!("the client certificate {}: {why}", file.display()));
                let chain = tls::certificates(file).map_err(why)?;
                let key = tls::private_key(file).map_err(why)?;
                builder.with_client_auth_cert(chain, key).map_err(|error| why(error.to_string()))?
            }
        };
        Ok(Some(config))
    }
}

/// Believes servers with one of these certificates, or with one that is signed by one of them.
#[derive(Debug)]
struct Known {
    certificates: Vec<CertificateDer<'static>>,
    by_name: bool,
    signed: Arc<WebPkiServerVerifier>,
}

impl Known {
    fn of(file: &Path, by_name: bool, provider: Arc<rustls::crypto::CryptoProvider>) -> Result<Self, Failure> {
        let why = |why: String| Failure::Usage(format!("the certificates of {}: {why}", file.display()));
        let certificates = tls::certificates(file).map_err(why)?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let signed = signed.map_err(|error| why(format!("none of them can be used: {error}")))?;
        Ok(Self { certificates, by_name, signed })
    }
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.certificates.iter().any(|known| known == end_entity) {
            return self.signed.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        }
        if self.by_name {
            rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    // That the server holds the key of its certificate is proven as ever.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}
