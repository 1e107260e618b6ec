//! What the scripts themselves wrote down: each start and each end, in order.

use std::path::Path;

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `start` or `end`.
    pub what: String,
    /// The stage; `undo.` and the stage for what undoes it.
    pub key: String,
    pub deployment: String,
    pub run: String,
    pub revision: String,
}

/// The whole journal, oldest first.
pub fn read(folder: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(folder.join("journal")).unwrap_or_default();
    text.lines()
        .map(|line| {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            let [what, key, deployment, run, revision] = <[String; 5]>::try_from(words).unwrap();
            Line { what, key, deployment, run, revision }
        })
        .collect()
}

/// The keys of the scripts that started, in order.
pub fn starts(folder: &Path) -> Vec<String> {
    read(folder).into_iter().filter(|line| line.what == "start").map(|line| line.key).collect()
}
