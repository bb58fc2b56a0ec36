//! Checks the invariants of ARCHITECTURE.md that can be seen in the source.

mod book;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::root;

/// Which of our crates a crate may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("rng", &[]),
    ("ops", &[]),
    ("distributed", &[]),
    ("hub", &[]),
    ("scheduler", &["config", "rng"]),
    ("weights", &["config"]),
    ("models", &["config", "ops", "rng", "weights"]),
    ("data", &["hub", "rng"]),
    ("pipeline", &["config", "rng", "ops", "distributed", "scheduler", "weights", "models", "data", "hub"]),
    ("eval", &["rng", "ops", "weights", "models", "data", "pipeline"]),
    ("report", &["rng", "scheduler", "weights", "data", "pipeline", "eval"]),
    (
        "kakusan",
        &["rng", "ops", "distributed", "scheduler", "weights", "models", "data", "hub", "pipeline", "eval", "report"],
    ),
    ("serve", &["config"]), // and the facade
    ("cli", &["serve"]),    // and the facade
];
/// Code that is allowed in some places only: the rule, the code, and the beginnings of the paths where it is allowed.
const RESERVED: &[(&str, &[&str], &[&str])] = &[
    (
        "only hub, distributed and serve talk to the network",
        &["std::net", "tokio::net"],
        &["crates/hub/", "crates/distributed/", "crates/serve/"],
    ),
    ("only hub talks to the Hub", &["hf_hub::"], &["crates/hub/"]),
    ("only hub and the command read the environment", &["env::var"], &["crates/hub/", "crates/cli/"]),
    (
        "rng, ops, scheduler and models touch no file",
        &["std::fs", "fs::", "File::open", "File::create"],
        &[
            "crates/weights/",
            "crates/data/",
            "crates/hub/",
            "crates/pipeline/",
            "crates/eval/",
            "crates/report/",
            "crates/serve/",
            "crates/cli/",
        ],
    ),
    ("all randomness comes from rng", &["Tensor::rand", "rand::", "rand_like", "randn_like"], &["crates/rng/"]),
    ("only the command prints", &["println!", "print!", "process::exit"], &["crates/cli/"]),
    ("unsafe stays in ops", &["unsafe {", "unsafe fn", "unsafe impl"], &["crates/ops/"]),
    ("a call's context is passed to it", &["thread_local!"], &["crates/weights/"]),
    ("libraries do not panic", &[".unwrap()", ".expect(", "panic!(", "unreachable!(", "todo!("], &[]),
];
/// Where comments and messages are checked (`tidy/text.rs`).
const CHECKED_TEXT: [&str; 5] = ["crates", "examples", "tests", "fuzz/src", "fuzz/fuzz_targets"];
const MAX_LINES: usize = 600;
const MAX_CONFIG_LINES: usize = 40;

