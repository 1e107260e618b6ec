//! A directory of files: what counts, what is selected, what contradicts.

use stagehook::config::catalog::Catalog;
use stagehook::config::diagnostic::Severity;
use stagehook::domain::names::Source;

use crate::*;

/// A script may write into its working directory, which is the folder of the pipeline files.
#[test]
fn what_is_plainly_something_else_is_skipped_with_a_warning() {
    for (other, at) in [
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\n", 2),
        ("kind: Kustomization\nresources: []\n", 1),
        ("apiVersion: tekton.dev/v1\nkind: PipelineRun\n", 2),
        ("apiVersion: 1\nkind: Deployment\n", 2),
    ] {
        let folder = folder(&[
            ("a.yaml", native("    []\n").as_bytes()),
            ("b.yaml", format!("{other}---\n{}", native("    []\n").replace("name: a", "name: b")).as_bytes()),
            ("c.yaml", other.as_bytes()),
        ]);
        let (catalog, warnings) =
            Catalog::load(folder.path(), &DEFAULTS).unwrap_or_else(|faults| panic!("{faults:#?}"));
        assert_eq!(catalog.len(), 2, "{other}");
        let found: Vec<_> = warnings.iter().map(|w| (w.severity, w.file.ends_with("b.yaml"), w.line)).collect();
        assert_eq!(found, [(Severity::Warning, true, at), (Severity::Warning, false, at)], "{other}");
        assert!(warnings[0].message.contains("is no pipeline, and is left out"), "{}", warnings[0]);
    }
}

#[test]
fn what_may_be_meant_as_a_pipeline_is_never_skipped() {
    for text in [
        "spec: {}\n",
        "apiVersion: v1\n",
        "kind: Pipeline\n",
        "kind: Pipelin\n",
        "kind: KubernetesApp\n",
        "kind: 5\n",
        "apiVersion: tekton.dev/v1\nkind: Pipeline\n",
        "apiVersion: v1\nkind: TerraformApp\n",
        "apiVersion: stagehook.dev/v2\nkind: Stages\n",
        "apiVersion: stagehok.dev/v1\nkind: Stages\n",
        "apiVersion: pipecd.dev/v1\nkind: Piped\n",
        "apiVersion: pipedc.dev/v1beta1\nkind: Thing\n",
    ] {
        assert!(load(text).is_err(), "{text}");
    }
}

fn with_selector(name: &str, selector: &str) -> Vec<u8> {
    format!(
        "apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {{name: {name}}}\nspec:\n  selector: {selector}\n  stages: []\n"
    )
    .into_bytes()
}

#[test]
fn the_more_specific_selector_wins() {
    let folder = folder(&[
        ("1.yaml", &with_selector("all", "{}")),
        ("2.yaml", &with_selector("glob", "{name: \"pod*\"}")),
        ("3.yaml", &with_selector("longer", "{name: \"podi*\"}")),
        ("4.yaml", &with_selector("space", "{namespace: test}")),
        ("5.yaml", &with_selector("name", "{name: podinfo}")),
        ("6.yaml", &with_selector("both", "{name: podinfo, namespace: \"te*\"}")),
        ("7.yaml", &with_selector("cluster", "{name: podinfo, namespace: \"te*\", cluster: \"eu-*\"}")),
        ("8.yaml", &with_selector("source", "{name: podinfo, namespace: \"te*\", source: generic}")),
        ("ignored.txt", b"{"),
        (".hidden.yaml", b"{"),
    ]);
    std::fs::create_dir(folder.path().join("below.yaml")).unwrap();
    let (catalog, _) = Catalog::load(folder.path(), &DEFAULTS).unwrap_or_else(|faults| panic!("{faults:#?}"));
    for (source, application, name) in [
        (Source::Flagger, "test/podinfo", "both"),
        (Source::Generic, "test/podinfo", "source"),
        (Source::Flagger, "eu-1:test/podinfo", "cluster"),
        (Source::Flagger, "prod/podinfo", "name"),
        (Source::Flagger, "prod/podium", "longer"),
        (Source::Flagger, "test/pods/and/more", "glob"),
        (Source::Flagger, "test/other", "space"),
        (Source::Flagger, "prod/other", "all"),
    ] {
        let selected = catalog.select(source, &application.parse().unwrap()).unwrap();
        assert_eq!(selected.pipeline.name, name, "{application}");
    }
}

