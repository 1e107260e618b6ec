//! Which server a client command talks to, and as whom: the command line, then the environment, then the settings.

use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use reqwest::header::HeaderValue;

use super::Environment;
use super::args::ServerArgs;
use super::client::Client;
use super::failure::Failure;
use super::local;
use super::trust::Trust;

/// A server to talk to.
#[derive(Debug)]
pub(super) struct Target {
    url: String,
    authorization: Option<HeaderValue>,
    trust: Trust,
    client: OnceCell<Client>,
}

impl Target {
    /// The server that is meant.
    pub fn new(server: &ServerArgs, config: Option<&Path>, environment: &Environment) -> Result<Self, Failure> {
        let named = server.server.as_deref().filter(|url| !url.is_empty());
        let file = |named: &Option<PathBuf>, variable| {
            named.clone().or_else(|| environment.variable(variable).map(PathBuf::from))
        };
        let mut trust = Trust {
            ca: file(&server.ca, "STAGEHOOK_CA"),
            pinned: None,
            shown: file(&server.client_certificate, "STAGEHOOK_CLIENT_CERTIFICATE"),
        };
        let url = match named.or_else(|| environment.variable("STAGEHOOK_SERVER")) {
            Some(url) => url.to_owned(),
            None => {
                let server = local::server(config, environment)?;
                // Whatever names are in it: by this address it is asked for by nobody else.
                trust.pinned = server.tls.as_ref().map(|tls| tls.certificate.clone());
                url_of(server.listen, server.tls.is_some())?
            }
        };
        let authorization = environment.variable("STAGEHOOK_TOKEN").map(bearer).transpose()?;
        Ok(Self { url, authorization, trust, client: OnceCell::new() })
    }

    /// The client to talk with.
    pub fn client(&self) -> Result<&Client, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Client::new(&self.url, self.authorization.clone(), &self.trust)?;
        Ok(self.client.get_or_init(|| client))
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Failure::Usage("STAGEHOOK_TOKEN has characters that no header can hold".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Where a server that listens there is reached from this machine.
fn url_of(listen: SocketAddr, tls: bool) -> Result<String, Failure> {
    if listen.port() == 0 {
        let reason = "server.listen leaves the port open, so its server can't be found; name it with --server";
        return Err(Failure::Usage(reason.into()));
    }
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let scheme = if tls { "https" } else { "http" };
    Ok(format!("{scheme}://{}", SocketAddr::new(ip, listen.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listen_address_is_turned_into_one_that_can_be_reached() {
        let url = |listen: &str| url_of(listen.parse().unwrap(), false);
        assert_eq!(url("0.0.0.0:8080").unwrap(), "http://127.0.0.1:8080");
        assert_eq!(url("[::]:8080").unwrap(), "http://[::1]:8080");
        assert_eq!(url("10.1.2.3:80").unwrap(), "http://10.1.2.3:80");
        assert_eq!(url_of("[::]:8443".parse().unwrap(), true).unwrap(), "https://[::1]:8443");
        assert!(matches!(url("127.0.0.1:0"), Err(Failure::Usage(_))));
    }
}
