//! Which server a client command talks to, and as whom: the command line, then the environment, then the settings.

use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use reqwest::header::HeaderValue;

use super::Environment;
use super::args::ServerArgs;
use super::client::Client;
use super::failure::Failure;
use super::local;

/// A server to talk to.
#[derive(Debug)]
pub(super) struct Target {
    url: String,
    authorization: Option<HeaderValue>,
    client: OnceCell<Client>,
}

impl Target {
    /// The server that is meant.
    pub fn new(server: &ServerArgs, config: Option<&Path>, environment: &Environment) -> Result<Self, Failure> {
        let named = server.server.as_deref().filter(|url| !url.is_empty());
        let url = match named.or_else(|| environment.variable("STAGEHOOK_SERVER")) {
            Some(url) => url.to_owned(),
            None => url_of(local::listen(config, environment)?)?,
        };
        let authorization = environment.variable("STAGEHOOK_TOKEN").map(bearer).transpose()?;
        Ok(Self { url, authorization, client: OnceCell::new() })
    }

    /// The client to talk with.
    pub fn client(&self) -> Result<&Client, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Client::new(&self.url, self.authorization.clone())?;
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
fn url_of(listen: SocketAddr) -> Result<String, Failure> {
    if listen.port() == 0 {
        let reason = "server.listen leaves the port open, so its server can't be found; name it with --server";
        return Err(Failure::Usage(reason.into()));
    }
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    Ok(format!("http://{}", SocketAddr::new(ip, listen.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listen_address_is_turned_into_one_that_can_be_reached() {
        let url = |listen: &str| url_of(listen.parse().unwrap());
        assert_eq!(url("0.0.0.0:8080").unwrap(), "http://127.0.0.1:8080");
        assert_eq!(url("[::]:8080").unwrap(), "http://[::1]:8080");
        assert_eq!(url("10.1.2.3:80").unwrap(), "http://10.1.2.3:80");
        assert!(matches!(url("127.0.0.1:0"), Err(Failure::Usage(_))));
    }
}
