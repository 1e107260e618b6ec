//! `server.tls`: the certificate of the listener, its key, and who signs those of clients.
//!
//! What is wrong with a file is said with its setting and its path, never with what is in it.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject as _, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};

/// A larger file is no certificate, no key and no bundle.
const MAX_FILE: u64 = 4 << 20;

/// `server.tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate and what leads to its root, in this order, as PEM.
    pub certificate: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
    /// Who signs the certificates of clients, as PEM; without it clients are asked for none.
    pub client_ca: Option<PathBuf>,
    /// Whether a client needs one.
    pub client_auth: ClientAuth,
}

/// `server.tls.clientAuth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Without a certificate there is no connection.
    Required,
    /// One that is shown must be good.
    Optional,
}

/// Why TLS can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} {}: {why}", file.display())]
pub struct TlsError {
    /// The setting.
    pub setting: &'static str,
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl Tls {
    /// Every file that it is read from.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten().cloned()
    }

    /// Reads the files into what a listener works with.
    pub fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let fault = |setting, file: &Path, why: String| TlsError { setting, file: file.to_owned(), why };
        let of_certificate = |why| fault("server.tls.certificate", &self.certificate, why);
        let of_key = |why| fault("server.tls.key", &self.key, why);

        let chain = certificates(&self.certificate).map_err(of_certificate)?;
        let key = private_key(&self.key).map_err(of_key)?;
        // For its own message: the next step would tell of either as of both.
        let leaf = chain.first().ok_or_else(|| of_certificate("there is no certificate in it".to_owned()))?;
        rustls::server::ParsedCertificate::try_from(leaf)
            .map_err(|error| of_certificate(format!("its first certificate can't be used: {error}")))?;
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                of_key(format!("this key does not belong to the certificate {}", self.certificate.display()))
            }
            error => of_key(format!("this key can't be used: {error}")),
        })?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| of_certificate(error.to_string()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let of_ca = |why| fault("server.tls.clientCa", file, why);
                let mut roots = RootCertStore::empty();
                for certificate in certificates(file).map_err(of_ca)? {
                    roots.add(certificate).map_err(|error| of_ca(format!("a certificate can't be used: {error}")))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match self.client_auth {
                    ClientAuth::Required => verifier,
                    ClientAuth::Optional => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| of_ca(error.to_string()))?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The certificates of a PEM file; at least one.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates_in(&read(file)?)
}

pub(super) fn certificates_in(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("there is no PEM certificate in it{}", instead(text))),
        Err(error) => Err(malformed(&error).to_owned()),
    }
}

/// The first private key of a PEM file.
pub fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    key_in(&read(file)?)
}

/// The first private key of a text in PEM.
pub fn key_in(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        PemError::NoItemsFound => format!("there is no PEM private key in it{}", instead(text)),
        error => malformed(&error).to_owned(),
    })
}

/// What is there in place of what was looked for.
fn instead(text: &[u8]) -> &'static str {
    let has = |words: &[u8]| text.windows(words.len()).any(|window| window == words);
    if has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        return ", but an encrypted one; store it without a password";
    }
    let kinds = <(SectionKind, Vec<u8>)>::pem_slice_iter(text).filter_map(Result::ok).map(|(kind, _)| kind);
    kinds.fold("", |found, kind| match kind {
        SectionKind::Certificate => ", but a certificate",
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => ", but a private key",
        _ => found,
    })
}

/// The parser quotes what it stumbled over, which may be a piece of a key.
fn malformed(error: &PemError) -> &'static str {
    match error {
        PemError::MissingSectionEnd { .. } => "its PEM has a beginning without an end",
        PemError::Base64Decode(_) => "its PEM has a line that is not base64",
        _ => "its PEM is malformed",
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let opened = super::file::open(file).map_err(|error| format!("it can't be read: {error}"))?;
    let mut text = Vec::new();
    opened.take(MAX_FILE).read_to_end(&mut text).map_err(|error| format!("it can't be read: {error}"))?;
    Ok(text)
}
