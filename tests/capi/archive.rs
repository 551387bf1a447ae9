//! The linked static library fits into an enclave: it needs no operating system, has no forbidden instruction and no
//! code for a panic. `nm`, `objdump` and `size` are the oracles.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::{file, has, library, path_for, run, whole_library};

/// The symbols that a C compiler requires of any freestanding program.
const ALLOWED: [&str; 5] = ["memcpy", "memmove", "memset", "memcmp", "bcmp"];
/// Instructions that an enclave cannot execute, or whose result the host can forge.
const FORBIDDEN: [&str; 20] = [
    "syscall", "sysenter", "sysexit", "sysret", "int", "int1", "into", "cpuid", "xgetbv", "rdtsc",
    "rdtscp", "rdpmc", "rdrand", "rdseed", "in", "out", "ins", "outs", "rdfsbase", "wrfsbase",
];
/// The limit for the code and the constants of all functions of the header in bytes, without secure streams.
const MAX_ALL: u64 = 220 * 1024;
/// The same limit for the names of the C implementation, which a library OS that adds no calls of its own links.
const MAX_SEED: u64 = 149 * 1024;

/// Returns the symbols of an object or archive, with their kind. The plugin of `nm` is off, because it misreads Rust
/// objects.
fn symbols(object: &Path) -> Vec<(char, String)> {
    let mut nm = Command::new("nm");
    nm.arg("--plugin=/nonexistent").arg(object);
    let text = run(&mut nm);
    let symbol = |line: &str| {
        let mut words = line.split_whitespace().rev();
        let name = words.next()?;
        let kind = words.next()?.chars().next()?;
        Some((kind, name.to_owned()))
    };
    text.lines().filter_map(symbol).collect()
}

/// Links every function of the header, and the code that it needs, into one object.
fn linked(library: &Path, name: &str) -> PathBuf {
    let roots = super::header::declared();
    assert!(roots.len() > 90, "the functions of the header: {roots:?}");
    let object = path_for(name);
    let mut link = Command::new("ld");
    link.args(["-r", "--gc-sections", "-o"]).arg(&object);
    link.args(roots.iter().flat_map(|root| ["-u", root]));
    link.args(["-u", "libos_ipc_process_ids"]).arg(library);
    run(&mut link);
    object
}

pub(super) fn has_tools() -> bool {
    ["cc", "ld", "nm", "objcopy", "objdump", "size"]
        .into_iter()
        .all(has)
}

#[test]
fn a_linked_library_needs_nothing_of_an_operating_system() {
    if has_tools() {
        check_for_enclave(&linked(library(), "all.o"));
    }
}

/// Returns the directory of the archives that `arch/c/archive.sh` ships.
pub(super) fn shipped() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        // As for `make install`.
        let directory = path_for("target/c");
        let mut ship = Command::new("sh");
        ship.arg(file("arch/c/archive.sh")).arg(&directory);
        ship.env("CARGO", env!("CARGO")).env_remove("RUSTFLAGS");
        run(&mut ship);
        directory
    })
}

/// Links a whole program without removing sections, as a plain linker does, and returns what the archive adds to it.
fn plain_link(archive: &str) -> Size {
    let archive = shipped().join(archive);
    check_for_enclave(&{
        let object = path_for("plain.o");
        let mut link = Command::new("ld");
        link.args(["-r", "--whole-archive", "-o"]).arg(&object);
        run(link.arg(archive));
        object
    })
}

#[test]
fn a_plain_link_of_the_shipped_archives_takes_at_most_what_the_guide_states() {
    if !has_tools() {
        return;
    }
    for (archive, most) in [
        ("liblibos_ipc.a", MAX_ALL),
        ("liblibos_ipc_prefixed.a", MAX_ALL),
        ("liblibos_ipc_seed.a", MAX_SEED),
    ] {
        let size = plain_link(archive);
        let bytes = size.code + size.constants + size.unwind_tables;
        println!("{archive}: {bytes} bytes");
        assert!(bytes <= most, "{archive}: {bytes} bytes");
    }
}

/// Returns the global symbols that a shipped archive defines.
fn defined(archive: &str) -> BTreeSet<String> {
    let symbols = symbols(&shipped().join(archive)).into_iter();
    let is_defined = |(kind, _): &(char, String)| kind.is_uppercase() && *kind != 'U';
    symbols.filter(is_defined).map(|(_, name)| name).collect()
}

