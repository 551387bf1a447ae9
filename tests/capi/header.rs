//! `include/libos_ipc.h` against the names that C programs expect, and against the Rust code behind it. The oracles are
//! a C compiler, a C++ compiler and cbindgen.

use std::collections::BTreeSet;
use std::process::Command;

use cbindgen::{Builder, Config, ItemType, Language, Style};

use super::{file, has, path_for, run};

const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];

/// Checks that a file compiles.
fn compiles(compiler: &str, language: &[&str], source: &std::path::Path) {
    let mut compile = Command::new(compiler);
    compile
        .args(STRICT)
        .args(language)
        .arg("-fsyntax-only")
        .arg("-I")
        .arg(file("include"))
        .arg(source);
    run(&mut compile);
}

#[test]
fn the_header_compiles_as_c_and_cpp_with_all_expected_names() {
    let source = file("tests/capi/names.c");
    if has("cc") {
        compiles("cc", &["-std=c11", "-x", "c"], &source);
    }
    if has("c++") {
        compiles("c++", &["-std=c++17", "-x", "c++"], &source);
    }
}

/// Returns the declarations that cbindgen generates from the Rust code.
fn generated(items: ItemType) -> String {
    let mut config = Config {
        language: Language::C,
        style: Style::Tag,
        documentation: false,
        no_includes: true,
        ..Config::default()
    };
    config.export.item_types = vec![items];
    // A symbol for the linker, not for C programs; and the function of another header.
    config.export.exclude = vec![
        "rust_eh_personality".to_owned(),
        "libos_ipc_check_platform".to_owned(),
    ];
    config.layout.packed = Some("__attribute__((packed))".to_owned());
    let builder = Builder::new()
        .with_config(config)
        .with_src(file("src/capi/mod.rs"));
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap()
}

/// Returns the names of the declared functions.
fn functions(declarations: &str) -> BTreeSet<String> {
    // The arguments may contain parentheses.
    let mut names = BTreeSet::new();
    let mut depth = 0;
    for statement in declarations.split_inclusive([';', '{', '}']) {
        let outside = depth == 0;
        depth += i32::from(statement.ends_with('{')) - i32::from(statement.ends_with('}'));
        let Some(declaration) = statement.strip_suffix(';').filter(|_| outside) else {
            continue;
        };
        let Some((before, _)) = declaration.split_once('(') else {
            continue;
        };
        let name = before.rsplit(|c: char| !c.is_alphanumeric() && c != '_');
        names.extend(
            name.take(1)
                .filter(|name| !name.starts_with("__"))
                .map(str::to_owned),
        );
    }
    names
}

/// Returns the functions that a header declares from the text `first` on, so without those of the headers that it
/// includes.
fn declared_from(header: &str, first: &str) -> BTreeSet<String> {
    let mut preprocess = Command::new("cc");
    preprocess
        .args(["-E", "-P", "-std=c11", "-DLIBOS_IPC_PREFIXED"])
        .arg(file(header));
    let text = run(&mut preprocess);
    functions(&text[text.find(first).unwrap()..])
}

/// Returns the functions of the library, under their names with the prefix.
pub(crate) fn declared() -> BTreeSet<String> {
    declared_from("include/libos_ipc.h", "enum libos_ipc_readiness")
}

/// Returns the names of the C implementation.
pub(crate) fn seed_names() -> BTreeSet<String> {
    declared_from("include/libos_ipc_seed.h", "libos_ipc_id_t IDTYPE")
}

#[test]
fn the_header_declares_each_function_as_the_rust_code_defines_it() {
    if !has("cc") {
        return;
    }
    // The compiler reports two different declarations of a function as an error.
    let declarations = generated(ItemType::Functions);
    let source = path_for("functions.c");
    let text = format!("#include \"libos_ipc.h\"\n{declarations}\n");
    std::fs::write(&source, text).unwrap();
    // Rust declares a pointer where the header has an array, which states the length.
    compiles("cc", &["-std=c11", "-Wno-array-parameter"], &source);

    // A macro generates the `libos_ipc_*_callback` functions, which cbindgen does not see.
    let is_callback = |name: &String| name.starts_with("libos_ipc_") && name.ends_with("_callback");
    let without = |mut names: BTreeSet<String>| {
        names.retain(|name| !is_callback(name));
        names
    };
    let callbacks = declared().iter().filter(|name| is_callback(name)).count();
    assert_eq!(
        callbacks, 19,
        "one for each message and one for a child's end"
    );
    assert_eq!(without(declared()), without(functions(&declarations)));
}

/// Returns the structs in the output of cbindgen, with their members.
fn members(structs: &str) -> Vec<(&str, Vec<&str>)> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in structs.lines() {
        if let Some(head) = line.strip_suffix(" {") {
            found.push((head.rsplit(' ').next().unwrap(), Vec::new()));
        } else if let (Some(found), Some(member)) = (found.last_mut(), line.strip_suffix(';'))
            && line.starts_with(' ')
        {
            // `type name`, `type name[8]` or `type (*name)(arguments)`.
            let name = match member.split_once("(*") {
                Some((_, rest)) => rest.split(')').next(),
                None => member.rsplit([' ', '*']).next(),
            };
            found.1.push(name.unwrap().split('[').next().unwrap());
        }
    }
    found
}

