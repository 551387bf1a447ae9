//! What a link takes from the static library: fit for an enclave.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{has, library, made, run, secure_library};

/// What the C compiler itself asks of any freestanding program.
const ALLOWED: [&str; 5] = ["memcpy", "memmove", "memset", "memcmp", "bcmp"];
/// What an enclave can't execute, or the host could lie about.
const FORBIDDEN: [&str; 20] = [
    "syscall", "sysenter", "sysexit", "sysret", "int", "int1", "into", "cpuid", "xgetbv", "rdtsc",
    "rdtscp", "rdpmc", "rdrand", "rdseed", "in", "out", "ins", "outs", "rdfsbase", "wrfsbase",
];
/// The most bytes of code and constants, without secure streams.
const MOST_BYTES: u64 = 192 * 1024;

/// Symbols of an object or archive, by kind. Not through a plugin, which misreads Rust's members.
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

/// Every function of the header with what it needs, linked into one object.
fn linked(library: &Path, name: &str) -> PathBuf {
    let roots = super::header::declared();
    assert!(roots.len() > 65, "the functions of the header: {roots:?}");
    let object = made(name);
    let mut link = Command::new("ld");
    link.args(["-r", "--gc-sections", "-o"]).arg(&object);
    link.args(roots.iter().flat_map(|root| ["-u", root]));
    link.args(["-u", "g_process_ipc_ids"]).arg(library);
    run(&mut link);
    object
}

fn can_look() -> bool {
    ["cc", "ld", "nm", "objdump", "size"].into_iter().all(has)
}

#[test]
fn a_link_takes_nothing_of_an_operating_system() {
    if can_look() {
        let bytes = fit_for_an_enclave(&linked(library(), "all.o"));
        assert!(bytes <= MOST_BYTES, "{bytes} bytes");
    }
}

#[test]
fn nor_does_one_with_secure_streams() {
    if can_look() {
        fit_for_an_enclave(&linked(secure_library(), "all-secure.o"));
    }
}

/// What the names of functions have in them that end in a panic, or are there for one.
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

/// Which functions of an object each function refers to, by their names as the linker has them.
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
            // A section has the name of the only function in it.
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

/// The ways from functions of this crate to one that panics, a line each.
fn ways_to_a_panic(object: &Path) -> String {
    let references = references(object);
    let callers = |name: &str| {
        let calls = |(from, to): &(&String, &BTreeSet<String>)| to.contains(name) && *from != name;
        let callers = references.iter().filter(calls);
        callers.map(|(from, _)| from.clone()).collect::<Vec<_>>()
    };
    let is_ours = |name: &str| name.contains("libos_ipc") || !name.starts_with('_');
    let targets = references.values().flatten().filter(|name| is_panic(name));
    let targets: BTreeSet<_> = targets.cloned().collect();
    let mut seen = targets.clone();
    let mut ways: Vec<Vec<String>> = targets.into_iter().map(|name| vec![name]).collect();
    let mut whole = Vec::new();
    while let Some(way) = ways.pop() {
        let first = &way[0];
        if is_ours(first) {
            whole.push(way.join("\n    -> "));
            continue;
        }
        for caller in callers(first) {
            if is_ours(&caller) || seen.insert(caller.clone()) {
                ways.push([vec![caller], way.clone()].concat());
            }
        }
    }
    whole.join("\n")
}

/// A panic would end the enclave. That a linker finds no code for one is more than that nobody has
/// seen one.
#[test]
fn a_link_takes_nothing_that_can_panic() {
    if !can_look() {
        return;
    }
    let object = linked(library(), "all-panics.o");
    let mut found = symbols(&object).into_iter().map(|(_, name)| name);
    if let Some(name) = found.find(|name| is_panic(name)) {
        panic!(
            "{name} is linked in. These lead there:\n\n{}\n\
             Take what cannot panic instead: `get`, iterators, `split_at_checked`; for moves \
             and sorting there is `store::{{copy, make_gap, close_gap, sort}}`; for flags \
             `crate::sync::AtomicBool`. If nothing leads there, look at tables of functions.",
            ways_to_a_panic(&object)
        );
    }
}

/// Checks what was linked. How many bytes of code and constants it has.
fn fit_for_an_enclave(object: &Path) -> u64 {
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

    // Only what is executed is disassembled, and the mnemonic alone is looked at.
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

    // Thread-local storage would be a section of its own.
    let mut size = Command::new("size");
    size.args(["-A", "-d"]).arg(object);
    let (mut code, mut constants) = (0, 0);
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
        }
    }
    println!(
        "{}: {} KiB of code, {} KiB of constants",
        object.display(),
        code.div_ceil(1024),
        constants.div_ceil(1024)
    );
    code + constants
}