pub(crate) fn run() -> crate::Result {
    let problems = problems()?;
    problems.iter().for_each(|problem| println!("{problem}"));
    println!("{} problems", problems.len());
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn problems() -> std::io::Result<Vec<String>> {
    let mut problems = vec![];
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    for (name, may_use) in MAY_USE {
        let dir = root().join("crates").join(name);
        for used in uses(&fs::read_to_string(dir.join("Cargo.toml"))?) {
            if !may_use.contains(&used.as_str()) {
                problems.push(format!("crates/{name}: may not use kakusan-{used}"));
            }
        }
        let lib = dir.join("src/lib.rs");
        if lib.is_file() && !fs::read_to_string(lib)?.contains("#![deny(missing_docs)]") {
            problems.push(format!("crates/{name}/src/lib.rs: #![deny(missing_docs)] is missing"));
        }
        if !architecture.contains(&format!("`crates/{name}`")) {
            problems.push(format!("ARCHITECTURE.md: `crates/{name}` is missing"));
        }
        for file in rust_files(&dir.join("src"))? {
            problems.extend(source_problems(&relative(&file), &fs::read_to_string(&file)?));
        }
    }
    for entry in fs::read_dir(root().join("crates"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !MAY_USE.iter().any(|(known, _)| *known == name) {
            problems.push(format!("crates/{name}: add it to MAY_USE in xtask/src/tidy.rs"));
        }
    }
    for entry in fs::read_dir(root().join("configs"))? {
        let path = entry?.path();
        let lines = fs::read_to_string(&path)?.lines().count();
        if lines > MAX_CONFIG_LINES {
            problems.push(format!("{}: {lines} lines, at most {MAX_CONFIG_LINES}", relative(&path)));
        }
    }
    problems.extend(backend_problems()?);
    for dir in CHECKED_TEXT {
        for file in rust_files(&root().join(dir))? {
            problems.extend(text::source(&relative(&file), &fs::read_to_string(&file)?));
        }
    }
    for path in documents()? {
        problems.extend(text::document(&relative(&path), &fs::read_to_string(&path)?));
    }
    problems.extend(book::problems(&root())?);
    for path in linked_documents()? {
        let (path, text) = (relative(&path), fs::read_to_string(&path)?);
        problems.extend(book::dead_links(&path, &text, &root()));
        problems.extend(book::unknown_verbs(&path, &text, crate::HELP));
    }
    let files = ["crates", "examples", "tests", "xtask"].map(|dir| rust_files(&root().join(dir)));
    let files = files.into_iter().collect::<std::io::Result<Vec<_>>>()?.concat();
    let files: Vec<String> = files.iter().map(|file| relative(file)).collect();
    for name in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        problems.extend(text::missing_files(name, &fs::read_to_string(root().join(name))?, &root(), &files));
    }
    let readme = fs::read_to_string(root().join("README.md"))?;
    for command in ["cargo xtask train --config configs/184.toml", "cargo test --workspace"] {
        if !readme.contains(command) {
            problems.push(format!("README.md: `{command}` is missing"));
        }
    }
    Ok(problems)
}

/// The seam for devices in `ops`: one `match` selects the backend, and no operation names one.
fn backend_problems() -> std::io::Result<Vec<String>> {
    let (mut problems, mut selections) = (vec![], 0);
    for file in rust_files(&root().join("crates/ops/src"))? {
        let (path, text) = (relative(&file), fs::read_to_string(&file)?);
        for (number, line) in without_tests(&text) {
            selections += line.matches(".on::<Cpu>()").count();
            let names =
                ["kernels::cpu", "kernels::reference", ".is_cpu()"].into_iter().find(|name| line.contains(name));
            if let Some(name) = names.filter(|_| path.starts_with("crates/ops/src/op/")) {
                problems.push(format!("{path}:{}: an operation does not know its backend: {name}", number + 1));
            }
        }
    }
    if selections != 1 {
        problems.push(format!("crates/ops: {selections} places select a backend; it must be BackendKind::run alone"));
    }
    Ok(problems)
}

/// The Markdown documents of the root and of the crates, and the English pages of the book. Those of `docs` itself are
/// written by programs; a Japanese paragraph is one line, because a line break would become a space.
fn documents() -> std::io::Result<Vec<PathBuf>> {
    let mut documents = vec![root().join("fuzz/README.md"), root().join("tests/golden/README.md")];
    let crates = fs::read_dir(root().join("crates"))?.flatten().map(|entry| entry.path());
    for dir in crates.chain([root(), root().join("docs/book/src/en")]) {
        documents.extend(markdown(&dir)?);
    }
    documents.sort();
    Ok(documents)
}

/// All Markdown documents.
fn linked_documents() -> std::io::Result<Vec<PathBuf>> {
    let mut documents = documents()?;
    for dir in ["docs", "docs/runs", "docs/book/src", "docs/book/src/ja"] {
        documents.extend(markdown(&root().join(dir))?);
    }
    Ok(documents)
}

fn markdown(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let files = fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    Ok(files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect())
}

/// Our crates under `[dependencies]`, without their prefix.
fn uses(manifest: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let own = lines.take_while(|line| !line.starts_with('[')).filter_map(|line| line.strip_prefix("kakusan-"));
    own.filter_map(|line| Some(line.split(['.', ' ', '=']).next()?.to_owned())).collect()
}

/// The problems of one file of a library, except in code that is compiled only for tests.
fn source_problems(path: &str, text: &str) -> Vec<String> {
    let mut problems = vec![];
    let lines = text.lines().count();
    if lines > MAX_LINES {
        problems.push(format!("{path}: {lines} lines, at most {MAX_LINES}"));
    }
    let code = without_tests(text).into_iter();
    for (number, line) in code.filter(|(_, line)| !line.trim_start().starts_with("//")) {
        for (rule, words, allowed) in RESERVED {
            if !allowed.iter().any(|place| path.starts_with(place)) && words.iter().any(|word| says(line, word)) {
                problems.push(format!("{path}:{}: {rule}: {}", number + 1, line.trim()));
            }
        }
    }
    problems
}

/// The lines of a file with their numbers from 0, but for the items under `#[cfg(test)]`: none of a file that begins
/// with `#![cfg(test)]`. In what rustfmt writes, an item ends where a line as far in as its attribute ends with a
/// semicolon, a comma or a brace.
fn without_tests(text: &str) -> Vec<(usize, &str)> {
    let mut code = vec![];
    if text.starts_with("#![cfg(test)]") {
        return code;
    }
    let mut test: Option<usize> = None;
    for (number, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        match test {
            Some(of) => {
                let ends = line.ends_with([';', '}', ',']) && !line.trim_start().starts_with("//");
                if indent == of && ends && !line.trim_start().starts_with("#[") {
                    test = None;
                }
            }
            None if line.trim_start().starts_with("#[cfg(test)]") => test = Some(indent),
            None => code.push((number, line)),
        }
    }
    code
}

/// Whether `line` contains `word`, and not only as the end of a longer name (`kakusan_rng::` does not contain `rng::`).
fn says(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_') || !word.starts_with(|c: char| c.is_alphanumeric())
    })
}

