//! The worker processes and their protocol: see crates/kakusan/benches/worker.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::options::Setting;
use crate::{load, root};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub(crate) struct Worker {
    title: &'static str,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// One item of the list of work.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) flops: Option<f64>,
}

/// A worker's answer to `run`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Milliseconds(f64),
    /// It has no such item, or the layout makes no difference to it.
    None,
    Failed(String),
}

impl Worker {
    pub(crate) fn kakusan(program: &Path, setting: Setting) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("--configs").arg(root().join("configs"));
        command.args(["--threads", &setting.threads.to_string()]);
        command.args(["--vectors", if setting.avx2 { "avx2" } else { "widest" }]);
        setting.for_kakusan(&mut command);
        Self::start("Kakusan", command)
    }

    pub(crate) fn pytorch(python: &str, setting: Setting) -> Result<Self> {
        let mut command = Command::new(python);
        command.arg(root().join("xtask/bench/pytorch.py")).arg("--configs").arg(root().join("configs"));
        setting.for_pytorch(&mut command);
        // an interrupted torch.compile leaves a damaged cache that later runs fail on: use a new folder each time
        let compiled = root().join("target/bench/inductor");
        let _ = std::fs::remove_dir_all(&compiled);
        command.env("TORCHINDUCTOR_CACHE_DIR", compiled);
        Self::start("PyTorch", command)
    }

    /// Starts a worker of any kind.
    pub(crate) fn start(title: &'static str, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("cannot start {title}: {e}"))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok(Self { title, child, stdin, stdout: BufReader::new(stdout) }),
            _ => Err(format!("{title} has no stdin and stdout").into()),
        }
    }

    /// All items, and notes on them.
    pub(crate) fn list(&mut self) -> Result<(Vec<Item>, Vec<String>)> {
        let lines = self.ask_lines("list")?;
        let notes = lines.iter().filter_map(|line| Some(line.strip_prefix("note ")?.to_owned())).collect();
        Ok((lines.iter().filter_map(|line| parse_item(line)).collect(), notes))
    }

    /// The worker's description of itself.
    pub(crate) fn about(&mut self) -> Result<Vec<(String, String)>> {
        let lines = self.ask_lines("about")?;
        let pair = |line: &String| {
            let (key, value) = line.strip_prefix("about ")?.split_once('\t')?;
            Some((key.to_owned(), value.to_owned()))
        };
        Ok(lines.iter().filter_map(pair).collect())
    }

    pub(crate) fn run(&mut self, layout: &str, name: &str) -> Result<Answer> {
        self.say(&format!("run {layout} {name}"))?;
        let line = self.hear()?;
        parse_answer(&line).ok_or_else(|| format!("{} answered `{line}` to {name}", self.title).into())
    }

    /// Numbers that its generator for cards draws: `rand 0 1000` or `randn 0 1000`, with the seed and how many.
    pub(crate) fn draw(&mut self, what: &str) -> Result<Vec<f64>> {
        self.say(&format!("draw {what}"))?;
        let line = self.hear()?;
        let numbers = line.strip_prefix("numbers ");
        let numbers = numbers.ok_or_else(|| format!("{} answered `{line}` to draw {what}", self.title))?;
        Ok(numbers.split(' ').map(str::parse).collect::<std::result::Result<_, _>>()?)
    }

    /// The processor time that it and its ended children have used, if the system reports it.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        load::cpu_seconds(self.child.id())
    }

    fn ask_lines(&mut self, question: &str) -> Result<Vec<String>> {
        self.say(question)?;
        let mut lines = vec![];
        loop {
            match self.hear()? {
                line if line == "end" => return Ok(lines),
                line => lines.push(line),
            }
        }
    }

    fn say(&mut self, line: &str) -> Result<()> {
        let said = writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush());
        said.map_err(|_| format!("{} has ended; what it said is above", self.title).into())
    }

    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err(format!("{} has ended; what it said is above", self.title).into());
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Worker {
    /// The worker would end when its stdin closes; this does not wait for its current item.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse_item(line: &str) -> Option<Item> {
    let (name, flops) = line.strip_prefix("item ")?.split_once('\t')?;
    Some(Item { name: name.to_owned(), flops: flops.parse().ok() })
}

fn parse_answer(line: &str) -> Option<Answer> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("ms", ms) => ms.parse().ok().map(Answer::Milliseconds),
        ("none", "") => Some(Answer::None),
        ("failed", reason) => Some(Answer::Failed(reason.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_protocol() {
        let item = parse_item("item conv 5x5 1-32\t1600").unwrap();
        assert_eq!(item, Item { name: "conv 5x5 1-32".into(), flops: Some(1600.0) });
        assert_eq!(parse_item("item step a.toml b4\t-").unwrap().flops, None);
        assert_eq!(parse_item("note that"), None);
        assert_eq!(parse_answer("ms 12.5"), Some(Answer::Milliseconds(12.5)));
        assert_eq!(parse_answer("none"), Some(Answer::None));
        assert_eq!(parse_answer("failed no such op"), Some(Answer::Failed("no such op".into())));
        assert_eq!(parse_answer("Traceback (most recent call last):"), None);
        assert_eq!(parse_answer("ms soon"), None);
    }
}