#[test]
fn ties_and_taken_names_name_both_files() {
    let folder = folder(&[
        ("1.yaml", &with_selector("a", "{name: \"pod*\"}")),
        ("2.yaml", &with_selector("b", "{name: \"pod*x\"}")),
        ("3.yaml", &with_selector("b", "{name: other}")),
        ("4.yaml", b"apiVersion: pipecd.dev/v1beta1\nkind: KubernetesApp\nspec:\n  name: other\n"),
        ("5.yaml", &with_selector("c", "{name: \"pos*\", source: githup}")),
    ]);
    let faults = Catalog::load(folder.path(), &DEFAULTS).unwrap_err();
    let at = |name: &str| format!("{}/{name}", folder.path().display());
    let found: Vec<_> =
        faults.iter().map(|f| (f.file.clone(), f.line, f.column, f.message.clone(), f.hint.clone().unwrap())).collect();
    assert_eq!(found.len(), 4, "{found:#?}");
    assert_eq!(found[0].3, "the source \"githup\" is not known");
    assert_eq!((&found[0].0, found[0].1, found[0].2), (&at("5.yaml"), 5, 36));
    assert_eq!((&found[1].0, found[1].1, found[1].2), (&at("3.yaml"), 3, 18));
    assert!(found[1].4.contains(&format!("{}:3", at("2.yaml"))));
    assert_eq!((&found[2].0, found[2].1, found[2].2), (&at("2.yaml"), 5, 3));
    assert!(found[2].3.contains(&format!("{}:5", at("1.yaml"))));
    assert_eq!((&found[3].0, found[3].1, found[3].2), (&at("4.yaml"), 4, 3));
}

#[test]
fn selectors_that_cannot_both_match_are_no_tie() {
    for (one, other, tied) in [
        ("{api,web}", "{db,cache}", false),
        ("[ab]*", "[cd]*", false),
        ("a?", "a???", false),
        ("*-{dev,stage}", "*-{prod,live}", false),
        ("*-{dev,stage}", "*-{prod,stage}", true),
    ] {
        let folder = folder(&[
            ("1.yaml", &with_selector("a", &format!("{{name: {one:?}}}"))),
            ("2.yaml", &with_selector("b", &format!("{{name: {other:?}}}"))),
        ]);
        match Catalog::load(folder.path(), &DEFAULTS) {
            Ok(_) => assert!(!tied, "{one} {other}"),
            Err(faults) => {
                assert!(
                    tied && faults[0].message.starts_with("this could select the same applications as"),
                    "{faults:#?}"
                );
            }
        }
    }
}

#[test]
fn several_documents_stand_in_one_file() {
    let mut text = with_selector("a", "{name: a}");
    text.extend(b"---\n");
    text.extend(with_selector("b", "{name: b}"));
    text.extend(b"---\n");
    let folder = folder(&[("a.yaml", &text)]);
    assert_eq!(Catalog::load(folder.path(), &DEFAULTS).unwrap().0.len(), 2);
}

#[test]
fn directories_that_are_empty_or_not_there() {
    let folder = folder(&[]);
    let (catalog, warnings) = Catalog::load(folder.path(), &DEFAULTS).unwrap();
    assert!(catalog.is_empty() && warnings[0].message == "it holds no pipeline");
    let missing = Catalog::load(&folder.path().join("no"), &DEFAULTS).unwrap_err();
    assert!(missing[0].message.starts_with("it can't be listed"));
    std::os::unix::fs::symlink("nowhere", folder.path().join("link.yaml")).unwrap();
    let broken = Catalog::load(folder.path(), &DEFAULTS).unwrap_err();
    assert!(broken[0].message.starts_with("it can't be read: No such file"), "{broken:?}");
}
