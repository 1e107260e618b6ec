//! What holds for every caller, played for each of them against the real binary in its own dialect: what is approved,
//! rejected and pending, what a repetition does, who is let in, what is refused, and one rollout that is undone.
//!
//! A caller is described in `callers`, once; the cases in `cases` know none by name.

mod callers;
mod cases;
mod request;

macro_rules! conformance {
    ($($caller:ident: $described:expr;)+) => {
        $(mod $caller {
            conformance!(@cases $described,
                approved rejected pending repeated wrongly_signed unsigned oversized malformed unknown_application
                a_rollout_that_is_undone cut_by_a_crash secrets_are_rotated
            );
        })+
    };
    (@cases $described:expr, $($case:ident)+) => {
        $(#[tokio::test]
        async fn $case() {
            crate::conformance::cases::$case(&$described).await;
        })+
    };
}

conformance! {
    flagger: crate::conformance::callers::flagger();
    generic_bearer: crate::conformance::callers::generic_bearer();
    generic_hmac: crate::conformance::callers::generic_hmac();
    generic_standard_webhooks: crate::conformance::callers::generic_standard_webhooks();
    argocd: crate::conformance::callers::argocd();
    argo_rollouts: crate::conformance::callers::argo_rollouts();
    flux: crate::conformance::callers::flux();
    github: crate::conformance::callers::github();
}

/// What Flagger's load tester stands in for has commands in place of pipelines: no verdict is pending, no application
/// unknown, and nothing is undone or run again by itself.
mod loadtester {
    conformance!(@cases crate::conformance::callers::loadtester(),
        approved rejected repeated wrongly_signed unsigned oversized malformed secrets_are_rotated
    );
}