#[test]
fn the_shipped_archives_define_the_names_of_the_headers_and_no_others() {
    if !has_tools() {
        return;
    }
    let mut prefixed = super::header::declared();
    prefixed.insert("libos_ipc_process_ids".to_owned());
    assert_eq!(defined("liblibos_ipc_prefixed.a"), prefixed);
    let mut all = &super::header::seed_names() | &prefixed;
    all.insert("g_process_ipc_ids".to_owned());
    assert_eq!(defined("liblibos_ipc.a"), all);
}

#[test]
fn a_program_with_functions_of_its_own_of_these_names_links_with_the_prefixed_archive() {
    if !has_tools() {
        return;
    }
    let source = path_for("own_names.c");
    let text = "#define LIBOS_IPC_PREFIXED\n#include \"libos_ipc.h\"\n\
        struct libos_file_lock { struct libos_file_lock *next, *prev; int family, type; uint64_t start, end; uint32_t pid; uint64_t handle_id; };\n\
        enum kill_type { KILL_THREAD = 7 };\n\
        int file_lock_set(void* dentry, struct libos_file_lock* lock);\n\
        int file_lock_set(void* dentry, struct libos_file_lock* lock) {\n\
            struct libos_ipc_lock converted = {LIBOS_IPC_LOCK_POSIX, lock->type, lock->start, lock->end, 1, 0};\n\
            return libos_ipc_file_lock_set(dentry, &converted, false);\n\
        }\n\
        int main(void) {\n\
            struct libos_file_lock lock = {0};\n\
            _Static_assert(sizeof(lock) == 56 && offsetof(struct libos_file_lock, start) == 24, \"as in the C implementation\");\n\
            return file_lock_set(\"file\", &lock) == -22 ? 0 : 1;\n\
        }\n";
    std::fs::write(&source, text).unwrap();
    let program = path_for("own_names");
    let mut compile = Command::new("cc");
    compile.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"]);
    compile
        .arg(file("include"))
        .arg("-o")
        .arg(&program)
        .arg(&source);
    run(compile.arg(shipped().join("liblibos_ipc_prefixed.a")));
    run(&mut Command::new(program));
}

#[test]
fn a_linked_library_with_all_features_needs_nothing_of_an_operating_system() {
    if has_tools() {
        check_for_enclave(&linked(whole_library(), "whole.o"));
    }
}

/// Parts of the names of functions that panic or prepare a panic.
const PANICS: [&str; 7] = [
    "panic",
    "rust_begin_unwind",
    "unwrap_failed",
    "expect_failed",
    "index_fail",
    "mismatch_fail",
    "handle_alloc_error",
];

fn is_panic(name: &str) -> bool {
    PANICS.iter().any(|part| name.contains(part))
}

/// Returns the functions that each function of an object refers to, by symbol name.
fn references(object: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut objdump = Command::new("objdump");
    objdump.args(["-dr", "--no-show-raw-insn"]).arg(object);
    let text = run(&mut objdump);
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut function = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(">:").and_then(|l| l.split_once('<')) {
            name.1.clone_into(&mut function);
        } else if let Some((_, to)) = line.split_once(": R_X86_64_")
            && let Some(to) = to.split_whitespace().nth(1)
        {
            // Each function has a section of its own, which has the function's name.
            let to = to.strip_prefix(".text.").unwrap_or(to);
            let name = to.rsplit_once(['-', '+']).map_or(to, |(name, _)| name);
            found
                .entry(function.clone())
                .or_default()
                .insert(name.to_owned());
        }
    }
    found
}

/// Returns the call paths from functions of this crate to a panic, one path a line.
fn panic_paths(object: &Path) -> String {
    let references = references(object);
    let callers = |name: &str| {
        let calls = |(from, to): &(&String, &BTreeSet<String>)| to.contains(name) && *from != name;
        let callers = references.iter().filter(calls);
        callers.map(|(from, _)| from.clone()).collect::<Vec<_>>()
    };
    let is_of_this_crate = |name: &str| name.contains("libos_ipc") || !name.starts_with('_');
    let targets = references.values().flatten().filter(|name| is_panic(name));
    let targets: BTreeSet<_> = targets.cloned().collect();
    let mut seen = targets.clone();
    let mut paths: Vec<Vec<String>> = targets.into_iter().map(|name| vec![name]).collect();
    let mut found = Vec::new();
    while let Some(path) = paths.pop() {
        let first = &path[0];
        if is_of_this_crate(first) {
            found.push(path.join("\n    -> "));
            continue;
        }
        for caller in callers(first) {
            if is_of_this_crate(&caller) || seen.insert(caller.clone()) {
                paths.push([vec![caller], path.clone()].concat());
            }
        }
    }
    found.join("\n")
}

