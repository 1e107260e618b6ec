//! The callers: what each sends, and how it reads the answer.

use serde_json::{Value, json};

use super::request::{Proof, Request};

/// How a caller hears the verdict.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// It waits, and reads the status: of a rejection, and whether the body says it as `status` too.
    Held { rejected: u16, body: Option<(&'static str, &'static str)> },
    /// It is answered at once, and hears nothing more.
    Accepted,
    /// It waits for a command, and is told in the words of Flagger's load tester.
    Command,
}

/// The request of a gate of rollout `n`.
pub type Next = fn(n: u32) -> Request;

/// A caller.
pub struct Caller {
    pub source: &'static str,
    pub proof: Proof,
    pub manner: Manner,
    /// The application that its payloads are about: namespace and name.
    pub application: (&'static str, &'static str),
    /// A gate of rollout `n`, on the hook named beside it; `app` is the name of the application.
    pub gate: fn(n: u32, app: &str) -> Request,
    pub gate_hook: &'static str,
    /// The stage that runs there.
    pub key: &'static str,
    /// Settings of its own.
    pub settings: Vec<(&'static str, Value)>,
    /// The gate that comes after it, where there is one, and its hook.
    pub next: Option<(Next, &'static str)>,
    /// The report that rollout `n` failed.
    pub failed: fn(n: u32) -> Request,
}

impl Caller {
    pub fn is_held(&self) -> bool {
        matches!(self.manner, Manner::Held { .. } | Manner::Command)
    }

    /// How the request of a gate of rollout 1 looks, unsigned.
    pub fn first(&self) -> Request {
        (self.gate)(1, self.application.1)
    }
}

pub fn flagger() -> Caller {
    fn body(phase: &str, n: u32, app: &str) -> Value {
        json!({"name": app, "namespace": "test", "phase": phase, "checksum": format!("c{n}")})
    }
    Caller {
        source: "flagger",
        proof: Proof::Basic,
        manner: Manner::Held { rejected: 501, body: None },
        application: ("test", "podinfo"),
        gate: |n, app| Request::new("/hooks/flagger/pre-rollout", &body("Progressing", n, app)),
        gate_hook: "pre-rollout",
        key: "gate",
        settings: Vec::new(),
        next: Some((|n| Request::new("/hooks/flagger/rollout", &body("Progressing", n, "podinfo")), "rollout")),
        failed: |n| Request::new("/hooks/flagger/post-rollout", &body("Failed", n, "podinfo")),
    }
}

fn generic(hook: &str, n: u32, app: &str) -> Request {
    let body = json!({"name": app, "namespace": "test", "revision": format!("v{n}")});
    Request::new(format!("/hooks/generic/{hook}"), &body)
}

fn generic_with(proof: Proof) -> Caller {
    Caller {
        source: "generic",
        proof,
        manner: Manner::Held { rejected: 501, body: None },
        application: ("test", "podinfo"),
        gate: |n, app| generic("pre-rollout", n, app),
        gate_hook: "pre-rollout",
        key: "gate",
        settings: Vec::new(),
        next: Some((|n| generic("rollout", n, "podinfo"), "rollout")),
        failed: |n| generic("rollback", n, "podinfo"),
    }
}

pub fn generic_bearer() -> Caller {
    generic_with(Proof::Bearer)
}

pub fn generic_hmac() -> Caller {
    generic_with(Proof::Hmac { header: "X-Signature" })
}

pub fn generic_standard_webhooks() -> Caller {
    generic_with(Proof::StandardWebhooks)
}

pub fn argocd() -> Caller {
    fn request(hook: &str, n: u32, app: &str) -> Request {
        let body = json!({"name": app, "namespace": "test", "revision": format!("v{n}")});
        Request::new(format!("/hooks/argocd/{hook}"), &body).with("Idempotency-Key", &format!("operation-{n}"))
    }
    Caller {
        source: "argocd",
        proof: Proof::Bearer,
        manner: Manner::Held { rejected: 422, body: None },
        application: ("test", "podinfo"),
        gate: |n, app| request("pre-rollout", n, app),
        gate_hook: "pre-rollout",
        key: "gate",
        settings: Vec::new(),
        next: Some((|n| request("rollout", n, "podinfo"), "rollout")),
        failed: |n| request("rollback", n, "podinfo"),
    }
}

pub fn argo_rollouts() -> Caller {
    fn request(hook: &str, n: u32, app: &str, event: Option<&str>) -> Request {
        let mut body = json!({
            "name": app, "namespace": "test", "uid": "0b9d3c1e-8a6f-4f57-9a35-1b7a6f0a4f11",
            "revision": n.to_string(), "podHash": "7bf84f9696",
        });
        if let Some(event) = event {
            body["event"] = json!(event);
        }
        Request::new(format!("/hooks/argo-rollouts/{hook}"), &body)
    }
    Caller {
        source: "argo-rollouts",
        proof: Proof::Bearer,
        manner: Manner::Held { rejected: 200, body: Some(("succeeded", "failed")) },
        application: ("test", "podinfo"),
        gate: |n, app| request("rollout", n, app, None),
        gate_hook: "rollout",
        key: "gate",
        settings: Vec::new(),
        next: Some((|n| request("confirm-promotion", n, "podinfo", None), "confirm-promotion")),
        failed: |n| request("rollback", n, "podinfo", Some("on-rollout-aborted")),
    }
}

pub fn flux() -> Caller {
    fn event(n: u32, app: &str, severity: &str, reason: &str) -> Request {
        let body = json!({
            "involvedObject": {
                "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "namespace": "test",
                "name": app, "uid": "4c0b7f6e-7f3c-4a0b-b6a2-2d9f6e1c1a10",
            },
            "severity": severity,
            "timestamp": format!("2026-01-01T00:00:{n:02}Z"),
            "message": "as the controller says",
            "reason": reason,
            "metadata": {"kustomize.toolkit.fluxcd.io/revision": format!("main@sha1:{n:040}")},
            "reportingController": "kustomize-controller",
        });
        Request::new("/hooks/flux", &body)
    }
    Caller {
        source: "flux",
        proof: Proof::Hmac { header: "X-Signature" },
        manner: Manner::Accepted,
        application: ("test", "podinfo"),
        gate: |n, app| event(n, app, "info", "Progressing"),
        gate_hook: "rollout",
        key: "gate",
        settings: Vec::new(),
        next: None,
        failed: |n| event(n, "podinfo", "error", "HealthCheckFailed"),
    }
}
pub fn github() -> Caller {
    fn event(kind: &str, n: u32, app: &str, delivery: &str, extra: &Value) -> Request {
        let mut body = json!({
            "deployment": {
                "id": 1000 + n, "sha": format!("{n:040}"), "ref": "main", "environment": "production",
                "url": format!("https://api.github.com/repos/{app}/deployments/{}", 1000 + n),
            },
            "repository": {"id": 7, "full_name": app, "html_url": format!("https://github.com/{app}")},
            "sender": {"login": "octocat"},
        });
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        Request::new("/hooks/github", &body).with("X-GitHub-Event", kind).with("X-GitHub-Delivery", delivery)
    }
    fn status(n: u32, state: &str) -> Request {
        let status = json!({"id": 1, "state": state, "description": "", "environment": "production"});
        let extra = json!({"action": "created", "deployment_status": status});
        event("deployment_status", n, "octo/app", &format!("{state}-{n}"), &extra)
    }
    Caller {
        source: "github",
        proof: Proof::Hmac { header: "X-Hub-Signature-256" },
        manner: Manner::Accepted,
        application: ("production", "octo/app"),
        gate: |n, app| event("deployment", n, app, &format!("created-{n}"), &json!({"action": "created"})),
        gate_hook: "pre-rollout",
        key: "gate",
        settings: Vec::new(),
        next: Some((|n| status(n, "in_progress"), "rollout")),
        failed: |n| status(n, "failure"),
    }
}

pub fn loadtester() -> Caller {
    const COMMAND: &str = ". $E2E_DIR/library.sh";
    fn command(n: u32, app: &str) -> Request {
        let metadata = json!({"type": "bash", "cmd": COMMAND});
        let body = json!({"name": app, "namespace": "test", "checksum": format!("c{n}"), "metadata": metadata});
        Request::new("/", &body)
    }
    let rule = json!({"namespaces": ["test"], "types": ["bash"], "command": COMMAND});
    Caller {
        source: "loadtester",
        proof: Proof::Basic,
        manner: Manner::Command,
        application: ("test", "podinfo"),
        gate: command,
        gate_hook: "rollout",
        // The one stage of a command is called by its type.
        key: "bash",
        settings: vec![("/sources/loadtester/allow", json!([rule]))],
        next: None,
        // A command that failed has nothing to undo.
        failed: |n| command(n, "podinfo"),
    }
}
