//! Argo Rollouts: the AnalysisTemplate that asks, and the notifications that tell how a rollout ended.
//!
//! `examples/argo-rollouts` has the same for one application, with the Rollouts that use it.

use std::fmt::Write as _;

use crate::domain::hook::Hook;

use super::place::NAMESPACE;
use super::times::seconds;
use super::{Wiring, yaml};

/// Argo Rollouts asks again so long after an error.
const POLL: u64 = 10;
/// A minute of polls beside those for the stages: a restart of Stagehook, a line for a slot.
const SPARE: u64 = 6;

/// The points of a rollout at which an analysis can stand, and where that is.
const POINTS: [(Hook, &str); 5] = [
    (Hook::PreRollout, "an analysis as the first step"),
    (Hook::Rollout, "an analysis between the steps"),
    (Hook::ConfirmTrafficIncrease, "an analysis before the step that shifts more"),
    (Hook::ConfirmPromotion, "an analysis as the last step; blue-green: prePromotionAnalysis"),
    (Hook::PostRollout, "blue-green: postPromotionAnalysis; a canary tells it by on-rollout-completed"),
];

/// The template where there is something to ask, then the notifications.
pub(super) fn written(wiring: &Wiring<'_>) -> String {
    let asked: Vec<_> = POINTS.into_iter().filter(|(hook, _)| wiring.times.has(*hook)).collect();
    let mut out = wiring.title("What Argo Rollouts needs");
    if asked.is_empty() {
        out.push_str("# No stage runs on a hook that an analysis could ask, so that there is no AnalysisTemplate.\n");
    } else {
        template(&mut out, wiring, &asked);
        out.push_str("---\n");
    }
    notifications(&mut out, wiring);
    out
}

fn template(out: &mut String, wiring: &Wiring<'_>, asked: &[(Hook, &str)]) {
    let place = &wiring.place;
    let object = place.object("", 63);
    let longest = asked.iter().map(|(hook, _)| wiring.times.forward(*hook)).max().unwrap_or_default();
    let errors = seconds(longest).div_ceil(POLL).saturating_add(SPARE);
    out.push_str(
        "\
# One template for every hook; in the Rollout each analysis names the hook that it asks:
",
    );
    for (hook, place) in asked {
        let _ = writeln!(out, "#   {hook}: {place}");
    }
    let namespace = yaml::text(&place.namespace);
    let names = if place.namespace == NAMESPACE {
        "#     - {name: namespace, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}".to_owned()
    } else {
        format!("#     - {{name: namespace, value: {namespace}}}")
    };
    let _ = write!(
        out,
        "\
# like this:
#   templates: [{{templateName: {object}}}]
#   args:
#     - {{name: hook, value: {first}}}
{names}
#     - {{name: name, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
#     - {{name: uid, valueFrom: {{fieldRef: {{fieldPath: metadata.uid}}}}}}
#     - {{name: revision, valueFrom: {{fieldRef: {{fieldPath: \"metadata.annotations['rollout.argoproj.io/revision']\"}}}}}}
#     - {{name: pod-hash, valueFrom: {{podTemplateHashValue: Latest}}}}
# While the scripts run the answer is 503, which counts as an error and is asked again {POLL}s later. So the limit is what
# the stages of one hook can take, in polls, and {SPARE} more. Keep both conditions: without any, each 200 is a success, a
# rejection as well. The token is that of sources.argo-rollouts.auth (type bearer):
#   tr -d '\\n' < FILE | kubectl -n NAMESPACE create secret generic stagehook --from-file=token=/dev/stdin
apiVersion: argoproj.io/v1alpha1
kind: AnalysisTemplate
metadata:
  name: {object}
  namespace: {namespace}
spec:
  args:
    - name: hook
    - name: namespace
    - name: name
    - name: uid
    - name: revision
    - name: pod-hash
    - name: token
      valueFrom:
        secretKeyRef: {{name: stagehook, key: token}}
  metrics:
    - name: stagehook
      count: 1
      failureLimit: 0
      consecutiveErrorLimit: {errors}
      successCondition: result == \"succeeded\"
      failureCondition: result == \"failed\"
      provider:
        web:
          method: POST
          url: {url}
          timeoutSeconds: 10
          headers:
            - key: Authorization
              value: \"Bearer {{{{args.token}}}}\"
          jsonPath: \"{{$.status}}\"
          jsonBody:
            namespace: \"{{{{args.namespace}}}}\"
            name: \"{{{{args.name}}}}\"
            uid: \"{{{{args.uid}}}}\"
            revision: \"{{{{args.revision}}}}\"
            podHash: \"{{{{args.pod-hash}}}}\"
",
        first = asked.first().map_or("rollout", |(hook, _)| hook.as_str()),
        url = yaml::quoted(&asking(wiring)),
    );
}

/// The URL with the hook left to the analysis. It is put in afterwards, since braces are no part of a URL.
fn asking(wiring: &Wiring<'_>) -> String {
    let query = [("cluster", wiring.place.cluster()), ("wait", Some("8s"))];
    let url = wiring.base.with("/hooks/argo-rollouts/HOOK", &query);
    url.replacen("/hooks/argo-rollouts/HOOK", "/hooks/argo-rollouts/{{args.hook}}", 1)
}

fn notifications(out: &mut String, wiring: &Wiring<'_>) {
    let _ = write!(
        out,
        "\
# How a rollout ended: without it nothing is undone, and no deployment ends. Merge it into your
# argo-rollouts-notification-configmap, and put the token into argo-rollouts-notification-secret (key stagehook-token).
# Where these triggers send something already, add the template to their `send`. The Rollout needs the annotations
#   notifications.argoproj.io/subscribe.on-rollout-aborted.stagehook: \"\"
#   notifications.argoproj.io/subscribe.on-rollout-completed.stagehook: \"\"
apiVersion: v1
kind: ConfigMap
metadata:
  name: argo-rollouts-notification-configmap
  namespace: argo-rollouts
data:
  service.webhook.stagehook: |
    url: {}
    headers:
      - name: Authorization
        value: Bearer $stagehook-token
      - name: Content-Type
        value: application/json

  trigger.on-rollout-aborted: |
    - send: [stagehook-aborted]
  trigger.on-rollout-completed: |
    - send: [stagehook-completed]
",
        yaml::quoted(&wiring.base.with("/hooks/argo-rollouts", &[])),
    );
    for (template, event, hook) in [
        ("stagehook-aborted", "on-rollout-aborted", Hook::Rollback),
        ("stagehook-completed", "on-rollout-completed", Hook::PostRollout),
    ] {
        let _ = write!(
            out,
            "
  template.{template}: |
    webhook:
      stagehook:
        method: POST
        path: {path}
        body: |
          {{
            \"event\": \"{event}\",
            \"namespace\": {{{{ toJson .rollout.metadata.namespace }}}},
            \"name\": {{{{ toJson .rollout.metadata.name }}}},
            \"uid\": {{{{ toJson .rollout.metadata.uid }}}},
            \"revision\": {{{{ index .rollout.metadata.annotations \"rollout.argoproj.io/revision\" | toJson }}}},
            \"podHash\": {{{{ toJson .rollout.status.currentPodHash }}}},
            \"metadata\": {{\"summary\": {{{{ toJson .rollout.status.message }}}}}}
          }}
",
            path = yaml::quoted(&wiring.path(hook)),
        );
    }
}
