//! What the fuzz targets of `fuzz/` do: one function for each parser of bytes that come from outside.
//!
//! They stand beside what they look into, in the `fuzz` module of each folder, and say what must hold of any input, not
//! just that nothing panics. It is compiled for `cargo fuzz`, which sets `cfg(fuzzing)`, and for the unit tests, which
//! play the committed seeds of every target. No build of the program has it.

/// A target: bytes in, a panic where something does not hold.
pub type Target = fn(&[u8]);

/// Every target, by its name in `fuzz/`.
pub const TARGETS: [(&str, Target); 12] = [
    ("request", crate::http::fuzz::request),
    ("credentials", crate::source::fuzz::credentials),
    ("pipeline", crate::config::fuzz::pipeline),
    ("settings", crate::config::fuzz::settings),
    ("globs", crate::config::fuzz::globs),
    ("commands", crate::domain::fuzz::commands),
    ("outputs", crate::executor::fuzz::outputs),
    ("mask", crate::executor::fuzz::mask),
    ("records", crate::ledger::fuzz::records),
    ("wire", crate::executor::fuzz::wire),
    ("replies", crate::reporter::fuzz::replies),
    ("pem", |data| {
        crate::config::fuzz::pem(data);
        crate::reporter::fuzz::key(data);
    }),
];

/// Runs one of them.
pub fn run(name: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("there is no target {name}")).1(data);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
    }

    /// The committed seeds of a target: small inputs of every kind, and whatever once broke something.
    fn seeds(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let folder = folder().join("corpus").join(name);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    }

    /// Plays inputs, and tells of all that broke something at once.
    fn play(inputs: impl Iterator<Item = (String, Target, Vec<u8>)>) {
        let broken: Vec<_> = inputs
            .filter(|(_, target, input)| std::panic::catch_unwind(|| target(input)).is_err())
            .map(|(name, ..)| name)
            .collect();
        assert!(broken.is_empty(), "something does not hold of {broken:#?}");
    }

    #[test]
    fn every_seed_is_played() {
        let mut size = 0;
        play(TARGETS.into_iter().flat_map(|(name, target)| {
            let seeds = seeds(name);
            assert!(seeds.len() >= 5, "{name} has {} seeds", seeds.len());
            size += seeds.iter().map(|(_, seed)| seed.len()).sum::<usize>();
            assert!(size < 300_000, "{size} bytes of seeds: minimise them");
            seeds.into_iter().map(move |(path, seed)| (path.display().to_string(), target, seed))
        }));
    }

    /// A few of the inputs next to each seed: cut short, and with a bit turned.
    #[test]
    fn damaged_seeds_are_played_as_well() {
        play(
            TARGETS
                .into_iter()
                .flat_map(|(name, target)| seeds(name).into_iter().map(move |seed| (target, seed)))
                .flat_map(|(target, (path, seed))| {
                    let step = seed.len() / 6 + 1;
                    (0..seed.len()).step_by(step).flat_map(move |at| {
                        let mut turned = seed.clone();
                        turned[at] ^= 1 << (at % 8);
                        let name = |what: &str| format!("{}, {what} at {at}", path.display());
                        [(name("cut"), target, seed[..at].to_vec()), (name("turned"), target, turned)]
                    })
                }),
        );
    }

    #[test]
    fn the_payloads_of_github_are_played_where_they_stand() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/github");
        let mut played = 0;
        for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
            if file.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let event = file.file_stem().unwrap().to_str().unwrap();
            let payloads: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            for payload in payloads {
                let head = format!("/hooks/github\nx-github-event: {event}\nx-github-delivery: 1\n\n{payload}");
                crate::http::fuzz::request(head.as_bytes());
                played += 1;
            }
        }
        assert!(played > 400, "{played} payloads");
    }

    #[test]
    fn every_target_is_in_the_folder_and_the_other_way_round() {
        let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).unwrap();
        let bins = manifest.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
        let bins: BTreeSet<_> = bins.filter(|name| *name != "stagehook-fuzz").collect();
        assert_eq!(bins, TARGETS.iter().map(|(name, _)| *name).collect());
        for name in bins {
            let text = std::fs::read_to_string(folder().join(format!("fuzz_targets/{name}.rs"))).unwrap();
            assert!(text.contains(&format!("stagehook::fuzz::run(\"{name}\", data)")), "{text}");
        }
    }
}
