//! Schedulers built from other schedulers' configurations, beside diffusers' `from_config`: 2,000 swaps in chains, in
//! memory and from saved text, key by key. `tests/golden/scheduler_swaps.py` wrote them down.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use kakusan_config::{Config, from_json};
use kakusan_scheduler::{Registry, Scheduler, to_json};
use serde_json::Value;

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// The swaps of diffusers.
struct Golden {
    defaults: Config,
    lists: Vec<Value>,
    chains: Vec<Value>,
}

impl Golden {
    fn read() -> TestResult<Self> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/scheduler_swaps.json.gz");
        let mut text = String::new();
        flate2::read::GzDecoder::new(std::fs::File::open(path)?).read_to_string(&mut text)?;
        let mut whole = from_json(&text)?;
        let mut take = |key: &str| whole.remove(key).ok_or(format!("the file has no {key}"));
        let (defaults, lists, chains) = (take("defaults")?, take("lists")?, take("chains")?);
        let list = |value: Value| value.as_array().cloned().ok_or("not a list");
        Ok(Self {
            defaults: defaults.as_object().cloned().ok_or("not an object")?,
            lists: list(lists)?,
            chains: list(chains)?,
        })
    }

    /// A configuration whose long lists are in it.
    fn whole(&self, config: &Value) -> Config {
        let mut config = config.as_object().cloned().unwrap_or_default();
        for value in config.values_mut() {
            if let Some(place) = value.get("list").and_then(Value::as_u64) {
                *value = self.lists[place as usize].clone();
            }
        }
        config
    }

    /// All that diffusers saves of a scheduler, of which `saved` holds what is not the default.
    fn file(&self, class_name: &str, saved: &Value) -> Config {
        let mut config = self.whole(&self.defaults[class_name]);
        config.extend(self.whole(saved));
        config.insert("_class_name".into(), class_name.into());
        config
    }
}

#[test]
fn swaps_are_diffusers_own() -> TestResult {
    let (golden, registry) = (Golden::read()?, Registry::default());
    let (mut swaps, mut sampled, mut wrong) = (0, 0, vec![]);
    for chain in &golden.chains {
        let mut class_name = chain["class"].as_str().unwrap_or_default();
        let mut given = golden.whole(&chain["given"]);
        let mut history = format!("{class_name} {}", Value::from(given.clone()));
        let first = match chain["from"].as_str() {
            Some("file") => {
                given.insert("_class_name".into(), class_name.into());
                registry.from_json(&kakusan_config::to_json(&given))
            }
            _ => registry.build(class_name, &given),
        };
        let mut then = chain["then"].as_array().into_iter().flatten();
        let (saved, timesteps) = (chain["saved"].as_array(), chain["timesteps"].as_array());
        let mut scheduler = first;
        for (saved, timesteps) in saved.into_iter().flatten().zip(timesteps.into_iter().flatten()) {
            match &scheduler {
                Ok(ours) => {
                    let theirs = golden.file(class_name, saved);
                    wrong.extend(compare(ours, &theirs)?.map(|difference| format!("{history}: {difference}")));
                    let apart = compare_timesteps(ours, timesteps).map(|difference| format!("{history}: {difference}"));
                    sampled += usize::from(!timesteps.is_null());
                    wrong.extend(apart);
                }
                // what diffusers builds and cannot sample with may be refused at once
                Err(_) if timesteps.is_null() => {}
                Err(e) => wrong.push(format!("{history}: {e}")),
            }
            let (Some(next), Ok(ours)) = (then.next(), &scheduler) else { break };
            class_name = next[1].as_str().unwrap_or_default();
            history = format!("{history} -> {} {class_name}", next[0]);
            scheduler = match next[0].as_str() {
                Some("disk") => registry.from_config(class_name, &from_json(&to_json(ours.as_ref()))?),
                _ => registry.from_config(class_name, &ours.config()),
            };
            swaps += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of {swaps} swaps differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(swaps >= 2000 && sampled >= 2000, "only {swaps} swaps, {sampled} schedulers that sample");
    Ok(())
}

/// The keys that differ from what diffusers saves.
fn compare(ours: &Arc<dyn Scheduler>, theirs: &Config) -> TestResult<Option<String>> {
    let mut ours = from_json(&to_json(ours.as_ref()))?;
    ours.remove("_diffusers_version");
    let keys: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let differ = keys.into_iter().filter(|key| ours.get(*key) != theirs.get(*key));
    let differ: Vec<String> =
        differ.map(|key| format!("{key} is {:?}, of diffusers {:?}", ours.get(key), theirs.get(key))).collect();
    Ok((!differ.is_empty()).then(|| differ.join("; ")))
}

/// The first run whose timesteps differ from diffusers'.
fn compare_timesteps(ours: &Arc<dyn Scheduler>, theirs: &Value) -> Option<String> {
    for theirs in theirs.as_array().into_iter().flatten() {
        let theirs: Vec<f64> = theirs.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let [steps, count, first, last, sum] = theirs[..] else { return Some("a broken golden file".into()) };
        let run = match ours.run(steps as usize) {
            Ok(run) => run,
            Err(e) => return Some(format!("{steps} steps: {e}")),
        };
        let t = run.timesteps();
        let total: f64 = t.iter().map(|&t| f64::from(t)).sum();
        let ends = [f64::from(t[0]), f64::from(t[t.len() - 1])];
        // an inversion of a flow goes upwards here, and downwards in diffusers
        let sorted = |[a, b]: [f64; 2]| [a.min(b), a.max(b)];
        let [ours_ends, theirs_ends] = [sorted(ends), sorted([first, last])];
        let near = |ours: f64, theirs: f64, most: f64| (ours - theirs).abs() <= 2e-4 * theirs.abs().max(1.0) + most;
        let right =
            t.len() as f64 == count && (0..2).all(|i| near(ours_ends[i], theirs_ends[i], 0.0)) && near(total, sum, 1.0); // one of them may be rounded to the other side
        if !right {
            return Some(format!("{steps} steps: {} timesteps {ends:?} {total}, of diffusers {theirs:?}", t.len()));
        }
    }
    None
}
