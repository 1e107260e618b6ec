//! Spinnaker: preconfigured webhook stages, for `orca-local.yml`. They call the generic source.

use std::fmt::Write as _;
use std::time::Duration;

use crate::domain::hook::Hook;

use super::times::{seconds, timeout};
use super::{Wiring, yaml};

/// Orca gives up watching a webhook after an hour, unless the stage says otherwise.
const WATCHED: Duration = Duration::from_secs(3600);

/// How it looks in the file.
pub(super) fn written(wiring: &Wiring<'_>) -> String {
    let mut out = wiring.title("Preconfigured webhooks of Orca (orca-local.yml)");
    out.push_str(HEAD);
    out.push_str("webhook:\n  preconfigured:\n");
    let times = &wiring.times;
    // Spinnaker's own stages have no such point: confirm-rollout and the steps of the traffic are not asked there.
    for (hook, what) in [
        (Hook::ConfirmRollout, "before the deployment"),
        (Hook::PreRollout, "before the deployment"),
        (Hook::Rollout, "in the middle of the deployment"),
        (Hook::ConfirmTrafficIncrease, "before the traffic is shifted"),
        (Hook::ConfirmPromotion, "before the promotion"),
    ] {
        if times.has(hook) {
            stage(&mut out, wiring, hook, what, times.forward(hook));
        }
    }
    stage(&mut out, wiring, Hook::PostRollout, "when the deployment has succeeded", times.forward(Hook::PostRollout));
    stage(&mut out, wiring, Hook::Rollback, "when the deployment has failed", times.rollback());
    out
}

const HEAD: &str = "\
# Each is a stage of its own in Deck. The POST is answered at once (202), and Orca watches the deployment's status
# document, which `Location` names, until it is SUCCEEDED, FAILED or CANCELED.
# The last two belong in every pipeline: post-rollout at its end, rollback on its failing branch.
# Where sources.generic.auth is set, add its header to customHeaders, from a property that Orca is given as a secret:
#   Authorization: [\"Bearer ${STAGEHOOK_TOKEN}\"]
";

fn stage(out: &mut String, wiring: &Wiring<'_>, hook: Hook, what: &str, busy: Duration) {
    let place = &wiring.place;
    let label = format!("Stagehook: {hook} of {}/{}", place.namespace, place.name);
    let url = wiring.url("generic", hook, None);
    let mut payload = format!(
        "{{\"namespace\": {}, \"name\": {}",
        serde_json::Value::from(place.namespace.as_str()),
        serde_json::Value::from(place.name.as_str()),
    );
    // Orca's own function: what is typed in is data, whatever characters it has.
    payload.push_str(", \"revision\": ${#toJson(parameterValues['revision'])}}");
    let _ = write!(
        out,
        "    - label: {}
      type: {}
      description: {}
      enabled: true
      method: POST
      url: {}
      customHeaders:
        Content-Type: [application/json]
        Prefer: [respond-async]
      payload: {}
      parameters:
        - name: revision
          label: Revision
          description: What is rolled out, the same in every stage of the pipeline; empty means the open deployment
          type: string
      waitForCompletion: true
      statusUrlResolution: locationHeader
      statusJsonPath: $.status
      progressJsonPath: $.progress
      successStatuses: SUCCEEDED
      terminalStatuses: FAILED
      canceledStatuses: CANCELED
",
        yaml::quoted(&label),
        place.object(hook.as_str(), 63),
        yaml::quoted(&format!("Runs what the pipeline {} has {what}", wiring.pipeline.name)),
        yaml::quoted(&url),
        yaml::quoted(&payload),
    );
    let needed = timeout(busy);
    if needed > WATCHED {
        let _ = writeln!(
            out,
            "      # Orca watches for an hour, and this can take longer: set \"stageTimeoutMs\": {} in the stage's JSON.",
            seconds(needed).saturating_mul(1000)
        );
    }
}