/// A panic ends the enclave. If the linker finds no code for a panic, there is no input that causes one.
#[test]
fn a_linked_library_contains_no_panic() {
    if !has_tools() {
        return;
    }
    let object = linked(library(), "all-panics.o");
    let mut found = symbols(&object).into_iter().map(|(_, name)| name);
    if let Some(name) = found.find(|name| is_panic(name)) {
        panic!(
            "{name} is linked in. These call paths lead to it:\n\n{}\n\
             Use functions that cannot panic: `get`, iterators, `split_at_checked`; for moves \
             and sorting `store::{{copy, make_gap, close_gap, sort}}`; for flags \
             `crate::sync::AtomicBool`. If there is no path, look for it in tables of functions.",
            panic_paths(&object)
        );
    }
}

/// The code, the constants and the unwind tables of an object in bytes.
struct Size {
    code: u64,
    constants: u64,
    unwind_tables: u64,
}

/// Checks the symbols and instructions of an object. Returns its size.
fn check_for_enclave(object: &Path) -> Size {
    for (kind, name) in symbols(object) {
        assert!(
            kind != 'U' || ALLOWED.contains(&&*name),
            "{name} is not in the library"
        );
        let is_runtime = [
            "__rust_alloc",
            "__rdl_",
            "_Unwind_",
            "pthread_",
            "__tls_get_addr",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix));
        assert!(!is_runtime, "{name}");
    }

    // Only executable sections are disassembled, and only the mnemonic is compared.
    let mut objdump = Command::new("objdump");
    objdump
        .args(["-d", "--no-show-raw-insn", "-M", "intel"])
        .arg(object);
    let mut instructions: BTreeMap<String, usize> = BTreeMap::new();
    let text = run(&mut objdump);
    for line in text.lines() {
        let Some((_, instruction)) = line.split_once(":\t") else {
            continue;
        };
        let mnemonic = instruction
            .split_whitespace()
            .find(|word| !["lock", "rep", "repz", "repnz", "cs", "ds", "data16"].contains(word));
        *instructions
            .entry(mnemonic.unwrap_or("").to_owned())
            .or_default() += 1;
        assert!(
            !instruction.contains("fs:") && !instruction.contains("gs:"),
            "the thread register is the application's: {line}"
        );
    }
    let count: usize = instructions.values().sum();
    assert!(count > 10_000, "it was disassembled: {count} instructions");
    for forbidden in FORBIDDEN {
        assert!(!instructions.contains_key(forbidden), "{forbidden}");
    }
    size_of_object(object)
}

/// Returns the size of an object, which must have no thread-local storage.
fn size_of_object(object: &Path) -> Size {
    // Thread-local storage has sections of its own.
    let mut size = Command::new("size");
    size.args(["-A", "-d"]).arg(object);
    let (mut code, mut constants, mut unwind_tables) = (0, 0, 0);
    for line in run(&mut size).lines() {
        let mut words = line.split_whitespace();
        let (Some(section), Some(bytes)) = (words.next(), words.next()) else {
            continue;
        };
        assert!(
            !section.starts_with(".tdata") && !section.starts_with(".tbss"),
            "{line}"
        );
        let bytes: u64 = bytes.parse().unwrap_or(0);
        if section.starts_with(".text") {
            code += bytes;
        } else if section.starts_with(".rodata") || section.starts_with(".data.rel.ro") {
            constants += bytes;
        } else if section.starts_with(".eh_frame") || section.starts_with(".gcc_except_table") {
            unwind_tables += bytes;
        }
    }
    println!(
        "{}: {} KiB of code, {} KiB of constants, {} KiB of unwind tables",
        object.display(),
        code.div_ceil(1024),
        constants.div_ceil(1024),
        unwind_tables.div_ceil(1024)
    );
    Size {
        code,
        constants,
        unwind_tables,
    }
}
