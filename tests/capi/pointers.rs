//! The sources of `src/capi` follow two rules about pointers from C. The tests search the source text.

use super::file;

/// Returns the source files of `src/capi`: path and text.
fn sources() -> Vec<(String, String)> {
    let read = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.display().to_string(), text)
    };
    let files = std::fs::read_dir(file("src/capi")).unwrap();
    files.map(|found| read(found.unwrap().path())).collect()
}

/// Only the caller can know that a pointer is valid, so the function is `unsafe`. A pointer to a `libos_ipc_sync_handle` is the
/// exception: it is looked up and never followed.
#[test]
fn a_function_that_takes_a_pointer_is_unsafe_to_call() {
    let mut count = 0;
    for (name, text) in sources() {
        for (at, _) in text.match_indices("extern \"C\" fn ") {
            let head = text[at..].split(['{', ';']).next().unwrap();
            let line = text[..at].rsplit('\n').next().unwrap();
            let is_pointer_type = line.contains(':') || head.starts_with("extern \"C\" fn (");
            if is_pointer_type || line.trim_start().starts_with("//") {
                continue;
            }
            count += 1;
            let mut pointers = head.replace("*mut libos_ipc_sync_handle", "name");
            pointers = pointers.replace("_: *mut c_void", "nothing");
            let takes_one = pointers.contains("*mut ") || pointers.contains("*const ");
            assert_eq!(takes_one, line.contains("unsafe"), "{name}: {line}{head}");
        }
    }
    assert!(count > 45, "only {count} functions were found");
}

/// Another thread of the program may change its memory at any time, and the target of a reference must not change. So
/// bytes are copied one by one, and no slice or string is made of memory of the library OS.
#[test]
fn no_reference_is_made_to_memory_that_c_may_change() {
    for (name, text) in sources() {
        for maker in ["from_raw_parts(", "CStr::from_ptr(", ".as_ref()"] {
            assert!(!text.contains(maker), "{name}: {maker}");
        }
        // The memory of the node belongs to the library for good.
        let whole = text.matches("from_raw_parts_mut(").count();
        assert_eq!(whole, usize::from(name.ends_with("setup.rs")), "{name}");
    }
}
