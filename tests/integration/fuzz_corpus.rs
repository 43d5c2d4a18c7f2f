//! What the fuzz targets of `fuzz/` check, over their corpus: seeds, and inputs that once showed a bug.

use std::{fs, path::Path};

#[path = "../../fuzz/checks.rs"]
mod checks;

fn each(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("a corpus") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        check(&fs::read(path).expect("a readable file"));
        count += 1;
    }
    assert!(count > 3, "the corpus of {target} is not where this test looks for it");
}

#[test]
fn frames() {
    each("frames", checks::frames);
}

#[test]
fn merge() {
    each("merge", checks::merge);
}

#[test]
fn selector() {
    each("selector", checks::selector);
}

#[test]
fn manifest() {
    each("manifest", checks::manifest);
}
