//! Flux: a Provider of the type generic-hmac, and the Alert that feeds it.

use super::{Wiring, yaml};

/// How it looks in the cluster.
pub(super) fn written(wiring: &Wiring<'_>) -> String {
    let place = &wiring.place;
    let url = wiring.base.with("/hooks/flux", &[("cluster", place.cluster())]);
    let object = place.object("", 63);
    let (namespace, name) = (yaml::text(&place.namespace), yaml::text(&place.name));
    let title = wiring.title("A Provider and an Alert of Flux");
    let url = yaml::quoted(&url);
    format!(
        "{title}\
# Every call is answered at once (202), and the stages run after it: there is no timeout to set. Flux asks no gate, so
# that stages run on rollout, post-rollout and rollback only; one on another hook is skipped, with a warning.
# The Secret holds the key of sources.flux.auth (type hmac-sha256):
#   tr -d '\\n' < FILE | kubectl -n NAMESPACE create secret generic stagehook --from-file=token=/dev/stdin
apiVersion: notification.toolkit.fluxcd.io/v1beta3
kind: Provider
metadata:
  name: {object}
  namespace: {namespace}
spec:
  type: generic-hmac
  address: {url}
  secretRef:
    name: stagehook
---
apiVersion: notification.toolkit.fluxcd.io/v1beta3
kind: Alert
metadata:
  name: {object}
  namespace: {namespace}
spec:
  providerRef:
    name: {object}
  # info is all of them: the successes as well as the failures.
  eventSeverity: info
  # The kind that deploys it, HelmRelease or Kustomization; never both under one name: they would be one application, and
  # end each other's deployments. Name only what a pipeline is for: of each other, every event is a 404.
  eventSources:
    - kind: HelmRelease
      namespace: {namespace}
      name: {name}
  # Said every few seconds while something else is awaited, and neither a success nor a failure.
  exclusionList:
    - \"^[Dd]ependenc(y|ies) .*not.* ready\"
"
    )
}
