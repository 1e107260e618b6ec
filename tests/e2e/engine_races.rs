//! What goes wrong only at the wrong moment: callers that vanish, lines that fill at once, memory that is short.

use serde_json::json;

use crate::support::World;
use crate::support::http::flagger;
use crate::support::pipelines::{pipeline, stage};

#[tokio::test]
async fn no_length_of_time_is_too_long() {
    let absurd = json!("20000y");
    let mut world = World::new()
        .set("/staleAfter", absurd.clone())
        .set("/server/shutdownGrace", absurd.clone())
        .set("/rollback/signalTimeout", absurd.clone())
        .set("/execution/killGrace", absurd.clone())
        .set("/execution/defaultTimeout", absurd.clone())
        .set("/sources/generic/respondWithin", absurd)
        .pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout")]))
        .started()
        .await;
    let client = world.client();
    for wait in ["20000y", "292277026580y", "400000000000y", "500000000000y"] {
        let path = format!("/hooks/flagger/pre-rollout?wait={wait}");
        client.post(&path, &flagger("Progressing", "a1")).await.expect(200);
    }
    client.generic("pre-rollout", "a1").await.expect(200);
    client.generic("rollback", "a1").await.expect(200);
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(world.server().log_with("panicked").len(), 0);
    world.stop().await;
}
