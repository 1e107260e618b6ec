//! Argo CD: hook Jobs, which gate a sync, and the notifications that tell what no hook can.
//!
//! `examples/argocd` has the same for one application, with more words.

use std::fmt::Write as _;
use std::time::Duration;

use crate::domain::hook::Hook;

use super::place::{Place, shell};
use super::times::{seconds, timeout};
use super::{Wiring, yaml};

const SOURCE: &str = "argocd";
/// How long one request is held, and how long curl waits for it. Short ones pass any proxy.
const HELD: &str = "50s";
const ONE_REQUEST: u64 = 60;
/// What a start of Stagehook may take, and of a Job: an image, a node.
const STARTING: u64 = 120;
/// Kubernetes has 63 characters for a Job, and Argo CD adds -REVISION-PHASE-SECONDS.
const JOB_NAME: usize = 35;

/// The Jobs, then the notifications.
pub(super) fn written(wiring: &Wiring<'_>) -> String {
    let times = &wiring.times;
    let mut out = wiring.title("Hook Jobs of Argo CD (beside the manifests of the application)");
    out.push_str(HEAD);
    for (hook, phase, busy) in [
        (Hook::PreRollout, "PreSync", times.has(Hook::PreRollout).then(|| times.forward(Hook::PreRollout))),
        (Hook::Rollout, "Sync", times.has(Hook::Rollout).then(|| times.forward(Hook::Rollout))),
        (Hook::PostRollout, "PostSync", Some(times.forward(Hook::PostRollout))),
        (Hook::Rollback, "SyncFail", Some(times.rollback())),
    ] {
        if let Some(busy) = busy {
            job(&mut out, wiring, hook, phase, busy);
        }
    }
    notifications(&mut out, wiring);
    out
}

const HEAD: &str = "\
# PostSync and SyncFail are there in any case: they tell how the sync ended. 200 goes on; 422 fails the sync (curl's exit
# code 22, which the Job does not try again); 503 means that the scripts still run, and curl asks again and joins them, for
# as long as the stages of the hook can take. The seconds at the end of a Job's name are when the operation began: Argo CD
# writes them where there is a generateName. They name the operation. Kustomize takes no generateName: with a name the
# operation is left out, and the deployment in progress is meant.
# The token is that of sources.argocd.auth (type bearer); the Jobs read it from a Secret in their namespace:
#   tr -d '\\n' < FILE | kubectl -n NAMESPACE create secret generic stagehook --from-file=token=/dev/stdin
";

