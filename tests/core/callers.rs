//! What Argo CD, Argo Rollouts and Flux send, read by their adapters and told to the core.

use http::HeaderMap;
use serde_json::{Value, json};
use stagehook::domain::call::Reply;
use stagehook::domain::names::Source;
use stagehook::source::github::Known;
use stagehook::source::{Incoming, Read, read};

use crate::world::World;

/// A body with the application of the tests, and more.
pub fn body(more: &Value) -> Value {
    let mut body = json!({"namespace": "test", "name": "podinfo"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

impl World {
    /// A request to the path of a hook, or of the source as a whole.
    pub fn sent(&mut self, hook: Option<&str>, body: &Value) -> Reply {
        let (headers, bytes) = (HeaderMap::new(), body.to_string());
        let incoming = Incoming { hook, headers: &headers, cluster: None, body: bytes.as_bytes() };
        let source: Source = self.stream.id.source;
        match read(source, &incoming, Known::default()).unwrap() {
            Read::Calls(mut calls) if calls.len() == 1 => {
                let parsed = calls.remove(0);
                assert_eq!(parsed.application, self.stream.id.application);
                self.tell(parsed.call)
            }
            other => panic!("one call, and not {other:?}"),
        }
    }

    /// Nothing is started by what was said last.
    pub fn runs_nothing(&mut self) {
        assert_eq!(self.all_succeed(), Vec::<String>::new());
    }
}
