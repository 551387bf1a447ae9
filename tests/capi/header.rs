//! The header against what C programs expect of it, and against the Rust code behind it.

use std::collections::BTreeSet;
use std::process::Command;

use cbindgen::{Builder, Config, ItemType, Language, Style};

use super::{file, has, made, run};

const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];

/// Has a file compiled, and nothing done with it.
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
fn has_all_names_that_c_programs_know_in_c_and_in_cpp() {
    let source = file("tests/capi/names.c");
    if has("cc") {
        compiles("cc", &["-std=c11", "-x", "c"], &source);
    }
    if has("c++") {
        compiles("c++", &["-std=c++17", "-x", "c++"], &source);
    }
}

/// What cbindgen makes of the Rust code.
fn generated(items: ItemType) -> String {
    let mut config = Config {
        language: Language::C,
        style: Style::Tag,
        documentation: false,
        no_includes: true,
        ..Config::default()
    };
    config.export.item_types = vec![items];
    // Only the linker asks for it.
    config.export.exclude = vec!["rust_eh_personality".to_owned()];
    config.layout.packed = Some("__attribute__((packed))".to_owned());
    let builder = Builder::new()
        .with_config(config)
        .with_src(file("src/capi/mod.rs"));
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap()
}

/// The names of functions that are declared.
fn functions(declarations: &str) -> BTreeSet<String> {
    // What follows a name in parentheses may itself have some.
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

/// The functions that the header declares.
pub(crate) fn declared() -> BTreeSet<String> {
    let mut preprocess = Command::new("cc");
    preprocess
        .args(["-E", "-P", "-std=c11"])
        .arg(file("include/libos_ipc.h"));
    let text = run(&mut preprocess);
    // Of what it includes nothing is of interest.
    let ours = text.find("enum libos_ipc_readiness").unwrap();
    functions(&text[ours..])
}

#[test]
fn declares_each_function_as_it_is() {
    if !has("cc") {
        return;
    }
    // Two declarations that differ are an error.
    let declarations = generated(ItemType::Functions);
    let source = made("functions.c");
    let text = format!("#include \"libos_ipc.h\"\n{declarations}\n");
    std::fs::write(&source, text).unwrap();
    // An array among the arguments is a pointer, but the header says how long it is.
    compiles("cc", &["-std=c11", "-Wno-array-parameter"], &source);

    // Those that take in a message are made by a macro, all alike.
    let is_callback = |name: &String| name.starts_with("ipc_") && name.ends_with("_callback");
    let without = |mut names: BTreeSet<String>| {
        names.retain(|name| !is_callback(name));
        names
    };
    let callbacks = declared().iter().filter(|name| is_callback(name)).count();
    assert_eq!(callbacks, 19, "one for each message, one for a lost child");
    assert_eq!(without(declared()), without(functions(&declarations)));
}

/// Each struct with its members, as cbindgen wrote them.
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
fn lays_each_struct_out_as_it_is() {
    if !has("cc") {
        return;
    }
    let structs = generated(ItemType::Structs);
    // Only what is defined gets another name, so that the rest speaks of the header's structs.
    let mut program = vec!["#include \"libos_ipc.h\"".to_owned()];
    program.extend(structs.lines().map(|line| match line.strip_suffix(" {") {
        Some(head) => format!("{head}_in_rust {{"),
        None => line.to_owned(),
    }));
    let mut checked = BTreeSet::new();
    let is_looked_into = |(name, _): &(&str, _)| *name != "sync_handle";
    for (name, members) in members(&structs).into_iter().filter(is_looked_into) {
        checked.insert(name);
        program.push(format!(
            "_Static_assert(sizeof(struct {name}) == sizeof(struct {name}_in_rust), \"{name}\");"
        ));
        for member in members {
            // Padding has a name in Rust, and some names are words of Rust.
            let in_c = match member {
                "spare" => continue,
                "kind" | "target" => "type",
                "this_process" => "self",
                other => other,
            };
            program.push(format!(
                "_Static_assert(offsetof(struct {name}, {in_c}) == \
                 offsetof(struct {name}_in_rust, {member}), \"{name}.{in_c}\");"
            ));
            // Of a truth value C may have written any bits.
            if member != "wrap_ids" {
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
        "self",
        "pid_kill",
    ] {
        assert!(checked.contains(&*format!("libos_ipc_{name}")), "{name}");
    }
    let source = made("structs.c");
    std::fs::write(&source, program.join("\n") + "\n").unwrap();
    // A handle is a name: the struct behind it is empty.
    compiles("cc", &["-std=c11", "-Wno-pedantic"], &source);
}