fn rust_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = vec![];
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        assert_eq!(problems().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn broken_invariants_are_seen() {
        let found = |path: &str, line: &str| source_problems(path, line).len();
        assert_eq!(found("crates/ops/src/lib.rs", "let x = Tensor::randn(0f32, 1., 3, &dev);"), 1);
        assert_eq!(found("crates/scheduler/src/ddpm.rs", "std::fs::read(path)"), 1);
        assert_eq!(found("crates/weights/src/file.rs", "std::fs::read(path)"), 0);
        assert_eq!(found("crates/pipeline/src/lib.rs", "value.unwrap()"), 1);
        assert_eq!(found("crates/pipeline/src/lib.rs", "// value.unwrap()"), 0);
        assert_eq!(found("crates/pipeline/src/lib.rs", "use kakusan_rand::x;"), 0);
        assert_eq!(found("crates/hub/src/lib.rs", &"\n".repeat(601)), 1);
        let whole = "#![cfg(test)]\n\nfn f() {\n    x.unwrap();\n}\n";
        assert_eq!(found("crates/pipeline/src/trainer/tests.rs", whole), 0);
        let after_tests = "#[cfg(test)]\nmod tests;\n\nfn f() {\n    x.unwrap();\n}\n";
        assert_eq!(found("crates/pipeline/src/lib.rs", after_tests), 1);
        let within = "impl X {\n    #[cfg(test)]\n    fn f(x: Y) {\n        x.unwrap();\n    }\n\n    fn g() {\n        y.unwrap();\n    }\n}\n";
        assert_eq!(source_problems("crates/pipeline/src/lib.rs", within).len(), 1);
        assert_eq!(
            found(
                "crates/pipeline/src/lib.rs",
                "#[cfg(test)]\nmod tests {\n    fn f() {\n        x.unwrap();\n    }\n}\n"
            ),
            0
        );
        assert_eq!(
            uses("[dependencies]\nkakusan-rng.workspace = true\nserde = \"1\"\n[dev-dependencies]\nkakusan-x = 1\n"),
            ["rng"]
        );
    }
}