#[test]
fn the_header_lays_out_each_struct_as_the_rust_code_does() {
    if !has("cc") {
        return;
    }
    let structs = generated(ItemType::Structs);
    // Only the definitions are renamed, so pointers in members refer to the structs of the header.
    let mut program = vec!["#include \"libos_ipc.h\"".to_owned()];
    program.extend(structs.lines().map(|line| match line.strip_suffix(" {") {
        Some(head) => format!("{head}_in_rust {{"),
        None => line.to_owned(),
    }));
    let mut checked = BTreeSet::new();
    let has_members = |(name, _): &(&str, _)| *name != "libos_ipc_sync_handle";
    for (name, members) in members(&structs).into_iter().filter(has_members) {
        checked.insert(name);
        program.push(format!(
            "_Static_assert(sizeof(struct {name}) == sizeof(struct {name}_in_rust), \"{name}\");"
        ));
        for member in members {
            // Padding has a name in Rust only, and some members are keywords of Rust.
            let in_c = match member {
                "padding" => continue,
                "kind" | "target" => "type",
                "this_process" => "self",
                other => other,
            };
            program.push(format!(
                "_Static_assert(offsetof(struct {name}, {in_c}) == \
                 offsetof(struct {name}_in_rust, {member}), \"{name}.{in_c}\");"
            ));
            // These are a `bool` in C and a `u8` in Rust.
            if !["wrap_ids", "require_secure"].contains(&member) {
                program.push(format!(
                    "_Static_assert(__builtin_types_compatible_p(\
                     __typeof__(((struct {name}*)0)->{in_c}), \
                     __typeof__(((struct {name}_in_rust*)0)->{member})), \"{name}.{in_c}\");"
                ));
            }
        }
    }
    for name in [
        "platform",
        "callbacks",
        "limits",
        "statistics",
        "ready",
        "identity",
        "process",
        "call_limit",
        "self",
        "pid_kill",
    ] {
        assert!(checked.contains(&*format!("libos_ipc_{name}")), "{name}");
    }
    let source = path_for("structs.c");
    std::fs::write(&source, program.join("\n") + "\n").unwrap();
    // The struct `libos_ipc_sync_handle` is empty in Rust, which is not pedantic C.
    compiles("cc", &["-std=c11", "-Wno-pedantic"], &source);
}

/// Returns the numbers above the picture of a payload in `docs/protocol.md`: where each field begins, and where the
/// last one ends.
fn picture_offsets(document: &str, name: &str) -> Vec<usize> {
    let line = document.lines().find(|line| {
        let after = line.split_once(&format!("{name} ")).map(|(_, after)| after);
        after.is_some_and(|after| after.trim_start().starts_with("0  "))
    });
    let (_, numbers) = line.unwrap().split_once(&format!("{name} ")).unwrap();
    let words = numbers.split_whitespace();
    let numbers = words.map_while(|word| {
        if word == "+" || word == "n" {
            Some(None)
        } else {
            word.parse().ok().map(Some)
        }
    });
    numbers.flatten().collect()
}

/// The members of each payload with its picture. A field without a member is padding.
const PAYLOADS: [(&str, &str, &str); 7] = [
    (
        "libos_ipc_cld_exit",
        "exit",
        "ppid pid uid exitcode term_signal",
    ),
    ("libos_ipc_pid_kill", "kill", "sender pid id signum type"),
    ("libos_ipc_pid_getmeta", "query", "pid code"),
    ("libos_ipc_pid_retmeta", "answer", "datasize ret_val data"),
    ("libos_ipc_sync", "sync", "id data_size state data"),
    (
        "libos_ipc_file_lock",
        "lock",
        "family type start end pid - handle_id wait path",
    ),
    (
        "libos_ipc_file_lock_resp",
        "held lock",
        "result family type - start end pid - handle_id",
    ),
];

#[test]
fn each_payload_has_the_layout_that_the_protocol_has() {
    if !has("cc") {
        return;
    }
    let document = std::fs::read_to_string(file("docs/protocol.md")).unwrap();
    let mut program = vec!["#define LIBOS_IPC_PREFIXED\n#include \"libos_ipc.h\"".to_owned()];
    for (name, picture, members) in PAYLOADS {
        let offsets = picture_offsets(&document, picture);
        let members: Vec<&str> = members.split(' ').collect();
        assert!(offsets.len() >= members.len(), "{picture}: {offsets:?}");
        for (member, offset) in members
            .into_iter()
            .zip(&offsets)
            .filter(|(member, _)| *member != "-")
        {
            program.push(format!(
                "_Static_assert(offsetof(struct {name}, {member}) == {offset}, \"{name}.{member}\");"
            ));
        }
    }
    let source = path_for("payloads.c");
    std::fs::write(&source, program.join("\n") + "\n").unwrap();
    compiles("cc", &["-std=c11"], &source);
}

#[test]
fn each_name_of_the_c_implementation_is_declared_besides_one_with_the_prefix() {
    if !has("cc") {
        return;
    }
    let (prefixed, seed) = (declared(), seed_names());
    assert_eq!(seed.len(), 61);
    assert!(prefixed.iter().all(|name| name.starts_with("libos_ipc_")));
    for name in seed {
        let other = match &*name {
            "sync_lock" => "libos_ipc_sync_lock_updated".to_owned(),
            "ipc_file_lock_set" | "ipc_file_lock_get" => format!("libos_{name}_key"),
            _ => format!("libos_ipc_{}", name.replace("ipc_", "").replace("_ipc", "")),
        };
        assert!(prefixed.contains(&other), "{name}: {other}");
    }
}