fn job(out: &mut String, wiring: &Wiring<'_>, hook: Hook, phase: &str, busy: Duration) {
    let retry = seconds(timeout(busy)).saturating_add(STARTING);
    let deadline = retry.saturating_add(ONE_REQUEST + STARTING);
    let body = names(&wiring.place);
    let _ = write!(
        out,
        "---
apiVersion: batch/v1
kind: Job
metadata:
  generateName: {name}-
  annotations:
    argocd.argoproj.io/hook: {phase}
    argocd.argoproj.io/hook-delete-policy: BeforeHookCreation,HookSucceeded
spec:
  backoffLimit: 3
  activeDeadlineSeconds: {deadline}
  podFailurePolicy:
    rules:
      - action: FailJob
        onExitCodes: {{containerName: stagehook, operator: In, values: [22]}}
  template:
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      containers:
        - name: stagehook
          image: curlimages/curl:8.11.1
          env:
            - name: JOB
              valueFrom: {{fieldRef: {{fieldPath: \"metadata.labels['job-name']\"}}}}
            - name: TOKEN
              valueFrom: {{secretKeyRef: {{name: stagehook, key: token}}}}
          command: [/bin/sh, -c]
          args:
            - |
              operation=${{JOB##*-}}
              case $operation in *[!0-9]*) operation= ;; esac
              exec curl --config - --silent --show-error --fail-with-body --max-time {ONE_REQUEST} \\
                --retry 100000 --retry-delay 5 --retry-max-time {retry} --retry-connrefused \\
                --header \"Content-Type: application/json\" \\
                --header \"Idempotency-Key: $operation\" \\
                --data {body} \\
                {url} <<END
              header = \"Authorization: Bearer $TOKEN\"
              END
",
        name = wiring.place.object(hook.as_str(), JOB_NAME),
        body = shell(&body),
        url = shell(&wiring.url(SOURCE, hook, Some(HELD))),
    );
}

fn names(place: &Place) -> String {
    let (namespace, name) = (place.namespace.as_str(), place.name.as_str());
    format!("{{\"namespace\": {}, \"name\": {}}}", serde_json::Value::from(namespace), serde_json::Value::from(name))
}

const OPERATION: &str = "app.metadata.uid + '/' + app.status.operationState.startedAt";

/// Right after a sync the health may be that of what ran before, so a health that has not changed since the sync began
/// counts a minute after its end. Not every version of Argo CD says when it changed.
const HEALTHY: &str = " and app.status.health.status == 'Healthy' \
    and (time.Now().Sub(time.Parse(app.status.operationState.finishedAt)).Minutes() >= 1 \
    or app.status.health.lastTransitionTime != nil \
    and !time.Parse(app.status.health.lastTransitionTime).Before(time.Parse(app.status.operationState.startedAt)))";

/// What was degraded before the sync has ended is not told: the sync may be the remedy.
const DEGRADED: &str = " and app.status.health.status == 'Degraded' \
    and !time.Parse(app.status.health.lastTransitionTime).Before(time.Parse(app.status.operationState.finishedAt))";

fn notifications(out: &mut String, wiring: &Wiring<'_>) {
    let _ = write!(
        out,
        "---
# What no hook Job tells: `argocd app rollback` and a sync of single resources run no hooks, and a terminated operation
# runs no SyncFail. Merge it into your argocd-notifications-cm, put the token into argocd-notifications-secret (key
# stagehook-token), and give the Application the annotation
#   notifications.argoproj.io/subscribe.stagehook.stagehook: \"\"
# Each is sent once for an operation. Argo CD's own triggers say once for a revision: a second sync of the same commit would
# tell nothing.
# The Application tells its own names: the pipeline selects {} by spec.destination.namespace and metadata.name.
apiVersion: v1
kind: ConfigMap
metadata:
  name: argocd-notifications-cm
  namespace: argocd
data:
  service.webhook.stagehook: |
    url: {}
    headers:
      - name: Authorization
        value: Bearer $stagehook-token
      - name: Content-Type
        value: application/json

  trigger.stagehook: |
    # Only where no hook Job is wired: it comes while PreSync still runs.
    # - when: app.status.operationState != nil and app.status.operationState.phase in ['Running']
    #   oncePer: {OPERATION}
    #   send: [stagehook-sync-running]
",
        yaml::comment(&format!("{}/{}", wiring.place.namespace, wiring.place.name)),
        yaml::quoted(&wiring.base.with("/hooks/argocd", &[])),
    );
    for (phases, health, send) in [
        ("'Error', 'Failed'", "", "stagehook-sync-failed"),
        ("'Succeeded'", HEALTHY, "stagehook-deployed"),
        ("'Succeeded'", DEGRADED, "stagehook-health-degraded"),
    ] {
        let _ = write!(
            out,
            "    - when: app.status.operationState != nil and app.status.operationState.phase in [{phases}]{health}
      oncePer: {OPERATION}
      send: [{send}]
"
        );
    }
    for (template, event, hook) in [
        ("stagehook-sync-running", "on-sync-running", Hook::Rollout),
        ("stagehook-sync-failed", "on-sync-failed", Hook::Rollback),
        ("stagehook-deployed", "on-deployed", Hook::PostRollout),
        ("stagehook-health-degraded", "on-health-degraded", Hook::Rollback),
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
            \"namespace\": {{{{ toJson .app.spec.destination.namespace }}}},
            \"name\": {{{{ toJson .app.metadata.name }}}},
            \"operation\": {{{{ printf \"%s/%s\" .app.metadata.uid .app.status.operationState.startedAt | toJson }}}},
            \"phase\": {{{{ toJson .app.status.operationState.phase }}}},
            \"revision\": {{{{ with .app.status.operationState.syncResult }}}}{{{{ toJson .revision }}}}{{{{ else }}}}null{{{{ end }}}},
            \"metadata\": {{\"summary\": {{{{ toJson .app.status.operationState.message }}}}}}
          }}
",
            path = yaml::quoted(&wiring.path(hook)),
        );
    }
}
