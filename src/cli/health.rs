//! `health`: for the HEALTHCHECK of an image that should not need curl for it.

use std::time::Duration;

use reqwest::Method;

use super::args::HealthArgs;
use super::client;
use super::failure::Failure;
use super::out::Out;
use super::target::Target;

/// Asks whether the service is ready, or alive.
pub(super) async fn health(args: &HealthArgs, target: &Target, out: &mut Out) -> Result<(), Failure> {
    let client = target.client()?;
    let path = if args.live { "healthz" } else { "readyz" };
    let request = client.request(Method::GET, &[path], &[]).timeout(Duration::from_secs(5));
    client::accepted(client.send(request).await?, client).await?;
    out.line(if args.live { "alive" } else { "ready" })
}
