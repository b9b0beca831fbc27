//! Finding a runtime: what happens when the library is not one. In a process of its own, because a process holds
//! one runtime.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::Command;

use forebay::model::Runtime;
use forebay::model::runtime::{Backend, Place, RuntimeError};

/// Set in the child that a test starts of itself.
const CHILD: &str = "FOREBAY_RUNTIME_CHILD";

#[test]
fn a_configured_library_that_cannot_be_used_is_an_error_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("libonnxruntime.so");
    std::fs::write(&text, "not a library").unwrap();
    let missing = folder.path().join("missing.so");
    let mut libraries = vec![text, missing, folder.path().to_owned()];
    // A library, but another one.
    libraries.extend(
        ["/lib/x86_64-linux-gnu/libm.so.6", "/usr/lib/libSystem.B.dylib"]
            .map(std::path::PathBuf::from)
            .into_iter()
            .filter(|path| path.exists()),
    );
    for library in libraries {
        let error = Runtime::find(Some(&library)).unwrap_err();
        let RuntimeError::Library { path, reason } = &error;
        assert_eq!(*path, library);
        assert!(!reason.is_empty());
        let text = error.to_string();
        assert!(text.contains(&*library.to_string_lossy()) && text.contains("\"tract\""), "{text}");
    }
    // Nothing was decided by that.
    let runtime = Runtime::find(Some(Path::new("tract"))).unwrap();
    assert_eq!((runtime.backend, runtime.name().as_str()), (Backend::Tract, "tract"));
}

#[test]
fn a_wrong_library_path_in_the_environment_is_passed_over_and_told() {
    if std::env::var_os(CHILD).is_some() {
        let runtime = Runtime::find(None).unwrap();
        let first = runtime.tried.first().unwrap();
        assert_eq!(
            (first.place, first.path.as_path()),
            (Place::Environment, Path::new("/no/such.so"))
        );
        assert!(first.reason.contains("No such file"), "{}", first.reason);
        // Something was found all the same: another library, or tract.
        assert_eq!(runtime.library.is_none(), runtime.backend == Backend::Tract);
        return;
    }
    let name = "a_wrong_library_path_in_the_environment_is_passed_over_and_told";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .env("ORT_DYLIB_PATH", "/no/such.so")
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
}
